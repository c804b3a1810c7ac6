"""Separable resampling of `NumpyBackend`: rows, then columns (or the other way), as sums of strided slices."""

from __future__ import annotations

import numpy as np

from gpunet.backends import host_memory
from gpunet.backends.base import Array
from gpunet.backends.numpy_stretches import Plan, plan_of
from gpunet.resampling import Taps

BLOCK = 1 << 19
"""Elements of images that are taken through both axes at a time: more calls cost more than a second-level cache gains."""


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
    sources = {factor: _Source(_scaled(x, factor), axis) for factor in plan.shared}
    sources[1.0] = _Source(x, axis)
    for outputs, sums in plan.stretches:
        out = y[(slice(None),) * axis + (outputs,)]
        if not sums:
            out[...] = 0
        elif len(sums) == len(sums[0][0]) == 1 and sums[0][1] == 1:
            ((source, pixels),) = sums[0][0]
            out[...] = sources[source].whole[(slice(None),) * axis + (pixels,)]
        else:
            # arithmetic on pixels that are apart takes far longer than to copy them
            total = host_memory.empty(out.shape, out.dtype) if axis == 2 and outputs.step != 1 else out
            _sum([([sources[source].pick(pixels) for source, pixels in taps], factor) for taps, factor in sums], total)
            if total is not out:
                out[...] = total


class _Source:
    """Pixels to add up along one axis. Along the columns those that are some steps apart are copied to be neighbours, once."""

    def __init__(self, whole: Array, axis: int):
        self.whole, self._axis = whole, axis
        self._planes: dict[tuple[int, int], Array] = {}

    def pick(self, pixels: slice) -> Array:
        """The pixels of a slice."""
        if self._axis == 1:
            return self.whole[:, pixels]
        first, step = pixels.start, pixels.step
        if step <= 1:
            return self.whole[:, :, pixels]
        place = first % step, step
        if place not in self._planes:
            part = self.whole[:, :, first % step :: step]
            self._planes[place] = host_memory.empty(part.shape, part.dtype)
            self._planes[place][...] = part
        return self._planes[place][:, :, first // step : (pixels.stop - 1) // step + 1]


def _sum(sums: list[tuple[list[Array], float]], out: Array) -> None:
    """out = the sum of the arrays, after Horner: see `Stretch.sums`."""
    for i, (arrays, factor) in enumerate(sums):
        _add(arrays if i == 0 else [out, *arrays], factor, out)


def _add(arrays: list[Array], factor: float, out: Array) -> None:
    """out = factor (the sum of the arrays, the first of which may be out)."""
    if len(arrays) == 1:
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
