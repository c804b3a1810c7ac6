"""Batch normalisation of `NumpyBackend`: passes over rows of whole pixels, in blocks.

NumPy is slow along few channels, so (…, C) is walked as a matrix whose rows hold several pixels, and what belongs to a channel
is repeated along a row. Moments and sums of blocks are joined in float64, in the order of the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, reduce
from typing import Any

import numpy as np

from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.norm import Moments
from gpunet.backends.host import memory
from gpunet.backends.numpy.sums import add_rows

BLOCK = 1 << 19
"""Elements of a block. See `threads` on the length of calls."""
ROW = 1 << 13
"""Elements of a row at most, if a pixel has fewer: a repeated row stays in the first-level cache."""
FAR = 4
"""Deviations from which on a mean is taken from x first: scale x and scale mean would cancel to a few digits."""
Parallel = Callable[[Callable[[int, int], Any], int, int], list[Any]]
"""`NumpyBackend._parallel`."""
Summary = tuple[int, Array, Array]
"""Elements a channel, their mean and their squared distances from it, summed; float64 (C,)."""


def as_rows(a: Array) -> Array:
    """(…, C) as a matrix of long rows, each of as many whole pixels."""
    return a.reshape(-1, row_pixels(a.size // a.shape[-1], a.shape[-1]) * a.shape[-1])


@lru_cache(maxsize=256)
def row_pixels(pixels: int, c: int) -> int:
    """Pixels of a row: as many as divide all and leave it short."""
    return next((p for p in range(min(pixels, ROW // c), 1, -1) if pixels % p == 0), 1)


def moments(x: Array, parallel: Parallel) -> tuple[Moments, int]:
    """Mean and biased variance of each channel of x (…, C), and n: the elements that share a channel."""
    rows, c = as_rows(x), x.shape[-1]

    def work(start: int, stop: int) -> Summary:
        space = _space(rows)
        return reduce(_joined, (_summary(rows[i:j], c, space) for i, j in _blocks(start, stop, rows.shape[1])))

    n, mean, squares = reduce(_joined, parallel(work, *rows.shape))
    return Moments(mean.astype(x.dtype), (squares / n).astype(x.dtype)), n


def _summary(block: Array, c: int, space: Array) -> Summary:
    n = block.size // c
    mean = _channel_sums(block, c) / n
    centred = np.subtract(block, _along(mean, block), out=space[: len(block)])
    centred *= centred
    return n, mean, _channel_sums(centred, c)


def _joined(a: Summary, b: Summary) -> Summary:
    """Summary of both sets of elements (Chan, Golub & LeVeque 1983, equation 1.5)."""
    n, distance = a[0] + b[0], b[1] - a[1]
    return n, a[1] + distance * (b[0] / n), a[2] + b[2] + distance * distance * (a[0] * b[0] / n)


def normalize(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    saved: Moments,
    eps: float,
    residual: Array | None,
    activate: Callable[[Array], None] | None,
    parallel: Parallel,
) -> Array:
    """y of `Backend.batch_norm_forward`; `activate` changes a block in place."""
    y = memory.empty(x.shape, x.dtype)
    source, out = as_rows(x), as_rows(y)
    added = None if residual is None else as_rows(residual)
    scale, shift = _scale(gamma, saved, eps), np.zeros(len(saved.mean)) if beta is None else beta
    centre_row = None
    if (np.abs(saved.mean) > FAR * np.sqrt(saved.variance + eps)).any():
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
            if activate is not None:
                activate(block)

    parallel(work, *source.shape)
    return y


def gradient_sums(
    g: Array, x: Array, saved: Moments, eps: float, fill: Callable[[int, int], None] | None, parallel: Parallel
) -> tuple[Array, Array]:
    """(dgamma, dbeta) of `Backend.batch_norm_backward`, float64 (C,); `fill` writes rows i to j of g before they are read."""
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

    dgamma, dbeta = reduce(np.add, parallel(work, *rows.shape), np.zeros((2, c)))
    return dgamma * _scale(None, saved, eps), dbeta


def input_gradient(
    g: Array,
    x: Array,
    gamma: Array | None,
    saved: Moments,
    eps: float,
    sums: tuple[Array, Array] | None,
    out: Array,
    parallel: Parallel,
) -> None:
    """Write dx of `Backend.batch_norm_backward` to `out`, which may be g; `sums` are (dgamma, dbeta), None in inference."""
    rows, dy, dx = as_rows(x), as_rows(g), as_rows(out)
    scale = _scale(gamma, saved, eps)
    scale_row = _along(scale, rows)
    if sums is not None:  # dx = scale g - slope x - offset, where slope x + offset = scale (dbeta + h dgamma) / n
        n, (dgamma, dbeta) = x.size // x.shape[-1], sums
        slope = scale * dgamma * _scale(None, saved, eps) / n
        offset = scale * dbeta / n - slope * saved.mean
        slope_row, offset_row = _along(slope, rows), _along(offset, rows)

    def work(start: int, stop: int) -> None:
        space = _space(rows)
        for i, j in _blocks(start, stop, rows.shape[1]):
            block = np.multiply(dy[i:j], scale_row, out=dx[i:j])
            if sums is not None:
                term = np.multiply(rows[i:j], slope_row, out=space[: j - i])
                term += offset_row
                block -= term

    parallel(work, *rows.shape)


def _scale(gamma: Array | None, saved: Moments, eps: float) -> Array:
    """gamma / sqrt(variance + eps), float64."""
    inverse = 1 / np.sqrt(saved.variance.astype(np.float64) + eps)
    return inverse if gamma is None else gamma * inverse


def _along(values: Array, rows: Array) -> Array:
    """A value a channel, repeated along a row."""
    return np.tile(values.astype(rows.dtype), rows.shape[1] // len(values))


def _channel_sums(block: Array, c: int) -> Array:
    """float64 (C,). BLAS adds the rows, then the pixels of one."""
    pixels = add_rows(block).reshape(-1, c)
    return add_rows(pixels).astype(np.float64)


def _space(rows: Array) -> Array:
    """Memory for one block: taken anew for each, it would cost more than the arithmetic."""
    return memory.empty((max(1, BLOCK // rows.shape[1]), rows.shape[1]), rows.dtype)


def _blocks(start: int, stop: int, length: int) -> Iterator[tuple[int, int]]:
    step = max(1, BLOCK // length)
    return ((i, min(i + step, stop)) for i in range(start, stop, step))
