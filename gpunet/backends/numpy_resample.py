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
    rows_first = rows.outputs * columns.extent <= rows.extent * columns.outputs  # whichever leaves less between the two
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
    weighed = {weight: _scaled(x, weight) for weight in taps.shared_weights}
    for stretch in taps.stretches:
        terms: dict[float, list[Array]] = {}
        for weight, slices in stretch.parts:
            source, factor = (weighed[weight], 1.0) if weight in weighed else (x, weight)
            terms.setdefault(factor, []).extend(source[(*before, part)] for part in slices)
        _write(terms, y[(*before, stretch.outputs)])


def _write(terms: dict[float, list[Array]], out: Array) -> None:
    """out = the sum of the sums of arrays by their factors."""
    if not terms:
        out[...] = 0
        return
    (factor, arrays), *others = terms.items()
    _sum(arrays, factor, out)
    for factor, arrays in others:
        more = host_memory.empty(out.shape, out.dtype)
        _sum(arrays, factor, more)
        out += more


def _sum(arrays: list[Array], factor: float, out: Array) -> None:
    """out = factor (the sum of the arrays)."""
    first, *others = arrays
    if not others and factor != 1:
        np.multiply(first, out.dtype.type(factor), out=out)
    elif not others:
        out[...] = first
    else:
        np.add(first, others[0], out=out)
        for array in others[1:]:
            out += array
        if factor != 1:
            out *= out.dtype.type(factor)


def _scaled(x: Array, factor: float) -> Array:
    y = host_memory.empty(x.shape, x.dtype)
    np.multiply(x, x.dtype.type(factor), out=y)
    return y
