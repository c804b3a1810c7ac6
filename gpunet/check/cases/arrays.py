"""Cases of elementwise operations, reductions, movement and casts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpunet.backends import get_backend
from gpunet.backends.contract import BINARY, COMPARISONS, UNARY, rows_in_order
from gpunet.check.cases.case import FAST_AND_SIMPLE, SPECIAL, Case, Draw
from gpunet.cuda.instantiations import MOVED
from gpunet.cuda.naming import ELEMENTS


def cases(dtype: str) -> Iterator[Case]:
    """The cases in one dtype."""
    draw = Draw("arrays", dtype)
    for name in UNARY:
        yield draw.call("unary", name, SPECIAL, label=name)
    for name in BINARY:
        a, b = draw.rounded(draw.rng.uniform(0.5, 2, (4, 1, 5))), draw.normal(3, 1)
        yield draw.call("binary", name, a, b, label=name)
        yield draw.call("binary", name, SPECIAL, SPECIAL[:, ::-1].copy(), label=f"{name} of special numbers")
    yield from _comparisons(draw)
    for other in ELEMENTS:
        yield draw.call("cast", SPECIAL, other, label=f"to {other}")
    yield draw.call("scale", SPECIAL, np.array([0.5], np.float32), 3.0, single=(1,))
    yield draw.call("scale", SPECIAL, None, 3.0, label="by a number")
    for rows in (3, 100):  # a row in no part, in one, and in several
        taken = np.minimum(draw.rng.integers(0, 20, rows), 9)
        order = rows_in_order(taken, 11)
        yield draw.call("take_backward", draw.normal(rows, 5), *order, label=f"of {rows}", variants=FAST_AND_SIMPLE)
    if dtype == "float32":
        yield from _reductions(draw)
        yield from _movement(draw)


def _comparisons(draw: Draw) -> Iterator[Case]:
    for name in COMPARISONS:
        yield draw.call("compare", name, SPECIAL, SPECIAL[:1].copy(), label=name)
    condition = draw.rng.integers(0, 2, SPECIAL.shape) > 0
    yield draw.call("select", condition, SPECIAL, draw.normal(*SPECIAL.shape))
    yield draw.call("select", condition, SPECIAL, None, label="or 0")
    yield draw.call("select", condition, None, SPECIAL, label="0 or")
    if draw.dtype == "float32":
        for dtype in ("bool", "int64"):
            a, b = (draw.rng.integers(0, 2, shape).astype(dtype) for shape in ((4, 1, 5), (3, 1)))
            yield draw.call("compare", "less", a, b, label=f"less, {dtype}")
        for dtype in ("bool", "int32", "int64"):
            a = draw.rng.integers(-9, 9, (3, 5)).astype(dtype)
            for to in ("float32", "int64"):
                yield draw.call("cast", a, to, label=f"{dtype} to {to}")


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
        large = draw.rng.integers(0, 2, (2, 37, 133)).astype(dtype)
        yield draw.call("transpose", large, (0, 2, 1), label=f"{dtype}, by tiles")
        yield draw.call("take", a, taken, label=dtype)
