"""Convolution of `NumpyBackend`: windows copied into the rows of a matrix, which BLAS multiplies with the filters."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpunet.backends import host_memory
from gpunet.backends.base import Array
from gpunet.geometry import Geometry

BLOCK = 1 << 18
"""Elements of the columns of a block: a megabyte of float32, about a second-level cache. With few filters the product is
short beside the interpreter's turns, which threads take one after another, so blocks are twice as large."""


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
        """Ranges of images whose columns fill about one block."""
        largest = max(
            self.elements_per_image(), self.geometry.y_shape[1] * self.geometry.y_shape[2] * self.geometry.filters
        )
        elements = 2 * BLOCK if self.geometry.filters < 32 else BLOCK
        images = stop - start if self.geometry.pointwise else max(1, elements // largest)
        return [(i, min(i + images, stop)) for i in range(start, stop, images)]

    def elements_per_image(self) -> int:
        """Elements that one image takes in the matrix."""
        return self.geometry.y_shape[1] * self.geometry.y_shape[2] * self.taps

    def convolve(self, x: Array, w: Array, *, out: Array) -> None:
        """Write the convolution of some images x (n, H, W, C) with w to out (n, OH, OW, O)."""
        g = self.geometry
        filters, flat = w.reshape(self.taps, g.filters), out.reshape(-1, g.filters)
        for i, matrix in enumerate(self.fill(x)):
            span = group_slice(i, g.groups, g.filters)
            np.matmul(matrix, filters[:, span], out=flat[:, span])

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
            self._matrix = host_memory.empty(view.shape, self.dtype)
        np.copyto(self._matrix, view)
        return self._matrix


class NarrowProduct(Columns):
    """The same for few filters, where a product with KH KW C rows and O columns is too narrow for BLAS: only rows of windows
    are copied, (padded rows, OW, KW C), and multiplied with the KH rows of all filters side by side; the KH results are
    added where they meet."""

    @staticmethod
    def suits(g: Geometry) -> bool:
        """Whether this form is the faster one."""
        return (
            g.groups == 1
            and g.stride[0] == 1
            and g.window[0] > 1
            and g.filters < 16
            and g.window[1] * g.x_shape[3] >= 32
        )

    def elements_per_image(self) -> int:
        """Elements that one image takes in the matrix."""
        g = self.geometry
        return self._rows * g.y_shape[2] * g.window[1] * self.channels

    @property
    def _rows(self) -> int:
        return self.geometry.x_shape[1] + sum(self.geometry.padding[0])

    def convolve(self, x: Array, w: Array, *, out: Array) -> None:
        """Write the convolution of some images x (n, H, W, C) with w to out (n, OH, OW, O)."""
        g, n = self.geometry, len(x)
        _, oh, ow, o = g.y_shape
        kh, kw = g.window
        padded = self.pad(np.ascontiguousarray(x))
        image, row, pixel, channel = padded.strides
        shape = (n, self._rows, ow, kw, self.channels)
        strides = (image, row, pixel * g.stride[1], pixel * g.dilation[1], channel)
        rows = self.buffer(as_strided(padded, shape, strides, writeable=False)).reshape(-1, kw * self.channels)
        filters = w.transpose(0, 3, 1, 2).reshape(kh * o, -1)
        products = (filters @ rows.T).reshape(kh, o, n, self._rows, ow)
        total = products[0][:, :, :oh]
        for i in range(1, kh):
            total += products[i][:, :, i * g.dilation[0] : i * g.dilation[0] + oh]
        out[...] = total.transpose(1, 2, 3, 0)


def group_slice(i: int, groups: int, channels: int) -> slice:
    """The channels of group i."""
    each = channels // groups
    return slice(i * each, (i + 1) * each)
