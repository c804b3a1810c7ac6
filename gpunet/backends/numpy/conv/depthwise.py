"""Depthwise convolution of `NumpyBackend`: a filter a channel, so that there is no matrix product to make of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.gate import Gate
from gpunet.backends.host import memory
from gpunet.backends.numpy.conv.form import finish, ranges
from gpunet.backends.numpy.gate import opened
from gpunet.backends.numpy.sums import Total, add_rows
from gpunet.geometry import Geometry

BLOCK = 1 << 19
"""Elements of a block. See `threads` on the length of calls."""


class Depthwise:
    """One convolution as a sum over taps: the pixels under a tap, times its row of C filters (`form.Form`).

    The columns of the padded image are sorted by their place in a stride, so that the pixels under a tap lie side by side,
    channels and columns in one stretch: what NumPy is fast at.
    """

    def __init__(self, geometry: Geometry, dtype: Any):
        g = self.geometry = geometry
        self.dtype = np.dtype(dtype)
        (top, bottom), (left, right) = g.padding
        self.padded = top + g.x_shape[1] + bottom, left + g.x_shape[2] + right
        self._phases = np.zeros(0, self.dtype)

    @staticmethod
    def suits(g: Geometry) -> bool:
        """Whether each channel has one filter of its own."""
        return g.groups == g.x_shape[3] == g.filters > 1

    def blocks(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Ranges of images whose pixels fill about a block."""
        return ranges(start, stop, BLOCK // (self.padded[0] * self.padded[1] * self.geometry.filters))

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
        whole = y if pool is None else memory.empty((len(x), *self.geometry.y_shape[1:]), self.dtype)
        rows = self._rows(whole)
        part = memory.empty(rows.shape, self.dtype)
        self._sort(x)
        rows[...] = 0
        for filters, pixels in self._taps(w):
            np.multiply(pixels, filters, out=part)
            rows += part
        finish(whole, b, activation, pool, y, mask)

    def weight_grad(self, dy: Array, x: Array, gate: Gate | None, dw: Total, db: Total | None) -> None:
        """See `Form`."""
        c = self.geometry.filters
        dy = opened(dy, gate)
        rows = self._rows(dy)
        part = memory.empty(rows.shape, self.dtype)
        self._sort(x)
        flat = dw.recent.reshape(-1, c)
        for tap, (_, pixels) in enumerate(self._taps(dw.recent)):
            np.multiply(pixels, rows, out=part)
            flat[tap] += add_rows(part.reshape(-1, c))
        dw.count()
        if db is not None:
            db.recent += add_rows(dy.reshape(-1, c))
            db.count()

    def input_grad(self, dy: Array, w: Array, gate: Gate | None, dx: Array) -> None:
        """See `Form`."""
        rows = self._rows(opened(dy, gate))
        part = memory.empty(rows.shape, self.dtype)
        self._clear(len(dy))
        for filters, pixels in self._taps(w):
            np.multiply(rows, filters, out=part)
            pixels += part
        for columns, place in self._columns():
            dx[:, :, place] = columns

    def _rows(self, y: Array) -> Array:
        """(n, OH, OW C) of (n, OH, OW, C)."""
        return y.reshape(*y.shape[:2], -1)

    def _clear(self, count: int) -> None:
        """Zeros for the padded columns of so many images: (stride, n, rows, columns C)."""
        (rows, columns), step = self.padded, self.geometry.stride[1]
        shape = step, count, rows, -(-columns // step) * self.geometry.filters
        if self._phases.shape != shape:
            self._phases = memory.empty(shape, self.dtype)
        self._phases[...] = 0

    def _sort(self, x: Array) -> None:
        """Take x (n, H, W, C), padded."""
        self._clear(len(x))
        for columns, place in self._columns():
            columns[...] = x[:, :, place]

    def _columns(self) -> Iterator[tuple[Array, slice]]:
        """What belongs to the image of each phase, (n, H, columns, C), a view; and which of its columns they are."""
        (top, _), (left, _) = self.geometry.padding
        _, h, w, c = self.geometry.x_shape
        step = self.geometry.stride[1]
        for phase, rows in enumerate(self._phases):
            first = (phase - left) % step
            start, count = (first + left) // step, len(range(first, w, step))
            columns = rows[:, top : top + h].reshape(len(rows), h, -1, c)
            yield columns[:, :, start : start + count], slice(first, None, step)

    def _taps(self, w: Array) -> Iterator[tuple[Array, Array]]:
        """The filters of each tap, (OW C), and the pixels under it, (n, OH, OW C), a view."""
        g, step = self.geometry, self.geometry.stride[1]
        _, oh, ow, c = g.y_shape
        for i, j in product(*map(range, g.window)):
            phase, start = j * g.dilation[1] % step, j * g.dilation[1] // step
            first = i * g.dilation[0]
            pixels = self._phases[phase][:, first : first + g.stride[0] * (oh - 1) + 1 : g.stride[0]]
            yield np.tile(w[i, j, 0], ow), pixels[:, :, start * c : (start + ow) * c]
