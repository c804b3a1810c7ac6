"""Locally connected layers of `NumpyBackend`: a product of matrices for each output pixel."""

from __future__ import annotations

from functools import partial
from math import prod

import numpy as np

from gpunet.backends.contract import NEW, Array, Grads, Into
from gpunet.backends.host import memory
from gpunet.backends.host.arrays import deliver
from gpunet.backends.numpy.sums import add_rows, multiply, takes_chunks
from gpunet.backends.numpy.threads import NumpyThreads
from gpunet.backends.numpy.windows import under_tap, windows_of
from gpunet.geometry import Geometry


class NumpyLocal(NumpyThreads):
    """A convolution with different filters for each output pixel."""

    def local_conv2d_forward(self, x: Array, w: Array, b: Array | None, geometry: Geometry) -> Array:
        windows = _windows(x, geometry)
        y = memory.empty(geometry.y_shape, x.dtype)

        def work(start: int, stop: int) -> None:
            product = np.matmul(_columns(windows, start, stop), _matrices(w[start:stop]))  # (pixels, N, O)
            y[:, start:stop] = product.reshape(stop - start, y.shape[2], *product.shape[1:]).transpose(2, 0, 1, 3)
            if b is not None:
                y[:, start:stop] += b[start:stop]

        self._parallel(work, geometry.y_shape[1], _work_of_row(geometry))
        return y

    def local_conv2d_input_grad(self, dy: Array, w: Array, geometry: Geometry) -> Array:
        g = geometry
        (n, oh, ow, _), c = g.y_shape, g.x_shape[3]
        taps = memory.empty((oh, ow, n, *g.window, c), dy.dtype)
        padded = memory.empty((n, *g.padded_extents, c), dy.dtype)
        padded[...] = 0

        def multiply(start: int, stop: int) -> None:
            matrices = _matrices(w[start:stop]).transpose(0, 2, 1)
            products = taps[start:stop].reshape((stop - start) * ow, n, matrices.shape[2])
            np.matmul(_pixels(dy, start, stop), matrices, out=products)

        def add(start: int, stop: int) -> None:
            for i, j in np.ndindex(*g.window):
                tap = taps[:, :, start:stop, i, j].transpose(2, 0, 1, 3)
                padded[start:stop, under_tap(g, 0, i), under_tap(g, 1, j)] += tap

        self._parallel(multiply, oh, _work_of_row(g))
        self._parallel(add, n, taps.size // max(n, 1))
        return np.ascontiguousarray(padded[:, *g.image])

    def local_conv2d_weight_grad(self, dy: Array, x: Array, geometry: Geometry, into: Into = NEW) -> Grads:
        windows = _windows(x, geometry)
        shape = (*geometry.y_shape[1:3], *geometry.w_shape)
        dw = memory.empty(shape, x.dtype) if into.weight is None else into.weight
        add = into.add and into.weight is not None

        def work(start: int, stop: int) -> None:
            columns = _columns(windows, start, stop).transpose(0, 2, 1)
            pixels = _pixels(dy, start, stop)
            if takes_chunks(columns[0], pixels[0]):
                product = np.stack([multiply(*pair) for pair in zip(columns, pixels, strict=True)])
            else:
                product = np.matmul(columns, pixels)
            deliver(product.reshape(dw[start:stop].shape), dw[start:stop], add)

        self._parallel(work, shape[0], _work_of_row(geometry))
        if not into.needs_bias:
            return dw, None
        db = self._alone(partial(add_rows, dy.reshape(len(dy), prod(dy.shape[1:]))))
        return dw, deliver(db.reshape(dy.shape[1:]), into.bias, into.add)


def _work_of_row(g: Geometry) -> int:
    """Elements of work that a row of output pixels counts as: all its filters are read."""
    return g.multiply_adds // g.y_shape[1] // 4


def _windows(x: Array, g: Geometry) -> Array:
    """View of every window: (OH, OW, N, KH, KW, C)."""
    padded = np.pad(x, ((0, 0), *g.padding, (0, 0))) if g.padded else x
    return windows_of(padded, g).transpose(1, 2, 0, 3, 4, 5)


def _columns(windows: Array, start: int, stop: int) -> Array:
    """Windows of some rows of output pixels, as a matrix for each pixel: (pixels, N, KH KW C)."""
    part = windows[start:stop]
    return part.reshape(len(part) * part.shape[1], part.shape[2], prod(part.shape[3:]))


def _matrices(w: Array) -> Array:
    """Filters (rows, OW, KH, KW, C, O) as one matrix for each pixel: (pixels, KH KW C, O)."""
    return w.reshape(w.shape[0] * w.shape[1], -1, w.shape[5])


def _pixels(dy: Array, start: int, stop: int) -> Array:
    """Some rows of pixels of dy as one matrix for each pixel: (pixels, N, O)."""
    return dy[:, start:stop].transpose(1, 2, 0, 3).reshape((stop - start) * dy.shape[2], len(dy), dy.shape[3])
