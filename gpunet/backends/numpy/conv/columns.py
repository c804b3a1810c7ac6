"""Convolution with many channels: BLAS multiplies a matrix of windows with the filters."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.backends.contract import Array, Conv, Gate
from gpunet.backends.host import memory
from gpunet.backends.numpy.conv.algorithm import ConvAlgorithm, group_slice, ranges
from gpunet.backends.numpy.gate import open_gate
from gpunet.backends.numpy.sums import Total, add_rows, multiply
from gpunet.backends.numpy.windows import under_tap, view_windows, windows_of

MATRIX_ELEMENTS = 1 << 19
"""Elements of the matrix of windows that is multiplied at a time: see `threads` on long calls."""
OUTPUT_ELEMENTS = 1 << 19
"""Elements of the output that go through bias, activation and pool at a time."""


class Columns(ConvAlgorithm):
    """A convolution as a product of matrices ("im2col", Chellapilla et al. 2006).

    The windows of the images become the rows of a matrix (output pixels, KH KW C // groups), so
    that its product with the filters (KH KW C // groups, O) is the convolution.
    """

    def __init__(self, conv: Conv, dtype: Any):
        super().__init__(conv, dtype)
        # Copies run along a row of the window, KW C elements, or of the output if that is short
        self.tap_major = conv.geometry.window[1] * self.channels < 16 and conv.geometry.stride == (1, 1)
        self._padded: Array | None = None
        self._matrix: Array | None = None

    def blocks(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Ranges of images whose output has about `OUTPUT_ELEMENTS` elements."""
        _, oh, ow, filters = self.geometry.y_shape
        return ranges(start, stop, OUTPUT_ELEMENTS // (oh * ow * filters))

    def _pieces(self, count: int) -> list[tuple[int, int]]:
        """Ranges of a block's images whose matrix has about `MATRIX_ELEMENTS`, unless it is x."""
        _, oh, ow, _ = self.geometry.y_shape
        return ranges(0, count, count if self.geometry.pointwise else MATRIX_ELEMENTS // (oh * ow * self.taps))

    def forward(
        self, x: Array, w: Any, b: Array | None, y: Array, mask: Array | None, residual: Array | None = None
    ) -> None:
        sums = y if self.conv.pool is None else memory.empty((len(x), *self.geometry.y_shape[1:]), self.dtype)
        self._multiply(x, w, sums)
        self._finish(sums, b, y, mask, residual)

    def _multiply(self, x: Array, w: Any, sums: Array) -> None:
        """Write the sums over the windows of images x, (n, OH, OW, O)."""
        g = self.geometry
        filters = w.reshape(self.taps, g.filters)
        for first, last in self._pieces(len(x)):
            flat = sums[first:last].reshape(-1, g.filters)
            for i, matrix in enumerate(self._fill(x[first:last])):
                span = group_slice(i, g.groups, g.filters)
                np.matmul(matrix, filters[:, span], out=flat[:, span])

    def weight_grad(self, dy: Array, x: Array, gate: Gate | None, dw: Total, db: Total | None) -> None:
        g = self.geometry
        dy = open_gate(dy, gate, self.conv.pool)
        flat = dw.recent.reshape(self.taps, g.filters)
        for first, last in self._pieces(len(x)):
            rows = dy[first:last].reshape(-1, g.filters)
            for i, matrix in enumerate(self._fill(x[first:last])):
                span = group_slice(i, g.groups, g.filters)
                flat[:, span] += multiply(matrix.T, rows[:, span], g.pixels)
            dw.count()
        if db is not None:
            db.recent += add_rows(dy.reshape(-1, g.filters))
            db.count()

    def input_grad(self, dy: Array, w: Array, gate: Gate | None, dx: Array) -> None:
        """Add the product of dy with every tap to the pixels under it ("col2im")."""
        g = self.geometry
        padded = memory.empty((len(dy), *g.padded_extents, g.x_shape[3]), self.dtype) if g.padded else dx
        padded[...] = 0
        block = open_gate(dy, gate, self.conv.pool).reshape(-1, g.filters)
        run = g.stride[1] if g.dilation[1] == 1 else 1
        for i in range(g.window[0]):
            for j in range(0, g.window[1], run):
                self._add_run(block, w[i, j : j + run], padded[:, under_tap(g, 0, i), j * g.dilation[1] :])
        if g.padded:
            dx[...] = padded[:, *g.image]

    def _add_run(self, block: Array, w: Array, rows: Array) -> None:
        """Add the product of dy (pixels, O) with a run of taps, w (taps, C // groups, O).

        The taps are neighbours in a row of the filters. There are at most as many as the stride is
        wide, so that the pixels under the runs of all windows lie side by side.
        """
        g = self.geometry
        count = g.y_shape[1:3]
        for i in range(g.groups):
            span = group_slice(i, g.groups, g.filters)
            filters = w[:, :, span].reshape(len(w) * self.channels, -1)
            of_group = rows[..., group_slice(i, g.groups, g.x_shape[3])]
            target = view_windows(of_group, count, (1, len(w)), (1, g.stride[1]), writeable=True)
            product = memory.empty((len(block), len(filters)), self.dtype)
            target += np.matmul(block[:, span], filters.T, out=product).reshape(target.shape)

    def _fill(self, x: Array) -> list[Array]:
        """The matrix of each group for some images x (n, H, W, C); the next call overwrites it."""
        g = self.geometry
        if g.pointwise:
            return [x.reshape(-1, self.channels)]
        windows = windows_of(self._pad(x), g)
        if g.groups == 1:
            return [self._copied(windows)]
        return [self._copied(windows[..., group_slice(i, g.groups, g.x_shape[3])]).copy() for i in range(g.groups)]

    def _pad(self, x: Array) -> Array:
        """x (n, H, W, C) with the geometry's zeros around it."""
        g = self.geometry
        if not g.padded:
            return x
        if self._padded is None or len(self._padded) < len(x):
            self._padded = np.zeros((len(x), *g.padded_extents, g.x_shape[3]), self.dtype)
        padded = self._padded[: len(x)]
        padded[:, *g.image] = x
        return padded

    def _copied(self, windows: Array) -> Array:
        """Windows (n, OH, OW, KH, KW, channels) as a matrix (pixels, taps)."""
        if self.tap_major:
            return self._buffered(windows.transpose(3, 4, 5, 0, 1, 2)).reshape(self.taps, -1).T
        return self._buffered(windows).reshape(-1, self.taps)

    def _buffered(self, view: Array) -> Array:
        """A C-contiguous copy, in memory that is used again."""
        if self._matrix is None or self._matrix.shape != view.shape:
            self._matrix = memory.empty(view.shape, self.dtype)
        np.copyto(self._matrix, view)
        return self._matrix
