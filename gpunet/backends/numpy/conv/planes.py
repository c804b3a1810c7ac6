"""Convolution with few channels, where the loops of NumPy and BLAS along channels would be short.

The index of the image becomes the innermost axis, so that each channel is one plane: (C, H, W, n).
Every copy, comparison and sum then runs along whole rows of all images of a block, however few the
channels, and a stride skips pixels of all images instead of single elements. Calls are few and
long, because between two of them a thread needs the interpreter lock, which the other threads want
too.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from gpunet.backends.contract import Array, Gate
from gpunet.backends.host import memory
from gpunet.backends.numpy.conv.algorithm import ConvAlgorithm
from gpunet.backends.numpy.output_activation import activate, keep_where, open_activation
from gpunet.backends.numpy.sums import Total, multiply
from gpunet.backends.numpy.windows import under_tap, windows_of

COLUMN_ELEMENTS = 1 << 21
"""Elements of a block's columns: long loops are worth more here than blocks that fit a cache."""
_CORNERS = np.arange(4, dtype=np.uint8).reshape(2, 2, 1, 1, 1, 1)
"""Positions in a 2x2 window."""


class Planes(ConvAlgorithm):
    """A convolution as the product of the filters with columns, (C KH KW, OH OW n)."""

    def blocks(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Ranges, of nearly equal lengths, of images with about `COLUMN_ELEMENTS` of columns."""
        g = self.geometry
        largest = g.y_shape[1] * g.y_shape[2] * max(self.taps * g.groups, g.filters)
        count = min(max(-(-(stop - start) * largest // COLUMN_ELEMENTS), 1), stop - start)
        return list(pairwise([start + (stop - start) * i // count for i in range(count + 1)]))

    def forward(
        self, x: Array, w: Array, b: Array | None, y: Array, mask: Array | None, residual: Array | None = None
    ) -> None:
        planes = self._memory(self.geometry.y_shape, len(x))
        np.matmul(self._filters(w), self._columns(x), out=self._rows(planes))
        if mask is not None:
            planes = _pool(planes, mask)
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
        products = [multiply(row, column.T, g.pixels) for row, column in zip(rows, self._columns(x), strict=True)]
        dw.recent += np.stack(products).reshape(g.filters, -1, *g.window).transpose(2, 3, 1, 0)
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
        if self.geometry.y_shape[1] % 2 or self.geometry.y_shape[2] % 2:
            whole[...] = 0
        keep_where(planes, np.equal(gate.mask.transpose(3, 1, 2, 0), _CORNERS), out=_corners(whole))
        return whole

    def _memory(self, shape: tuple[int, ...], n: int) -> Array:
        """Planes (C, H, W, n) for n images of a shape (N, H, W, C), not set."""
        return memory.empty((shape[3], shape[1], shape[2], n), self.dtype)

    def _rows(self, planes: Array) -> Array:
        """Planes of the output as one matrix per group: (groups, O // groups, OH OW n)."""
        g = self.geometry
        return planes.reshape(g.groups, g.filters // g.groups, -1)


def _corners(planes: Array) -> Array:
    """View of the pixels of 2x2 windows side by side: (2, 2, C, PH, PW, n)."""
    c, h, w, n = planes.shape
    windows = planes[:, : h // 2 * 2, : w // 2 * 2].reshape(c, h // 2, 2, w // 2, 2, n)
    return windows.transpose(2, 4, 0, 1, 3, 5)


def _pool(planes: Array, mask: Array) -> Array:
    """The maximum of each 2x2 window, (C, PH, PW, n); writes the mask (n, PH, PW, C)."""
    corners = _corners(planes)
    best = np.maximum(np.maximum(corners[0, 0], corners[0, 1]), np.maximum(corners[1, 0], corners[1, 1]))
    won = corners == best
    if np.isnan(best.max()):
        won |= np.isnan(corners)
    # The first winner is the one with the largest 3 - position
    last = np.multiply(won, 3 - _CORNERS, dtype=mask.dtype).max(axis=(0, 1))
    np.subtract(3, last.transpose(3, 1, 2, 0), out=mask)
    return best
