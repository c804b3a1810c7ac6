"""Convolution with many channels: windows copied into the rows of a matrix, which BLAS multiplies with the filters."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.gate import Gate
from gpunet.backends.host import memory
from gpunet.backends.numpy.conv.form import finish, group_slice, ranges, reached
from gpunet.backends.numpy.gate import opened
from gpunet.backends.numpy.sums import Total, add_rows, multiply
from gpunet.backends.numpy.threads import BLOCK
from gpunet.geometry import Geometry

IMAGES = 1 << 19
"""Elements of the pixels that are taken at a time through bias, activation and pool, in calls long enough to be worth it."""


class Columns:
    """Windows of images as the rows of a matrix: (pixels of the output, KH KW C // groups), so that a product with the
    filters is the convolution ("im2col", Chellapilla et al. 2006). Holds the memory for one block of images: one a thread.
    """

    def __init__(self, geometry: Geometry, dtype: Any):
        self.geometry = geometry
        self.dtype = np.dtype(dtype)
        self.channels = geometry.x_shape[3] // geometry.groups
        self.taps = geometry.window[0] * geometry.window[1] * self.channels
        # Copies run along the window's row, KW C elements, or, where that is short, along the output's row
        self.tap_major = geometry.window[1] * self.channels < 16 and geometry.stride == (1, 1)
        self._padded: Array | None = None
        self._matrix: Array | None = None

    def blocks(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Ranges of images whose pixels fill about a block: what is done before and after the products."""
        _, oh, ow, filters = self.geometry.y_shape
        return ranges(start, stop, IMAGES // (oh * ow * filters))

    def _pieces(self, count: int) -> list[tuple[int, int]]:
        """Ranges of so many images whose columns fill about a block."""
        _, oh, ow, _ = self.geometry.y_shape
        return ranges(0, count, count if self.geometry.pointwise else BLOCK // (oh * ow * self.taps))

    def forward(
        self,
        x: Array,
        w: Array,
        b: Array | None,
        activation: Activation | None,
        pool: Geometry | None,
        y: Array,
        mask: Array | None,
    ) -> None:
        """See `Form`."""
        g = self.geometry
        whole = y if pool is None else memory.empty((len(x), *g.y_shape[1:]), self.dtype)
        filters = w.reshape(self.taps, g.filters)
        for first, last in self._pieces(len(x)):
            flat = whole[first:last].reshape(-1, g.filters)
            for i, matrix in enumerate(self.fill(x[first:last])):
                span = group_slice(i, g.groups, g.filters)
                np.matmul(matrix, filters[:, span], out=flat[:, span])
        finish(whole, b, activation, pool, y, mask)

    def weight_grad(self, dy: Array, x: Array, gate: Gate | None, dw: Total, db: Total | None) -> None:
        """See `Form`."""
        g = self.geometry
        dy = opened(dy, gate)
        flat = dw.recent.reshape(self.taps, g.filters)
        for first, last in self._pieces(len(x)):
            rows = dy[first:last].reshape(-1, g.filters)
            for i, column in enumerate(self.fill(x[first:last])):
                span = group_slice(i, g.groups, g.filters)
                flat[:, span] += multiply(column.T, rows[:, span], g.pixels)
            dw.count()
        if db is not None:
            db.recent += add_rows(dy.reshape(-1, g.filters))
            db.count()

    def input_grad(self, dy: Array, w: Array, gate: Gate | None, dx: Array) -> None:
        """See `Form`. For what has no `turned_geometry`, which is faster."""
        g = self.geometry
        (top, bottom), (left, right) = g.padding
        _, h, width, c = g.x_shape
        shape = (len(dy), top + h + bottom, left + width + right, c)
        padded = memory.empty(shape, self.dtype) if g.padded else dx
        padded[...] = 0
        block = opened(dy, gate).reshape(-1, g.filters)
        run = g.stride[1] if g.dilation[1] == 1 else 1
        for i in range(g.window[0]):
            for j in range(0, g.window[1], run):
                self._add_run(block, w[i, j : j + run], padded[:, reached(g, 0, i), j * g.dilation[1] :])
        if g.padded:
            dx[...] = padded[:, top : top + h, left : left + width]

    def _add_run(self, block: Array, w: Array, rows: Array) -> None:
        """Add the product of dy (pixels, O) with neighbouring taps of a row, w (taps, C // groups, O), to the rows of pixels
        under them. Where there are as many taps as the stride is wide, those of all windows lie side by side."""
        g = self.geometry
        n, oh, ow = len(rows), *g.y_shape[1:3]
        pixel = rows.strides[2]
        shape, strides = (
            (n, oh, ow, len(w), self.channels),
            (*rows.strides[:2], g.stride[1] * pixel, pixel, self.dtype.itemsize),
        )
        for i in range(g.groups):
            span = group_slice(i, g.groups, g.filters)
            filters = w[:, :, span].reshape(len(w) * self.channels, -1)
            target = as_strided(rows[..., group_slice(i, g.groups, g.x_shape[3])], shape, strides)
            product = memory.empty((len(block), len(filters)), self.dtype)
            target += np.matmul(block[:, span], filters.T, out=product).reshape(shape)

    def fill(self, x: Array) -> list[Array]:
        """The matrix of each group, for some images x (n, H, W, C); the next call overwrites it."""
        g = self.geometry
        if g.pointwise:
            return [x.reshape(-1, self.channels)]
        windows = self.windows(self.pad(x))
        if g.groups == 1:
            return [self._copied(windows)]
        return [self._copied(windows[..., group_slice(i, g.groups, g.x_shape[3])]).copy() for i in range(g.groups)]

    def pad(self, x: Array) -> Array:
        """x (n, H, W, C) with the geometry's zeros around it."""
        g = self.geometry
        if not g.padded:
            return x
        (top, bottom), (left, right) = g.padding
        _, h, w, c = g.x_shape
        if self._padded is None or len(self._padded) < len(x):
            self._padded = np.zeros((len(x), top + h + bottom, left + w + right, c), self.dtype)
        padded = self._padded[: len(x)]
        padded[:, top : top + h, left : left + w] = x
        return padded

    def windows(self, padded: Array) -> Array:
        """View of every window: (n, OH, OW, KH, KW, C)."""
        g = self.geometry
        n, h, w, c = padded.strides
        (sh, sw), (dh, dw) = g.stride, g.dilation
        shape = (len(padded), *g.y_shape[1:3], *g.window, padded.shape[3])
        return as_strided(padded, shape, (n, h * sh, w * sw, h * dh, w * dw, c), writeable=False)

    def _copied(self, windows: Array) -> Array:
        if self.tap_major:
            return self.buffer(windows.transpose(3, 4, 5, 0, 1, 2)).reshape(self.taps, -1).T
        return self.buffer(windows).reshape(-1, self.taps)

    def buffer(self, view: Array) -> Array:
        """A C-contiguous copy in memory that is used again."""
        if self._matrix is None or self._matrix.shape != view.shape:
            self._matrix = memory.empty(view.shape, self.dtype)
        np.copyto(self._matrix, view)
        return self._matrix
