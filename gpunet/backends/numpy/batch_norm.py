"""Batch normalisation of `NumpyBackend`, in passes over blocks of long rows.

NumPy is slow along short rows, and an image's pixel has few channels. So x (…, C) is walked as a
matrix whose rows hold several pixels each, and a value per channel is repeated along such a row.
The moments and sums of the blocks are joined in float64, in the order of the parts that the threads
take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, reduce
from typing import Any

import numpy as np

from gpunet.backends.contract import Array, BatchNorm, Moments
from gpunet.backends.host import memory
from gpunet.backends.numpy.output_activation import activate
from gpunet.backends.numpy.sums import add_rows

NORM_BLOCK = 1 << 19
"""Elements of a block. `threads` explains why it is larger than a cache."""
ROW = 1 << 13
"""Elements of a row at most, unless one pixel has more: a repeated row then stays in the
first-level cache."""
FAR = 4
"""Standard deviations between a mean and 0 from which on the mean is subtracted from x first: in
scale x - scale mean the two would cancel to a few digits."""
Parallel = Callable[[Callable[[int, int], Any], int, int], list[Any]]
"""The type of `NumpyThreads._parallel`."""
Summary = tuple[int, Array, Array]
"""(elements per channel, their mean, their squared distances from it, summed), the last two float64
(C,)."""


def as_rows(a: Array) -> Array:
    """View a (…, C) as a matrix of long rows, each of the same number of whole pixels."""
    return a.reshape(-1, row_pixels(a.size // a.shape[-1], a.shape[-1]) * a.shape[-1])


@lru_cache(maxsize=256)
def row_pixels(pixels: int, c: int) -> int:
    """Pixels per row: the largest divisor of all pixels that keeps a row within `ROW` elements."""
    return next((p for p in range(min(pixels, ROW // c), 1, -1) if pixels % p == 0), 1)


def moments(x: Array, parallel: Parallel) -> tuple[Moments, int]:
    """(moments of each channel of x (…, C), the number of elements per channel)."""
    rows, c = as_rows(x), x.shape[-1]

    def work(start: int, stop: int) -> Summary:
        space = _space(rows)
        return reduce(_joined, (_summary(rows[i:j], c, space) for i, j in _blocks(start, stop, rows.shape[1])))

    n, mean, squares = reduce(_joined, parallel(work, *rows.shape))
    return Moments(mean.astype(x.dtype), (squares / n).astype(x.dtype)), n


def _summary(block: Array, c: int, space: Array) -> Summary:
    """Summary of the elements of one block; `space` holds a temporary array."""
    n = block.size // c
    mean = _channel_sums(block, c) / n
    centred = np.subtract(block, _along(mean, block), out=space[: len(block)])
    centred *= centred
    return n, mean, _channel_sums(centred, c)


def _joined(a: Summary, b: Summary) -> Summary:
    """Summary of two sets of elements together (Chan, Golub & LeVeque 1983, equation 1.5)."""
    n, distance = a[0] + b[0], b[1] - a[1]
    return n, a[1] + distance * (b[0] / n), a[2] + b[2] + distance * distance * (a[0] * b[0] / n)


def normalize(
    x: Array,
    w: Array | None,
    b: Array | None,
    saved: Moments,
    norm: BatchNorm,
    residual: Array | None,
    parallel: Parallel,
) -> Array:
    """y of `batch_norm_forward`."""
    y = memory.empty(x.shape, x.dtype)
    source, out = as_rows(x), as_rows(y)
    added = None if residual is None else as_rows(residual)
    scale, shift = _scale(w, saved, norm), np.zeros(len(saved.mean)) if b is None else b
    centre_row = None
    if (np.abs(saved.mean) > FAR * np.sqrt(saved.variance + norm.eps)).any():
        centre_row = _along(saved.mean, source)
    else:  # y = scale x + shift: two passes instead of three
        shift = shift - scale * saved.mean
    scale_row, shift_row = _along(scale, source), _along(shift, source)

    def work(start: int, stop: int) -> None:
        for i, j in _blocks(start, stop, source.shape[1]):
            if centre_row is None:
                block = np.multiply(source[i:j], scale_row, out=out[i:j])
            else:
                block = np.subtract(source[i:j], centre_row, out=out[i:j])
                block *= scale_row
            block += shift_row
            if added is not None:
                block += added[i:j]
            if norm.activation is not None:
                activate(block, norm.activation, out=block)

    parallel(work, *source.shape)
    return y


def gradient_sums(
    g: Array, x: Array, saved: Moments, norm: BatchNorm, fill: Callable[[int, int], None] | None, parallel: Parallel
) -> tuple[Array, Array]:
    """(dw, db) of `batch_norm_backward`, float64 (C,).

    Args:
        fill: writes rows i to j of g before they are read, if g is not complete yet.
    """
    rows, dy, c = as_rows(x), as_rows(g), x.shape[-1]
    mean = _along(saved.mean, rows)

    def work(start: int, stop: int) -> Array:
        sums, space = np.zeros((2, c)), _space(rows)
        for i, j in _blocks(start, stop, rows.shape[1]):
            if fill is not None:
                fill(i, j)
            centred = np.subtract(rows[i:j], mean, out=space[: j - i])
            centred *= dy[i:j]
            sums[0] += _channel_sums(centred, c)
            sums[1] += _channel_sums(dy[i:j], c)
        return sums

    through_x, through = reduce(np.add, parallel(work, *rows.shape), np.zeros((2, c)))
    return through_x * _scale(None, saved, norm), through


def input_gradient(
    g: Array,
    x: Array,
    w: Array | None,
    saved: Moments,
    norm: BatchNorm,
    sums: Sequence[Array],
    out: Array,
    parallel: Parallel,
) -> None:
    """Write dx of `batch_norm_backward` to `out`, which may be g; `sums` are (dw, db)."""
    rows, dy, dx = as_rows(x), as_rows(g), as_rows(out)
    scale = _scale(w, saved, norm)
    scale_row = _along(scale, rows)
    if norm.training:  # dx = scale g - slope x - offset, where slope x + offset = scale (db + h dw) / n
        n, (dw, db) = x.size // x.shape[-1], sums
        slope = scale * dw * _scale(None, saved, norm) / n
        offset = scale * db / n - slope * saved.mean
        slope_row, offset_row = _along(slope, rows), _along(offset, rows)

    def work(start: int, stop: int) -> None:
        space = _space(rows)
        for i, j in _blocks(start, stop, rows.shape[1]):
            block = np.multiply(dy[i:j], scale_row, out=dx[i:j])
            if norm.training:
                term = np.multiply(rows[i:j], slope_row, out=space[: j - i])
                term += offset_row
                block -= term

    parallel(work, *rows.shape)


def _scale(w: Array | None, saved: Moments, norm: BatchNorm) -> Array:
    """w / sqrt(variance + eps), float64."""
    inverse = 1 / np.sqrt(saved.variance.astype(np.float64) + norm.eps)
    return inverse if w is None else w * inverse


def _along(values: Array, rows: Array) -> Array:
    """Values (C,) repeated along a row, in the dtype of the rows."""
    return np.tile(values.astype(rows.dtype), rows.shape[1] // len(values))


def _channel_sums(block: Array, c: int) -> Array:
    """Sums of each channel, float64 (C,).

    BLAS adds the rows first, then the pixels of the row that is left.
    """
    pixels = add_rows(block).reshape(-1, c)
    return add_rows(pixels).astype(np.float64)


def _space(rows: Array) -> Array:
    """Memory for a temporary array of a block, which costs more to allocate than to compute."""
    return memory.empty((max(1, NORM_BLOCK // rows.shape[1]), rows.shape[1]), rows.dtype)


def _blocks(start: int, stop: int, length: int) -> Iterator[tuple[int, int]]:
    """(first row, last row + 1) of each block of rows of a length."""
    step = max(1, NORM_BLOCK // length)
    return ((i, min(i + step, stop)) for i in range(start, stop, step))
