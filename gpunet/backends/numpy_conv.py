"""Convolution of `NumpyBackend`: windows copied into the rows of a matrix, which BLAS multiplies with the filters."""

from __future__ import annotations

from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpunet.backends import host_memory, numpy_pool
from gpunet.backends.base import Activation, Array, Gate
from gpunet.backends.numpy_activation import activate, opened
from gpunet.backends.numpy_sums import Total, add_rows, multiply
from gpunet.geometry import Geometry, Pair

BLOCK = 1 << 19
"""Elements of the columns of a block: two megabytes of float32. See `numpy_threads` on the length of calls."""
IMAGES = 1 << 19
"""Elements of the pixels that are taken at a time through bias, activation and pool, in calls long enough to be worth it."""
BORDERS = 1.25
"""How much more work a strided input gradient may have with the blocks at an image's borders: measured, about what it wins."""
FEWEST = 16
"""Channels from which the pixels of such a block are long enough copies."""


class Form(Protocol):
    """One convolution over blocks of images, made for a thread, whose memory it holds: `Columns`, `Planes` or
    `Depthwise`."""

    geometry: Geometry

    def __init__(self, geometry: Geometry, dtype: Any): ...

    def blocks(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Ranges of images to take at a time."""
        ...

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
        """Write y, and mask if there is a pool, of images x; all as in `Backend.conv2d_forward`."""
        ...

    def weight_grad(self, dy: Array, x: Array, gate: Gate | None, dw: Total, db: Total | None) -> None:
        """Add to dw (KH, KW, C // groups, O) and db (O,) what images x and dy give."""
        ...

    def input_grad(self, dy: Array, w: Array, gate: Gate | None, dx: Array) -> None:
        """Write dx (n, H, W, C)."""
        ...


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
        whole = y if pool is None else host_memory.empty((len(x), *g.y_shape[1:]), self.dtype)
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
        padded = host_memory.empty(shape, self.dtype) if g.padded else dx
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
            product = host_memory.empty((len(block), len(filters)), self.dtype)
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
            self._matrix = host_memory.empty(view.shape, self.dtype)
        np.copyto(self._matrix, view)
        return self._matrix


def finish(
    whole: Array, b: Array | None, activation: Activation | None, pool: Geometry | None, y: Array, mask: Array | None
) -> None:
    """Write y, and mask, from the sums of a convolution, `whole`, which is y itself without a pool."""
    if pool is not None and mask is not None:
        numpy_pool.max_forward(whole, y, mask, pool)
    if b is not None:
        # rows of the image at a time: NumPy's broadcasting is slow along few channels
        rows = y.reshape(-1, y.shape[2] * len(b))
        rows += np.tile(b, y.shape[2])
    if activation is not None:
        activate(y, activation, out=y)


def ranges(start: int, stop: int, each: int) -> list[tuple[int, int]]:
    """start … stop - 1 in ranges of `each`, at least one."""
    each = max(each, 1)
    return [(i, min(i + each, stop)) for i in range(start, stop, each)]


def group_slice(i: int, groups: int, channels: int) -> slice:
    """The channels of group i."""
    each = channels // groups
    return slice(i * each, (i + 1) * each)


def reached(g: Geometry, axis: int, tap: int) -> slice:
    """The padded pixels under one row (axis 0), or column (1), of taps of all windows."""
    first, step = tap * g.dilation[axis], g.stride[axis]
    return slice(first, first + step * (g.y_shape[1 + axis] - 1) + 1, step)


def rotate(w: Array, groups: int, stride: Pair = (1, 1)) -> Array:
    """The filters of the full convolution, `turned_geometry`, that leads back: turned by 180 degrees, with their channels
    exchanged, (KH / SH, KW / SW, O // groups, groups SH SW C // groups): a stride's taps become channels."""
    (kh, kw, c, filters), (sh, sw) = w.shape, stride
    taps = w.reshape(kh // sh, sh, kw // sw, sw, c, groups, filters // groups)[::-1, :, ::-1]
    return np.ascontiguousarray(taps.transpose(0, 2, 6, 5, 1, 3, 4)).reshape(kh // sh, kw // sw, filters // groups, -1)


def turned_geometry(g: Geometry) -> Geometry | None:
    """Of the full convolution of dy with the rotated filters, whose result is dx, a block of a stride's pixels in each of its
    pixels: "sub-pixel convolution" (Shi et al. 2016). None where the window is no whole number of strides, there is more
    padding than it takes, or where to add up the taps is faster: the blocks at the borders of small images make more work,
    and few channels short copies."""
    sides, work = [], 1.0
    for k, s, d, (before, _), n, out in zip(
        g.window, g.stride, g.dilation, g.padding, g.x_shape[1:3], g.y_shape[1:3], strict=True
    ):
        if k % s or (s > 1 and d > 1):
            return None
        reach = d * (k // s - 1)
        first = reach - before // s
        blocks = (before + n - 1) // s - before // s + 1
        sides.append((first, blocks + reach - out - first))
        work *= blocks / out
    slow = max(g.stride) > 1 and (work > BORDERS or g.x_shape[3] // g.groups < FEWEST)
    if slow or min(sides[0] + sides[1]) < 0:
        return None
    (kh, kw), (sh, sw) = g.window, g.stride
    rotated = (kh // sh, kw // sw, g.filters // g.groups, g.x_shape[3] * sh * sw)
    return Geometry.conv(g.y_shape, rotated, padding=(sides[0], sides[1]), dilation=g.dilation, groups=g.groups)


def convolve_back(form: Form, dy: Array, rotated: Array, g: Geometry, dx: Array) -> None:
    """Write dx (n, H, W, C), by a form made for the `turned_geometry` of g."""
    (sh, sw), groups = g.stride, g.groups
    if (sh, sw) == (1, 1):
        form.forward(dy, rotated, None, None, None, dx, None)
        return
    blocks = host_memory.empty((len(dy), *form.geometry.y_shape[1:]), dx.dtype)
    form.forward(dy, rotated, None, None, None, blocks, None)
    blocks = blocks.reshape(*blocks.shape[:3], groups, sh, sw, -1)
    images = dx.reshape(*dx.shape[:3], groups, -1)
    rows, columns = (_placed(g, axis) for axis in (0, 1))
    for (i, down, up), (j, right, left) in product(rows, columns):
        target = images[:, down::sh, right::sw]
        target[...] = blocks[:, up : up + target.shape[1], left : left + target.shape[2], :, i, j]


def _placed(g: Geometry, axis: int) -> list[tuple[int, int, int]]:
    """(pixel of a block, its first pixel in the image, the block of that), for each pixel of a block. Where the image has none
    of it, its first lies beyond the end."""
    step, before = g.stride[axis], g.padding[axis][0]
    places = []
    for pixel in range(step):
        first = (pixel - before) % step
        places.append((pixel, first, (first + before) // step - before // step))
    return places
