"""Group normalisation of `NumpyBackend`, in passes over blocks of whole samples.

The positions of a sample are walked in long rows of several positions, as batch normalisation walks
its pixels, and BLAS makes the sums. A value per group is repeated along such a row, unless there is
one group: then one number serves the whole row.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from math import prod
from typing import NamedTuple

import numpy as np

from gpunet.backends.contract import Array, GroupNorm, Moments
from gpunet.backends.host import memory
from gpunet.backends.numpy.batch_norm import NORM_BLOCK, Parallel, row_pixels
from gpunet.backends.numpy.sums import add_middle, add_rows


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


def forward(x: Array, w: Array | None, b: Array | None, norm: GroupNorm, parallel: Parallel) -> tuple[Array, Moments]:
    """(y, saved) of `group_norm_forward`."""
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

    parallel(work, len(x), x[0].size if len(x) else 1)
    return y, saved


def backward(
    dy: Array, x: Array, w: Array | None, saved: Moments, norm: GroupNorm, parallel: Parallel
) -> tuple[Array, Array, Array]:
    """(dx, dw, db) of `group_norm_backward`, the last two float64."""
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

    dw, db = reduce(np.add, parallel(work, len(x), x[0].size if len(x) else 1), np.zeros((2, layout.c)))
    return dx, dw, db
