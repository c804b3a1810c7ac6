"""Separable resampling of `NumpyBackend`: rows, then columns (or the other way), as sums of strided slices."""

from __future__ import annotations

import numpy as np

from gpunet.backends import host_memory
from gpunet.backends.base import Array
from gpunet.resampling import Taps

BLOCK = 1 << 18
"""Elements of images that are taken through both axes at a time: about a second-level cache."""


def resample(x: Array, y: Array, rows: Taps, columns: Taps) -> None:
    """Write y (n, OH, OW, C) of images x (n, H, W, C)."""
    each = max(x[0].size, y[0].size)
    images = max(1, BLOCK // each)
    rows_first = _cost(rows, columns.extent) + 2 * _cost(columns, rows.outputs) <= (
        2 * _cost(columns, rows.extent) + _cost(rows, columns.outputs)
    )
    shape = (rows.outputs, x.shape[2]) if rows_first else (x.shape[1], columns.outputs)
    between = host_memory.empty((min(images, len(x)), *shape, x.shape[3]), x.dtype)
    for i in range(0, len(x), images):
        source, target = x[i : i + images], y[i : i + images]
        half = between[: len(source)]
        _along(1 if rows_first else 2, source, half, rows if rows_first else columns)
        _along(2 if rows_first else 1, half, target, columns if rows_first else rows)


def _along(axis: int, x: Array, y: Array, taps: Taps) -> None:
    """Write y, which is x resampled along one axis."""
    before = (slice(None),) * axis
    sources = {weight: _scaled(x, weight) for weight in taps.shared_weights}
    sources[1.0] = x
    for outputs, sums in taps.stretches:
        out = y[(*before, outputs)]
        if not sums:
            out[...] = 0
        begun = False
        for added, factor in sums:
            arrays = [sources[source][(*before, pixels)] for source, pixels in added]
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


def _cost(taps: Taps, lines: int) -> int:
    """Pixels that a pass along one axis reads or writes; along columns they are apart, which takes twice as long."""
    return max(taps.extent, taps.outputs) * lines
