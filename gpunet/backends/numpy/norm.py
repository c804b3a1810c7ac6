"""Normalisations of `NumpyBackend`, in passes over blocks of long rows.

NumPy is slow along short rows, and an image's pixel has few channels. So batch normalisation walks
x (…, C) as a matrix whose rows hold several pixels each, and a value per channel is repeated along
such a row. The moments and sums of the blocks are joined in float64, in the order of the parts that
the threads take.

Group normalisation walks blocks of whole samples, in long rows of several positions, and BLAS makes
the sums. A value per group is repeated along such a row, unless there is one group: then one number
serves the whole row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from math import prod
from typing import Any, NamedTuple

import numpy as np

from gpunet.backends.contract import NEW, Array, BatchNorm, BatchNormGrads, BatchRanks, GroupNorm, Into, Moments
from gpunet.backends.host import memory
from gpunet.backends.host.arrays import deliver_both
from gpunet.backends.host.ranks import sums_over, sums_through_moments
from gpunet.backends.numpy.output_activation import activate, open_activation
from gpunet.backends.numpy.rows import as_rows, row_pixels
from gpunet.backends.numpy.sums import CHUNK, add_middle, add_rows
from gpunet.backends.numpy.threads import NumpyThreads

NORM_BLOCK = 1 << 19
"""Elements of a block. `threads` explains why it is larger than a cache."""
FAR = 4
"""Standard deviations between a mean and 0 from which on the mean is subtracted from x first: in
scale x - scale mean the two would cancel to a few digits."""
NEAR = 2
"""Standard deviations between a mean and 0 up to which sums of x x, or dy x, need no mean subtracted from
x first, which costs them about two of float32's 24 bits."""
Summary = tuple[float, Array, Array]
"""(elements per channel, their mean, their squared distances from it, summed), the last two float64
(C,)."""


class NumpyNorm(NumpyThreads):
    """Batch and group normalisation."""

    def batch_norm_forward(
        self, x: Array, w: Array | None, b: Array | None, running: Moments, norm: BatchNorm, residual: Array | None
    ) -> tuple[Array, Moments]:
        saved, source = running, as_rows(x)
        if norm.training:
            saved, n = self._moments(source, x.shape[-1], norm.ranks)
            update_running(running, saved, n, norm.momentum)
        y = memory.empty(x.shape, x.dtype)
        out, added = as_rows(y), None if residual is None else as_rows(residual)
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

        self._parallel(work, *source.shape)
        return y, saved

    def _moments(self, rows: Array, c: int, ranks: BatchRanks | None) -> tuple[Moments, float]:
        """(the moments of each of C channels, the number of elements per channel)."""

        def work(start: int, stop: int) -> Summary:
            return reduce(_joined, (_summary(rows[i:j], c) for i, j in _blocks(start, stop, rows.shape[1])))

        found = reduce(_joined, self._parallel(work, *rows.shape))
        n, mean, squares = found if ranks is None else of_all_ranks(ranks, *found)
        return Moments(mean.astype(rows.dtype), (squares / n).astype(rows.dtype)), n

    def batch_norm_backward(
        self, dy: Array, x: Array, y: Array | None, w: Array | None, b: Array | None, saved: Moments, norm: BatchNorm,
        into: Into = NEW,
    ) -> BatchNormGrads:  # fmt: skip
        g = dy if norm.activation is None else memory.empty(dy.shape, dy.dtype)
        sums = self._gradient_sums(dy, x, y, g, saved, norm)
        whole = sums_through_moments(norm, *sums, x.size // x.shape[-1])
        dx = memory.empty(x.shape, x.dtype) if norm.residual or g is dy else g
        self._input_gradient(g, x, w, saved, norm, whole, dx)
        return dx, *deliver_both(*sums, into, x.dtype), g if norm.residual else None

    def _gradient_sums(
        self, dy: Array, x: Array, y: Array | None, g: Array, saved: Moments, norm: BatchNorm
    ) -> tuple[Array, Array]:
        """(dw, db), float64 (C,). With an activation, this first pass over dy also writes g."""
        rows, upstream, opened, output = (as_rows(a) for a in (x, dy, g, g if y is None else y))
        mean, c = _along(saved.mean, rows), x.shape[-1]
        near = _is_near(saved.mean, saved.variance)

        def work(start: int, stop: int) -> Array:
            sums, space = np.zeros((2, c)), None if near else _space(rows)
            for i, j in _blocks(start, stop, rows.shape[1]):
                if norm.activation is not None:
                    opened[i:j] = open_activation(upstream[i:j], output[i:j], norm.activation)
                through = _channel_sums(opened[i:j], c)
                if space is None:
                    sums[0] += _channel_products(rows[i:j], opened[i:j], c) - saved.mean * through
                else:
                    centred = np.subtract(rows[i:j], mean, out=space[: j - i])
                    sums[0] += _channel_products(centred, opened[i:j], c)
                sums[1] += through
            return sums

        through_x, through = reduce(np.add, self._parallel(work, *rows.shape), np.zeros((2, c)))
        return through_x * _scale(None, saved, norm), through

    def _input_gradient(
        self, g: Array, x: Array, w: Array | None, saved: Moments, norm: BatchNorm,
        whole: tuple[Array, Array, float] | None, dx: Array,
    ) -> None:  # fmt: skip
        """Write dx, which may be g; `whole` is what `sums_through_moments` gives."""
        rows, upstream, out = (as_rows(a) for a in (x, g, dx))
        scale = _scale(w, saved, norm)
        scale_row = _along(scale, rows)
        if whole is not None:  # dx = scale g - slope x - offset, where slope x + offset = scale (db + h dw) / n
            dw, db, n = whole
            slope = scale * dw * _scale(None, saved, norm) / n
            offset = scale * db / n - slope * saved.mean
            slope_row, offset_row = _along(slope, rows), _along(offset, rows)

        def work(start: int, stop: int) -> None:
            space = _space(rows)
            for i, j in _blocks(start, stop, rows.shape[1]):
                block = np.multiply(upstream[i:j], scale_row, out=out[i:j])
                if whole is not None:
                    term = np.multiply(rows[i:j], slope_row, out=space[: j - i])
                    term += offset_row
                    block -= term

        self._parallel(work, *rows.shape)

    def group_norm_forward(self, x: Array, w: Array | None, b: Array | None, norm: GroupNorm) -> tuple[Array, Moments]:
        layout, y = SampleRows.of(x, norm.num_groups), memory.empty(x.shape, x.dtype)
        saved = Moments(*(np.empty((len(x), norm.num_groups), x.dtype) for _ in range(2)))
        source, out = layout.view(x), layout.view(y)
        scale, shift = (None if a is None else layout.repeated(a) for a in (w, b))

        def work(start: int, stop: int) -> None:
            for part in layout.blocks(start, stop):
                near = layout.by_group(layout.by_channel(source[part])) / layout.size
                block = np.subtract(source[part], layout.along(near), out=out[part])
                off = layout.by_group(layout.by_channel(block)) / layout.size  # the mean's rounding error
                block -= layout.along(off)
                variance = layout.by_group(layout.by_channel(block * block)) / layout.size
                saved.mean[part], saved.variance[part] = near + off, variance
                block *= layout.along(1 / np.sqrt(variance + norm.eps))
                if scale is not None:
                    block *= scale
                if shift is not None:
                    block += shift

        self._parallel(work, len(x), x[0].size if len(x) else 1)
        return y, saved

    def group_norm_backward(
        self, dy: Array, x: Array, w: Array | None, saved: Moments, norm: GroupNorm, into: Into = NEW
    ) -> tuple[Array, Array, Array]:
        layout, dx = SampleRows.of(x, norm.num_groups), memory.empty(x.shape, x.dtype)
        source, upstream, out = (layout.view(a) for a in (x, dy, dx))
        scale = None if w is None else layout.repeated(w)

        def group_means(of_channels: Array) -> Array:
            """Means of d or of d h over groups, from the sums of dy or of dy h over channels."""
            return layout.by_group(of_channels if w is None else of_channels * w) / layout.size

        def work(start: int, stop: int) -> Array:
            sums = np.zeros((2, layout.c))
            for part in layout.blocks(start, stop):
                inverse = 1 / np.sqrt(saved.variance[part] + norm.eps)
                h = source[part] - layout.along(saved.mean[part])
                h *= layout.along(inverse)
                block = np.multiply(upstream[part], h, out=out[part])
                sum_dyh, sum_dy = layout.by_channel(block), layout.by_channel(upstream[part])
                sums += add_rows(sum_dyh), add_rows(sum_dy)
                mean_dh, mean_d = group_means(sum_dyh), group_means(sum_dy)
                # dx = inverse (d - mean_d - h mean_dh); sum_dyh, which may be a view of the block, is
                # not needed any more
                h *= layout.along(mean_dh)
                h += layout.along(mean_d)
                if scale is None:
                    np.subtract(upstream[part], h, out=block)
                else:
                    np.multiply(upstream[part], scale, out=block)
                    block -= h
                block *= layout.along(inverse)
            return sums

        dw, db = reduce(np.add, self._parallel(work, len(x), x[0].size if len(x) else 1), np.zeros((2, layout.c)))
        return dx, *deliver_both(dw, db, into, x.dtype)


def _summary(block: Array, c: int) -> Summary:
    """Summary of the elements of one block."""
    n = block.size // c
    mean = _channel_sums(block, c) / n
    squares = _channel_products(block, block, c) - n * mean * mean
    if not _is_near(mean, squares / n):
        mean = mean.astype(block.dtype).astype(np.float64)
        centred = np.subtract(block, _along(mean, block), out=memory.empty(block.shape, block.dtype))
        off = _channel_sums(centred, c) / n  # the mean's rounding error
        mean, squares = mean + off, _channel_products(centred, centred, c) - n * off * off
    return n, mean, squares


def _is_near(mean: Array, variance: Array) -> bool:
    """Whether no channel's mean is farther from 0 than `NEAR` standard deviations, as far as float32 can tell."""
    near = mean * mean <= NEAR * NEAR * variance
    return bool((near & np.isfinite(variance)).all())


def _joined(a: Summary, b: Summary) -> Summary:
    """Summary of two sets of elements together (Chan, Golub & LeVeque 1983, equation 1.5)."""
    n, distance = a[0] + b[0], b[1] - a[1]
    return n, a[1] + distance * (b[0] / n), a[2] + b[2] + distance * distance * (a[0] * b[0] / n)


def of_all_ranks(ranks: BatchRanks, n: float, mean: Array, squares: Array) -> Summary:
    """Summary of the elements of all ranks, from that of this rank's."""
    return together(n, mean, squares, lambda *terms: sums_over(ranks, *terms))


def together(n: Any, mean: Array, squares: Array, add: Callable[..., Sequence[Any]]) -> Summary:
    """Summary of any number of sets of elements, from their summaries: `_joined`, in two passes over the sets.

    Args:
        add: the sums of terms over the sets.
    """
    total, weighted = add(n, n * mean)
    whole = weighted / total
    (squares,) = add(squares + n * (mean - whole) ** 2)
    return total, whole, squares


def update_running(running: Moments, saved: Moments, n: float, momentum: float) -> None:
    """Let the running moments follow those of n elements, in place."""
    mean, variance = running
    mean += momentum * (saved.mean - mean)
    variance += momentum * (saved.variance * (n / (n - 1)) - variance)


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


def _channel_products(a: Array, b: Array, c: int) -> Array:
    """Sums of a b of each channel, float64 (C,), without the array of the products."""
    whole = len(a) // CHUNK * CHUNK
    chunks = (part[:whole].reshape(-1, CHUNK, part.shape[1]) for part in (a, b))
    pixels = np.einsum("kij,kij->kj", *chunks).sum(axis=0, dtype=np.float64)
    pixels += np.einsum("ij,ij->j", a[whole:], b[whole:])
    return add_rows(pixels.reshape(-1, c))


def _space(rows: Array) -> Array:
    """Memory for a temporary array of a block, which costs more to allocate than to compute."""
    return memory.empty((max(1, NORM_BLOCK // rows.shape[1]), rows.shape[1]), rows.dtype)


def _blocks(start: int, stop: int, length: int) -> Iterator[tuple[int, int]]:
    """(first row, last row + 1) of each block of rows of a length."""
    step = max(1, NORM_BLOCK // length)
    return ((i, min(i + step, stop)) for i in range(start, stop, step))


class SampleRows(NamedTuple):
    """The view of x (N, …, C) as (N, rows, length), in which a row holds several positions."""

    rows: int
    """Rows per sample."""
    pixels: int
    """Positions per row."""
    c: int
    groups: int

    @staticmethod
    def of(x: Array, groups: int) -> SampleRows:
        """The view of one x."""
        positions = prod(x.shape[1:-1])
        pixels = row_pixels(positions, x.shape[-1]) if positions else 1
        return SampleRows(positions // pixels, pixels, x.shape[-1], groups)

    @property
    def size(self) -> int:
        """Elements per group of a sample."""
        return self.rows * self.pixels * self.c // self.groups

    def view(self, a: Array) -> Array:
        """An array of x's shape as (N, rows, length)."""
        return a.reshape(len(a), self.rows, self.pixels * self.c)

    def blocks(self, start: int, stop: int) -> Iterator[slice]:
        """Slices of the samples start … stop - 1, each of as many samples as make a block."""
        step = max(1, NORM_BLOCK // max(1, self.rows * self.pixels * self.c))
        return (slice(i, min(i + step, stop)) for i in range(start, stop, step))

    def by_channel(self, block: Array) -> Array:
        """Sums (B, C) of a block (B, rows, length) over the positions of each sample."""
        sums = block[:, 0] if self.rows == 1 else add_middle(block)
        return sums if self.pixels == 1 else add_middle(sums.reshape(-1, self.pixels, self.c))

    def by_group(self, of_channels: Array) -> Array:
        """Sums (B, groups) of values (B, C) over the channels of each group."""
        width = self.c // self.groups
        return add_middle(of_channels.reshape(-1, width, 1)).reshape(-1, self.groups)

    def along(self, of_groups: Array) -> Array:
        """Values (B, groups) repeated along rows: (B, 1, length), or (B, 1, 1) of one group."""
        if self.groups == 1:
            return of_groups[:, :, None]
        return np.tile(of_groups.repeat(self.c // self.groups, axis=1), self.pixels)[:, None]

    def repeated(self, of_channels: Array) -> Array:
        """Values (C,) repeated along a row: (length,)."""
        return np.tile(of_channels, self.pixels)
