"""Group normalisation of `NumpyBackend`: passes over blocks of whole samples.

A sample's positions are walked in long rows of several, as batch normalisation walks its pixels; sums are BLAS's. What belongs
to a group is repeated along such a row, but where there is one group: then it stands for the whole row as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from math import prod
from typing import NamedTuple

import numpy as np

from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.norm import Moments
from gpunet.backends.host import memory
from gpunet.backends.numpy.batch_norm import BLOCK, Parallel, row_pixels
from gpunet.backends.numpy.sums import add_middle, add_rows


class Form(NamedTuple):
    """x (N, …, C) as (N, rows, length): each row several positions' channels."""

    rows: int
    pixels: int
    """Positions of a row."""
    c: int
    groups: int

    @staticmethod
    def of(x: Array, groups: int) -> Form:
        """The form for an x."""
        positions = prod(x.shape[1:-1])
        pixels = row_pixels(positions, x.shape[-1]) if positions else 1
        return Form(positions // pixels, pixels, x.shape[-1], groups)

    @property
    def size(self) -> int:
        """Elements of a group of a sample."""
        return self.rows * self.pixels * self.c // self.groups

    def view(self, a: Array) -> Array:
        """(N, rows, length)."""
        return a.reshape(len(a), self.rows, self.pixels * self.c)

    def blocks(self, start: int, stop: int) -> Iterator[slice]:
        """Samples start … stop - 1, as many at once as make a block."""
        step = max(1, BLOCK // max(1, self.rows * self.pixels * self.c))
        return (slice(i, min(i + step, stop)) for i in range(start, stop, step))

    def by_channel(self, block: Array) -> Array:
        """Sums (B, C) of a block (B, rows, length) over its samples' positions."""
        sums = block[:, 0] if self.rows == 1 else add_middle(block)
        return sums if self.pixels == 1 else add_middle(sums.reshape(-1, self.pixels, self.c))

    def by_group(self, of_channels: Array) -> Array:
        """Sums (B, groups) of (B, C) over a group's channels."""
        width = self.c // self.groups
        return add_middle(of_channels.reshape(-1, width, 1)).reshape(-1, self.groups)

    def along(self, of_groups: Array) -> Array:
        """(B, groups) as what stands along rows: (B, 1, 1), or (B, 1, length)."""
        if self.groups == 1:
            return of_groups[:, :, None]
        return np.tile(of_groups.repeat(self.c // self.groups, axis=1), self.pixels)[:, None]

    def repeated(self, of_channels: Array) -> Array:
        """(C,) along a row."""
        return np.tile(of_channels, self.pixels)


def forward(
    x: Array, gamma: Array | None, beta: Array | None, groups: int, eps: float, parallel: Parallel
) -> tuple[Array, Moments]:
    """`Backend.group_norm_forward`."""
    form, y = Form.of(x, groups), memory.empty(x.shape, x.dtype)
    saved = Moments(np.empty((len(x), groups), x.dtype), np.empty((len(x), groups), x.dtype))
    source, out = form.view(x), form.view(y)
    scale, shift = (None if a is None else form.repeated(a) for a in (gamma, beta))

    def work(start: int, stop: int) -> None:
        for part in form.blocks(start, stop):
            near = form.by_group(form.by_channel(source[part])) / form.size
            block = np.subtract(source[part], form.along(near), out=out[part])
            off = form.by_group(form.by_channel(block)) / form.size  # what rounding left of the mean
            block -= form.along(off)
            variance = form.by_group(form.by_channel(block * block)) / form.size
            saved.mean[part], saved.variance[part] = near + off, variance
            block *= form.along(1 / np.sqrt(variance + eps))
            if scale is not None:
                block *= scale
            if shift is not None:
                block += shift

    parallel(work, len(x), x[0].size if len(x) else 1)
    return y, saved


def backward(
    dy: Array, x: Array, gamma: Array | None, saved: Moments, groups: int, eps: float, parallel: Parallel
) -> tuple[Array, Array, Array]:
    """(dx, dgamma, dbeta) of `Backend.group_norm_backward`, the last two float64."""
    form, dx = Form.of(x, groups), memory.empty(x.shape, x.dtype)
    source, upstream, out = (form.view(a) for a in (x, dy, dx))
    scale = None if gamma is None else form.repeated(gamma)

    def grouped(of_channels: Array) -> Array:
        """Means of d or d h over groups, of the sums of dy or dy h."""
        return form.by_group(of_channels if gamma is None else of_channels * gamma) / form.size

    def work(start: int, stop: int) -> Array:
        sums = np.zeros((2, form.c))
        for part in form.blocks(start, stop):
            inverse = 1 / np.sqrt(saved.variance[part] + eps)
            h = source[part] - form.along(saved.mean[part])
            h *= form.along(inverse)
            block = np.multiply(upstream[part], h, out=out[part])
            through_h, through = form.by_channel(block), form.by_channel(upstream[part])
            sums += add_rows(through_h), add_rows(through)
            slope, offset = grouped(through_h), grouped(through)
            # dx = inverse (d - offset - h slope); through_h is read first, for it may be a view of the block
            h *= form.along(slope)
            h += form.along(offset)
            if scale is None:
                np.subtract(upstream[part], h, out=block)
            else:
                np.multiply(upstream[part], scale, out=block)
                block -= h
            block *= form.along(inverse)
        return sums

    dgamma, dbeta = reduce(np.add, parallel(work, len(x), x[0].size if len(x) else 1), np.zeros((2, form.c)))
    return dx, dgamma, dbeta
