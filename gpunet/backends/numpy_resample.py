"""Separable resampling of `NumpyBackend`: rows, then columns (or the other way), as sums of strided slices."""

from __future__ import annotations

import numpy as np

from gpunet.backends import host_memory
from gpunet.backends.base import Array
from gpunet.backends.numpy_stretches import Plan, plan_of
from gpunet.resampling import Taps

BLOCK = 1 << 18
"""Elements of images that are taken through both axes at a time: about a second-level cache."""


def resample(x: Array, y: Array, rows: Taps, columns: Taps) -> None:
    """Write y (n, OH, OW, C) of images x (n, H, W, C)."""
    each = max(x[0].size, y[0].size)
    images = max(1, BLOCK // each)
    rows_first = _cost(rows, columns) <= _cost(columns, rows, apart=True)
    passes = [(1, plan_of(rows)), (2, plan_of(columns))]
    if not rows_first:
        passes.reverse()
    shape = (rows.outputs, x.shape[2]) if rows_first else (x.shape[1], columns.outputs)
    between = host_memory.empty((min(images, len(x)), *shape, x.shape[3]), x.dtype)
    unit = passes[0][1].unit * passes[1][1].unit
    for i in range(0, len(x), images):
        source, target = x[i : i + images], y[i : i + images]
        half = between[: len(source)]
        if unit != 1 and x.size < y.size:
            source = _scaled(source, unit)
        _along(*passes[0], source, half)
        _along(*passes[1], half, target)
        if unit != 1 and x.size >= y.size:
            target *= unit


def _along(axis: int, plan: Plan, x: Array, y: Array) -> None:
    """Write y, which is x resampled along one axis, but for the plan's unit."""
    before = (slice(None),) * axis
    sources = {factor: _scaled(x, factor) for factor in plan.shared}
    sources[1.0] = x
    for outputs, sums in plan.stretches:
        out = y[(*before, outputs)]
        if not sums:
            out[...] = 0
        begun = False
        for taps, factor in sums:
            arrays = [sources[source][(*before, pixels)] for source, pixels in taps]
            _add(arrays, factor, out, begun)
            begun = True


def _add(arrays: list[Array], factor: float, out: Array, begun: bool) -> None:
    """out = factor (the sum of the arrays), and of out if it has `begun`."""
    if begun:
        arrays = [out, *arrays]
    if len(arrays) == 1:
        if factor == 1:
            out[...] = arrays[0]
        else:
            np.multiply(arrays[0], factor, out=out)
        return
    np.add(arrays[0], arrays[1], out=out)
    for array in arrays[2:]:
        out += array
    if factor != 1:
        out *= factor


def _scaled(x: Array, factor: float) -> Array:
    y = host_memory.empty(x.shape, x.dtype)
    np.multiply(x, factor, out=y)
    return y


def _cost(first: Taps, then: Taps, *, apart: bool = False) -> int:
    """Pixels that two passes read or write, whichever is more in each. Along columns, the second axis unless those of the first
    are `apart`, they are no neighbours, which takes twice as long."""
    one = max(first.extent, first.outputs) * then.extent
    other = max(then.extent, then.outputs) * first.outputs
    return 2 * one + other if apart else one + 2 * other
