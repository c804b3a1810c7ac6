"""Convolution with few channels, where the loops of NumPy and BLAS along channels would be short.

The index of the image becomes the innermost axis, so that each channel is one plane: (C, H, W, n).
Every copy, comparison and sum then runs along whole rows of all images of a block, however few the
channels, and a stride skips pixels of all images instead of single elements. Calls are few and
long, because between two of them a thread needs the interpreter lock, which the other threads want
too.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from gpunet.backends.contract import FUSED_POOL, Array, Gate
from gpunet.backends.host import memory
from gpunet.backends.numpy.conv.algorithm import ConvAlgorithm
from gpunet.backends.numpy.output_activation import activate, open_activation
from gpunet.backends.numpy.pool import max_pool_backward, max_pool_forward
from gpunet.backends.numpy.sums import Total, multiply
from gpunet.backends.numpy.threads import PARTS
from gpunet.backends.numpy.windows import under_tap, windows_of
from gpunet.geometry import Geometry

IMAGES_OF_PART = 16
"""Images of a part at least: loops along fewer are so short that two threads are slower than one."""
COLUMN_ELEMENTS = 1 << 21
"""Elements of a block's columns: long loops are worth more here than blocks that fit a cache."""


class Planes(ConvAlgorithm):
    """A convolution as the product of the filters with columns, (C KH KW, OH OW n)."""

    @classmethod
    def most_parts(cls, g: Geometry) -> int:
        """See `ConvAlgorithm.most_parts`: loops along few images are short."""
        return max(1, min(PARTS, g.x_shape[0] // IMAGES_OF_PART))

    def blocks(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Ranges, of nearly equal lengths, of images with about `COLUMN_ELEMENTS` of columns."""
        g = self.geometry
        largest = g.y_shape[1] * g.y_shape[2] * max(self.taps * g.groups, g.filters)
        count = min(max(-(-(stop - start) * largest // COLUMN_ELEMENTS), 1), stop - start)
        return list(pairwise([start + (stop - start) * i // count for i in range(count + 1)]))

    def forward(
        self, x: Array, w: Any, b: Array | None, y: Array, mask: Array | None, residual: Array | None = None
    ) -> None:
        planes = self._memory(self.geometry.y_shape, len(x))
        np.matmul(self._filters(w), self._columns(x), out=self._rows(planes))
        if mask is not None:
            planes = self._pool(planes, mask)
        if b is not None:
            planes += b[:, None, None, None]
        if residual is not None:
            planes += residual.transpose(3, 1, 2, 0)
        if self.conv.activation is not None:
            activate(planes, self.conv.activation, out=planes)
        y[...] = planes.transpose(3, 1, 2, 0)

    def weight_grad(self, dy: Array, x: Array, gate: Gate | None, dw: Total, db: Total | None) -> None:
        g = self.geometry
        rows = self._rows(self._open(dy, gate))
        # BLAS is faster with the longer side of the result first
        products = [multiply(column, row.T, g.pixels) for row, column in zip(rows, self._columns(x), strict=True)]
        of_groups = np.stack(products).reshape(g.groups, self.channels, *g.window, -1)
        dw.recent += of_groups.transpose(2, 3, 1, 0, 4).reshape(dw.recent.shape)
        dw.count()
        if db is not None:
            db.recent += rows.sum(axis=2).reshape(-1)
            db.count()

    def input_grad(self, dy: Array, w: Array, gate: Gate | None, dx: Array) -> None:
        """Add the product of dy with every tap to its pixels: along rows, then along columns."""
        g, n = self.geometry, len(dy)
        c, (rows, columns), (_, oh, ow, _), (kh, kw) = g.x_shape[3], g.padded_extents, g.y_shape, g.window
        products = memory.empty((g.groups, self.taps, oh * ow * n), self.dtype)
        np.matmul(self._filters(w).transpose(0, 2, 1), self._rows(self._open(dy, gate)), out=products)
        taps = products.reshape(c, kh, kw, oh, ow, n)
        wide = memory.empty((c, kh, oh, columns, n), self.dtype)
        wide[...] = 0
        for j in range(kw):
            wide[:, :, :, under_tap(g, 1, j)] += taps[:, :, j]
        padded = self._memory((n, rows, columns, c), n)
        padded[...] = 0
        for i in range(kh):
            padded[:, under_tap(g, 0, i)] += wide[:, i]
        dx[...] = padded[:, *g.image].transpose(3, 1, 2, 0)

    def _filters(self, w: Array) -> Array:
        """w as (groups, O // groups, C // groups KH KW)."""
        return w.transpose(3, 2, 0, 1).reshape(self.geometry.groups, -1, self.taps)

    def _columns(self, x: Array) -> Array:
        """The value under each tap at each output pixel: (groups, C // groups KH KW, OH OW n)."""
        g, n = self.geometry, len(x)
        c = g.x_shape[3]
        padded = self._memory((n, *g.padded_extents, c), n)
        if g.padded:
            padded[...] = 0
        padded[:, *g.image] = x.transpose(3, 1, 2, 0)
        columns = memory.empty((c, *g.window, *g.y_shape[1:3], n), self.dtype)
        columns[...] = windows_of(padded, g).transpose(0, 3, 4, 1, 2, 5)  # planes are images of n channels to it
        return columns.reshape(g.groups, self.taps, -1)

    def _open(self, dy: Array, gate: Gate | None) -> Array:
        """dy (n, …) taken back through the gate's activation and pool, as planes (O, OH, OW, n)."""
        if gate is not None and gate.activation is not None:
            dy = open_activation(dy, gate.y, gate.activation)
        planes = self._memory(dy.shape, len(dy))
        planes[...] = dy.transpose(3, 1, 2, 0)
        if gate is None or gate.mask is None:
            return planes
        whole = self._memory(self.geometry.y_shape, len(dy))
        winners = np.ascontiguousarray(gate.mask.transpose(3, 1, 2, 0))
        max_pool_backward(planes, winners, whole, Geometry.pool(whole.shape, FUSED_POOL))
        return whole

    def _pool(self, planes: Array, mask: Array) -> Array:
        """The maximum of each 2x2 window, (O, PH, PW, n); writes the mask (n, PH, PW, O)."""
        # `max_pool_forward` takes the planes for images of n channels
        pool = Geometry.pool(planes.shape, FUSED_POOL)
        best, winners = memory.empty(pool.y_shape, self.dtype), memory.empty(pool.y_shape, mask.dtype)
        max_pool_forward(planes, best, winners, pool)
        mask[...] = winners.transpose(3, 1, 2, 0)
        return best

    def _memory(self, shape: tuple[int, ...], n: int) -> Array:
        """Planes (C, H, W, n) for n images of a shape (N, H, W, C), not set."""
        return memory.empty((shape[3], shape[1], shape[2], n), self.dtype)

    def _rows(self, planes: Array) -> Array:
        """Planes of the output as one matrix per group: (groups, O // groups, OH OW n)."""
        g = self.geometry
        return planes.reshape(g.groups, g.filters // g.groups, -1)
