"""Depthwise convolution: each channel has one filter, so that it is no product of matrices."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from gpunet.backends.contract import Array, Gate
from gpunet.backends.host import memory
from gpunet.backends.numpy.conv.algorithm import ConvAlgorithm, ranges
from gpunet.backends.numpy.gate import open_gate
from gpunet.backends.numpy.sums import Total, add_rows

PADDED_ELEMENTS = 1 << 19
"""Elements of a block's padded images; see `threads` on the length of calls."""


class Depthwise(ConvAlgorithm):
    """A convolution as a sum over taps: the pixels under a tap, times the tap's C weights.

    The columns of the padded image are sorted by their remainder modulo the stride (their "phase"),
    so that the pixels under a tap lie side by side, channels and columns in one stretch, along
    which NumPy's loops are fast.
    """

    _phases: Array = np.zeros(0)
    """Memory for the sorted columns, which `_clear` makes and uses again."""

    def blocks(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Ranges of images that have about `PADDED_ELEMENTS` elements."""
        rows, columns = self.geometry.padded_extents
        return ranges(start, stop, PADDED_ELEMENTS // (rows * columns * self.geometry.filters))

    def forward(
        self, x: Array, w: Any, b: Array | None, y: Array, mask: Array | None, residual: Array | None = None
    ) -> None:
        sums = y if self.conv.pool is None else memory.empty((len(x), *self.geometry.y_shape[1:]), self.dtype)
        rows = _joined(sums)
        part = memory.empty(rows.shape, self.dtype)
        self._sort(x)
        rows[...] = 0
        for filters, pixels in self._taps(w):
            np.multiply(pixels, filters, out=part)
            rows += part
        self._finish(sums, b, y, mask, residual)

    def weight_grad(self, dy: Array, x: Array, gate: Gate | None, dw: Total, db: Total | None) -> None:
        c = self.geometry.filters
        dy = open_gate(dy, gate, self.conv.pool)
        rows = _joined(dy)
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
        rows = _joined(open_gate(dy, gate, self.conv.pool))
        part = memory.empty(rows.shape, self.dtype)
        self._clear(len(dy))
        for filters, pixels in self._taps(w):
            np.multiply(rows, filters, out=part)
            pixels += part
        for columns, place in self._columns():
            dx[:, :, place] = columns

    def _clear(self, count: int) -> None:
        """Make the phases of `count` padded images all zeros: (stride, n, rows, columns C)."""
        (rows, columns), step = self.geometry.padded_extents, self.geometry.stride[1]
        shape = step, count, rows, -(-columns // step) * self.geometry.filters
        if self._phases.shape != shape:
            self._phases = memory.empty(shape, self.dtype)
        self._phases[...] = 0

    def _sort(self, x: Array) -> None:
        """Copy x (n, H, W, C) into the phases, padded."""
        self._clear(len(x))
        for columns, place in self._columns():
            columns[...] = x[:, :, place]

    def _columns(self) -> Iterator[tuple[Array, slice]]:
        """For each phase, its columns without padding, (n, H, columns, C), and their place in x."""
        (inside, _), left = self.geometry.image, self.geometry.padding[1][0]
        _, h, w, c = self.geometry.x_shape
        step = self.geometry.stride[1]
        for phase, rows in enumerate(self._phases):
            first = (phase - left) % step
            start, count = (first + left) // step, len(range(first, w, step))
            columns = rows[:, inside].reshape(len(rows), h, -1, c)
            yield columns[:, :, start : start + count], slice(first, None, step)

    def _taps(self, w: Array) -> Iterator[tuple[Array, Array]]:
        """For each tap, its weights for a row (OW C,), and the pixels under it (n, OH, OW C)."""
        g, step = self.geometry, self.geometry.stride[1]
        _, oh, ow, c = g.y_shape
        for i, j in product(*map(range, g.window)):
            phase, start = j * g.dilation[1] % step, j * g.dilation[1] // step
            first = i * g.dilation[0]
            pixels = self._phases[phase][:, first : first + g.stride[0] * (oh - 1) + 1 : g.stride[0]]
            yield np.tile(w[i, j, 0], ow), pixels[:, :, start * c : (start + ow) * c]


def _joined(y: Array) -> Array:
    """(n, OH, OW, C) as (n, OH, OW C)."""
    return y.reshape(*y.shape[:2], -1)
