"""Geometries that Hypothesis draws: height unlike width, channels unlike filters, remainders, every option."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from gpunet.geometry import Geometry

seeds = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class ConvCase:
    x_shape: tuple
    w_shape: tuple
    options: tuple
    seed: int

    @property
    def arguments(self):
        return dict(self.options)

    @property
    def geometry(self):
        return Geometry.conv(self.x_shape, self.w_shape, **self.arguments)

    @property
    def rng(self):
        return np.random.default_rng(self.seed)


@dataclass(frozen=True)
class PoolCase:
    x_shape: tuple
    window: tuple
    options: tuple
    seed: int

    @property
    def arguments(self):
        return dict(self.options)

    @property
    def geometry(self):
        return Geometry.pool(self.x_shape, self.window, **self.arguments)

    @property
    def rng(self):
        return np.random.default_rng(self.seed)


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


def _sides(draw, bound):
    """A padding argument, and the pixels of it on each side that are sure, no more than `bound` on an axis."""
    kind = draw(st.sampled_from(["none", "int", "pair", "sides", "same", "valid"]))
    if kind == "int":
        p = draw(st.integers(0, min(bound)))
        return p, ((p, p), (p, p))
    if kind == "pair":
        p, q = draw(st.integers(0, bound[0])), draw(st.integers(0, bound[1]))
        return (p, q), ((p, p), (q, q))
    if kind == "sides":
        sides = tuple((draw(st.integers(0, b)), draw(st.integers(0, b))) for b in bound)
        return sides, sides
    return {"none": 0}.get(kind, kind), ((0, 0), (0, 0))


@st.composite
def convolutions(draw):
    """A convolution of at most a few thousand products."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    # now and then channels so many that a backend may take another way
    channels = groups * draw(st.sampled_from([1, 2, 3, 1, 2, 3, 11, 17]))
    filters = groups * draw(st.sampled_from([1, 2, 3, 4, 1, 2, 3, 4, 19]))
    window, stride, dilation = draw(pairs(1, 4)), draw(pairs(1, 3)), draw(pairs(1, 2))
    effective = [d * (f - 1) + 1 for f, d in zip(window, dilation, strict=True)]
    padding, sides = _sides(draw, [e + 1 for e in effective])  # whole windows may lie in the padding
    extents = [
        max(1, 1 if padding == "same" else e - sum(side)) + draw(st.integers(0, 5))
        for e, side in zip(effective, sides, strict=True)
    ]
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    x_shape = (draw(st.integers(1, 3)), *extents, channels)
    return ConvCase(x_shape, (*window, channels // groups, filters), tuple(options.items()), draw(seeds))


@st.composite
def pools(draw):
    """A pooling, overlapping or with gaps between its windows."""
    window = draw(pairs(1, 4))
    stride = draw(st.one_of(st.none(), pairs(1, 5)))
    padding, sides = _sides(draw, [f - 1 for f in window])
    extents = [
        max(1, 1 if padding == "same" else f - sum(side)) + draw(st.integers(0, 6))
        for f, side in zip(window, sides, strict=True)
    ]
    x_shape = (draw(st.integers(1, 3)), *extents, draw(st.integers(1, 4)))
    return PoolCase(x_shape, window, (("stride", stride), ("padding", padding)), draw(seeds))
