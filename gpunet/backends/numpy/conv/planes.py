"""Convolution of `NumpyBackend` with few channels, where loops of NumPy and BLAS along channels would be short.

The index of the image becomes the innermost axis: one plane a channel, (C, H, W, n). So every copy, comparison and sum runs
along whole rows of all images of a block, whatever the channels, and a stride skips pixels of all images instead of
elements. Calls are few and long, for between two of them a thread needs the interpreter, which the others want too.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.gate import Gate
from gpunet.backends.host import memory
from gpunet.backends.numpy.conv.form import reached
from gpunet.backends.numpy.output_activation import activate, open_activation
from gpunet.backends.numpy.sums import Total, multiply
from gpunet.geometry import Geometry

BLOCK = 1 << 21
"""Elements of the columns of a block: long loops are worth more here than a second-level cache."""
FEWEST = 16
"""Images from which on this form is the faster one."""
_CORNERS = np.arange(4, dtype=np.uint8).reshape(2, 2, 1, 1, 1, 1)
"""Positions in a 2x2 window."""


class Planes:
    """One convolution over blocks of images; holds the memory for one block: one a thread."""

    def __init__(self, geometry: Geometry, dtype: Any):
        self.geometry = geometry
        self.dtype = np.dtype(dtype)
        self.taps = geometry.window[0] * geometry.window[1] * (geometry.x_shape[3] // geometry.groups)

    @staticmethod
    def suits(g: Geometry) -> bool:
        """Whether this form is the faster one."""
        few = g.x_shape[3] // g.groups < 16 and g.filters // g.groups < 32
        return few and not g.pointwise and g.x_shape[0] >= FEWEST

    def blocks(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Ranges of images whose columns fill about one block, of nearly equal lengths."""
        g = self.geometry
        largest = g.y_shape[1] * g.y_shape[2] * max(self.taps * g.groups, g.filters)
        count = min(max(-(-(stop - start) * largest // BLOCK), 1), stop - start)
        return list(pairwise([start + (stop - start) * i // count for i in range(count + 1)]))

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
        planes = self._memory(self.geometry.y_shape, len(x))
        np.matmul(self._filters(w), self._columns(x), out=self._rows(planes))
        if pool is not None and mask is not None:
            planes = _pool(planes, mask)
        if b is not None:
            planes += b[:, None, None, None]
        if activation is not None:
            activate(planes, activation, out=planes)
        y[...] = planes.transpose(3, 1, 2, 0)

    def weight_grad(self, dy: Array, x: Array, gate: Gate | None, dw: Total, db: Total | None) -> None:
        """See `Form`."""
        g = self.geometry
        rows = self._rows(self._opened(dy, gate))
        products = [multiply(row, column.T, g.pixels) for row, column in zip(rows, self._columns(x), strict=True)]
        dw.recent += np.stack(products).reshape(g.filters, -1, *g.window).transpose(2, 3, 1, 0)
        dw.count()
        if db is not None:
            db.recent += rows.sum(axis=2).reshape(-1)
            db.count()

    def input_grad(self, dy: Array, w: Array, gate: Gate | None, dx: Array) -> None:
        """See `Form`: the product with every tap, added where the tap stood, first along rows, then along columns."""
        g, n = self.geometry, len(dy)
        (top, bottom), (left, right) = g.padding
        (_, h, width, c), (_, oh, ow, _), (kh, kw) = g.x_shape, g.y_shape, g.window
        rows = self._rows(self._opened(dy, gate))
        products = memory.empty((g.groups, self.taps, rows.shape[2]), self.dtype)
        np.matmul(self._filters(w).transpose(0, 2, 1), rows, out=products)
        taps = products.reshape(c, kh, kw, oh, ow, n)
        wide = memory.empty((c, kh, oh, left + width + right, n), self.dtype)
        wide[...] = 0
        for j in range(kw):
            wide[:, :, :, reached(g, 1, j)] += taps[:, :, j]
        padded = self._memory((n, top + h + bottom, left + width + right, c), n)
        padded[...] = 0
        for i in range(kh):
            padded[:, reached(g, 0, i)] += wide[:, i]
        dx[...] = padded[:, top : top + h, left : left + width].transpose(3, 1, 2, 0)

    def _filters(self, w: Array) -> Array:
        """(groups, O // groups, C // groups KH KW)."""
        return w.transpose(3, 2, 0, 1).reshape(self.geometry.groups, -1, self.taps)

    def _columns(self, x: Array) -> Array:
        """The value under each tap at each output pixel: (groups, C // groups KH KW, OH OW n)."""
        g, n = self.geometry, len(x)
        (top, bottom), (left, right) = g.padding
        (sh, sw), (dh, dw), (_, h, width, c) = g.stride, g.dilation, g.x_shape
        padded = self._memory((n, top + h + bottom, left + width + right, c), n)
        if g.padded:
            padded[...] = 0
        padded[:, top : top + h, left : left + width] = x.transpose(3, 1, 2, 0)
        plane, row, pixel, image = padded.strides
        shape = (c, *g.window, *g.y_shape[1:3], n)
        strides = (plane, row * dh, pixel * dw, row * sh, pixel * sw, image)
        columns = memory.empty(shape, self.dtype)
        columns[...] = as_strided(padded, shape, strides, writeable=False)
        return columns.reshape(g.groups, self.taps, -1)

    def _opened(self, dy: Array, gate: Gate | None) -> Array:
        """dy (n, …) taken back through the gate's activation and pool: (O, OH, OW, n)."""
        if gate is not None and gate.activation is not None:
            dy = open_activation(dy, gate.y, gate.activation)
        planes = self._memory(dy.shape, len(dy))
        planes[...] = dy.transpose(3, 1, 2, 0)
        if gate is None or gate.mask is None:
            return planes
        whole = self._memory(self.geometry.y_shape, len(dy))
        if self.geometry.y_shape[1] % 2 or self.geometry.y_shape[2] % 2:
            whole[...] = 0
        bits = np.dtype(f"i{self.dtype.itemsize}")  # as integers, for 0 times NaN is NaN
        won = np.equal(gate.mask.transpose(3, 1, 2, 0), _CORNERS)
        np.multiply(planes.view(bits), won, out=_corners(whole).view(bits))
        return whole

    def _memory(self, shape: tuple[int, ...], n: int) -> Array:
        """For n images (n, H, W, C) of shape[1:]: (C, H, W, n)."""
        return memory.empty((shape[3], shape[1], shape[2], n), self.dtype)

    def _rows(self, planes: Array) -> Array:
        """Planes of the output as the rows of a matrix: (groups, O // groups, OH OW n)."""
        g = self.geometry
        return planes.reshape(g.groups, g.filters // g.groups, -1)


def _corners(planes: Array) -> Array:
    """View of the pixels of 2x2 windows side by side: (2, 2, C, PH, PW, n)."""
    c, h, w, n = planes.shape
    windows = planes[:, : h // 2 * 2, : w // 2 * 2].reshape(c, h // 2, 2, w // 2, 2, n)
    return windows.transpose(2, 4, 0, 1, 3, 5)


def _pool(planes: Array, mask: Array) -> Array:
    """The maximum of each 2x2 window (C, PH, PW, n); writes mask (n, PH, PW, C), the first of equals, NaN before all."""
    corners = _corners(planes)
    best = np.maximum(np.maximum(corners[0, 0], corners[0, 1]), np.maximum(corners[1, 0], corners[1, 1]))
    won = corners == best
    if np.isnan(best.max()):
        won |= np.isnan(corners)
    # the first winner is the one with the largest 3 - position
    last = np.multiply(won, 3 - _CORNERS, dtype=mask.dtype).max(axis=(0, 1))
    np.subtract(3, last.transpose(3, 1, 2, 0), out=mask)
    return best
