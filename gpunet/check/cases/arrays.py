"""Elementwise operations, reductions, movement, casts, and arguments of every kind."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpunet.backends import get_backend
from gpunet.backends.base import BINARY, UNARY
from gpunet.check.cases.case import FAST_AND_SIMPLE, Case, Draw
from gpunet.check.cases.layers import SPECIAL
from gpunet.cuda.instantiations import ELEMENTS, MOVED


def cases(dtype: str) -> Iterator[Case]:
    """In one dtype."""
    draw = Draw("arrays", dtype)
    for name in UNARY:
        yield draw.call("unary", name, SPECIAL, label=name)
    for name in BINARY:
        a, b = draw.rounded(draw.rng.uniform(0.5, 2, (4, 1, 5))), draw.normal(3, 1)
        yield draw.call("binary", name, a, b, label=name)
    for other in ELEMENTS:
        yield draw.call("cast", SPECIAL, other, label=f"to {other}")
    yield draw.call("scale", SPECIAL, np.array([0.5], np.float32), 3.0, single=(1,))
    yield draw.call("scale", SPECIAL, None, 3.0, label="by a number")
    if dtype == "float32":
        yield from _reductions(draw)
        yield from _movement(draw)


def _reductions(draw: Draw) -> Iterator[Case]:
    for shape, axes in (((3, 700), (1,)), ((700, 3), (0,)), ((4, 5, 6), (0, 2))):
        a, label = draw.rng.integers(-9, 9, shape).astype(np.float32), f"{shape} over {axes}"
        yield draw.call("sum", a, axes, label=label, variants=FAST_AND_SIMPLE)
        yield draw.call("max", a, axes, label=label, variants=FAST_AND_SIMPLE)
        y, index = get_backend("reference").max(a, axes)
        yield draw.call("max_backward", draw.normal(*y.shape), index, shape=shape, axes=axes, label=label)


def _movement(draw: Draw) -> Iterator[Case]:
    taken = np.array([2, 0, 2], np.int64)
    for dtype in MOVED:
        a = draw.rng.integers(0, 2, (3, 5)).astype(dtype)
        yield draw.call("full", (3, 5), 1, dtype, label=dtype)
        yield draw.call("transpose", a, (1, 0), label=dtype)
        yield draw.call("take", a, taken, label=dtype)
    yield draw.call("take_backward", draw.normal(3, 5), taken, length=4)
