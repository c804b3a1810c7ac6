"""`NumpyBackend`: the fast CPU path. Windows are copied into columns that fit the cache and multiplied by BLAS.

Work is cut along the batch into one part a thread, and each part into blocks of images whose columns stay in the second-level
cache; NumPy and BLAS let go of the interpreter lock while they compute. BLAS itself runs on one thread meanwhile. Partial
sums are added in the order of the parts, so a result depends on the number of threads, and on nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from gpunet.backends import host_memory, numpy_pool
from gpunet.backends.base import Activation, Array, Gate
from gpunet.backends.host import HostBackend, deliver
from gpunet.backends.numpy_conv import BLOCK, Columns, NarrowProduct, group_slice
from gpunet.geometry import Geometry

T = TypeVar("T")

SMALL = 1 << 17
"""Elements of work a thread at least: waking one takes as long as 50,000."""
PRODUCTS = 32
"""Multiply-adds of a matrix product that take as long as one element elsewhere."""


class NumpyBackend(HostBackend):
    """BLAS, strided views and threads.

    Args:
        threads: how many; if None the environment variable ``GPUNET_NUM_THREADS``, else the cores this process may use.
    """

    name = "numpy"
    dtypes = ("float32", "float64")

    def __init__(self, threads: int | None = None):
        given = threads if threads is not None else os.environ.get("GPUNET_NUM_THREADS")
        try:
            self.threads = int(given) if given is not None else _cores()
        except ValueError:
            raise ValueError(f"NumpyBackend: GPUNET_NUM_THREADS is {given!r} but takes an integer") from None
        if self.threads < 1:
            raise ValueError(f"NumpyBackend: threads is {self.threads} but must be at least 1")
        self._make_pool()
        self._blas = ThreadpoolController().select(user_api="blas").lib_controllers

    def _make_pool(self) -> None:
        self._process = os.getpid()
        self._pool = ThreadPoolExecutor(self.threads - 1, "gpunet") if self.threads > 1 else None

    def describe(self) -> dict[str, str]:
        """Also the threads and the BLAS with the processor it takes this one for."""
        blas = [
            f"{i['internal_api']} {i['version']} ({i.get('architecture', 'unknown architecture')})"
            for i in (library.info() for library in self._blas)
        ]
        return {**super().describe(), "threads": str(self.threads), "blas": ", ".join(blas) or "unknown"}

    # ---- convolution

    def conv2d_forward(
        self, x: Array, w: Array, b: Array | None = None, *, geometry: Geometry, activation: Activation | None = None
    ) -> Array:
        return self._convolve(x, w, b, geometry, activation, None)

    def conv2d_input_grad(self, dy: Array, w: Array, *, geometry: Geometry, gate: Gate | None = None) -> Array:
        g = geometry
        if g.pointwise:
            pixels = g.y_shape[0] * g.y_shape[1] * g.y_shape[2]
            flat_gate = None if gate is None else Gate(gate.y.reshape(pixels, -1), gate.activation)
            return self.matmul(dy.reshape(pixels, -1), w[0, 0], transpose_b=True, gate=flat_gate).reshape(g.x_shape)
        full = _full_padding(g)
        if g.stride != (1, 1) or min(full[0] + full[1]) < 0:
            return self._scatter_columns(dy, w, g, gate)
        grouped = w[::-1, ::-1].reshape(*w.shape[:3], g.groups, -1)
        rotated = np.ascontiguousarray(grouped.transpose(0, 1, 4, 3, 2)).reshape(*g.window, -1, g.x_shape[3])
        turned = Geometry.conv(g.y_shape, rotated.shape, padding=full, dilation=g.dilation, groups=g.groups)
        return self._convolve(dy, rotated, None, turned, None, gate)

    def conv2d_weight_grad(
        self,
        dy: Array,
        x: Array,
        *,
        geometry: Geometry,
        gate: Gate | None = None,
        out: Array | None = None,
        bias: bool = True,
        bias_out: Array | None = None,
        accumulate: bool = False,
    ) -> tuple[Array, Array | None]:
        groups, filters = geometry.groups, geometry.filters
        if geometry.pointwise:
            opened = _opened(dy, gate).reshape(-1, filters)
            flat_out = None if out is None else out.reshape(-1, filters)
            dw = self.matmul(x.reshape(len(opened), -1), opened, transpose_a=True, out=flat_out, accumulate=accumulate)
            db = deliver(opened.sum(axis=0), bias_out, accumulate) if bias else None
            return dw.reshape(geometry.w_shape), db

        def work(start: int, stop: int) -> tuple[Array, Array]:
            columns = Columns(geometry, x.dtype)
            dw = np.zeros((groups, columns.taps, filters // groups), x.dtype)
            db = np.zeros(filters, x.dtype)
            for first, last in columns.blocks(start, stop):
                block = _opened(dy[first:last], _part(gate, first, last)).reshape(-1, filters)
                for i, column in enumerate(columns.fill(x[first:last])):
                    # dot, for matmul keeps the interpreter lock where the result is small
                    dw[i] += np.dot(column.T, block[:, group_slice(i, groups, filters)])
                if bias:
                    db += np.dot(np.ones(len(block), x.dtype), block)
            return dw, db

        parts = self._parallel(work, len(x), geometry.multiply_adds // len(x) // PRODUCTS)
        dw, db = parts[0]
        for more_dw, more_db in parts[1:]:
            dw += more_dw
            db += more_db
        dw = np.ascontiguousarray(dw.transpose(1, 0, 2)).reshape(geometry.w_shape)
        return deliver(dw, out, accumulate), deliver(db, bias_out, accumulate) if bias else None

    def _convolve(
        self, x: Array, w: Array, b: Array | None, g: Geometry, activation: Activation | None, gate: Gate | None
    ) -> Array:
        """Convolution of x, opened by the gate first."""
        y = host_memory.empty(g.y_shape, x.dtype)
        product = NarrowProduct if NarrowProduct.suits(g) else Columns
        # Row-long copies of the bias: NumPy's broadcasting is slow along few channels
        row_bias = None if b is None else np.tile(b, g.y_shape[2])

        def work(start: int, stop: int) -> None:
            columns = product(g, x.dtype)
            for first, last in columns.blocks(start, stop):
                block = y[first:last]
                columns.convolve(_opened(x[first:last], _part(gate, first, last)), w, out=block)
                if row_bias is not None:
                    rows = block.reshape(-1, len(row_bias))
                    rows += row_bias
                if activation is not None:
                    _activate(block, activation, out=block)

        self._parallel(work, len(x), g.multiply_adds // len(x) // PRODUCTS)
        return y

    def _scatter_columns(self, dy: Array, w: Array, g: Geometry, gate: Gate | None) -> Array:
        """Input gradient with strides: products with every tap, added where the tap stood."""
        n, h, width, c = g.x_shape
        (top, bottom), (left, right) = g.padding
        (sh, sw), (dh, dw), (kh, kw) = g.stride, g.dilation, g.window
        _, oh, ow, _ = g.y_shape
        taps = kh * kw * c // g.groups
        filters = w.reshape(taps, g.filters)
        dx = host_memory.empty(g.x_shape, dy.dtype)
        images = max(1, BLOCK // (oh * ow * kh * kw * c))

        def work(start: int, stop: int) -> None:
            for first in range(start, stop, images):
                last = min(first + images, stop)
                block = _opened(dy[first:last], _part(gate, first, last)).reshape(-1, g.filters)
                padded = np.zeros((last - first, top + h + bottom, left + width + right, c), dy.dtype)
                for i in range(g.groups):
                    span = group_slice(i, g.groups, g.filters)
                    column = (block[:, span] @ filters[:, span].T).reshape(last - first, oh, ow, kh, kw, -1)
                    target = padded[..., group_slice(i, g.groups, c)]
                    for p in range(kh):
                        for q in range(kw):
                            rows = slice(p * dh, p * dh + sh * (oh - 1) + 1, sh)
                            target[:, rows, q * dw : q * dw + sw * (ow - 1) + 1 : sw] += column[:, :, :, p, q]
                dx[first:last] = padded[:, top : top + h, left : left + width]

        self._parallel(work, n, g.multiply_adds // n // PRODUCTS)
        return dx

    # ---- matrix product

    def matmul(
        self,
        a: Array,
        b: Array,
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        bias: Array | None = None,
        activation: Activation | None = None,
        gate: Gate | None = None,
        out: Array | None = None,
        accumulate: bool = False,
    ) -> Array:
        a = _opened(a, gate)
        left, right = a.T if transpose_a else a, b.T if transpose_b else b
        if out is None:
            out, accumulate = host_memory.empty((left.shape[0], right.shape[1]), a.dtype), False
        y = out

        def work(start: int, stop: int) -> None:
            rows = np.matmul(left[start:stop], right, out=None if accumulate else y[start:stop])
            if bias is not None:
                rows += bias
            if activation is not None:
                _activate(rows, activation, out=rows)
            if accumulate:
                y[start:stop] += rows

        self._parallel(work, len(y), right.size // PRODUCTS)
        return y

    # ---- pooling

    def max_pool2d_forward(self, x: Array, *, geometry: Geometry) -> tuple[Array, Array]:
        y = host_memory.empty(geometry.y_shape, x.dtype)
        mask = host_memory.empty(geometry.y_shape, geometry.mask_dtype)

        def work(start: int, stop: int) -> None:
            numpy_pool.max_forward(x[start:stop], y[start:stop], mask[start:stop], geometry)

        self._parallel(work, len(x), x[0].size)
        return y, mask

    def max_pool2d_backward(self, dy: Array, mask: Array, *, geometry: Geometry) -> Array:
        dx = host_memory.empty(geometry.x_shape, dy.dtype)

        def work(start: int, stop: int) -> None:
            dx[start:stop] = 0
            numpy_pool.max_backward(dy[start:stop], mask[start:stop], dx[start:stop], geometry)

        self._parallel(work, len(dy), dx[0].size)
        return dx

    def avg_pool2d_forward(self, x: Array, *, geometry: Geometry, count_padding: bool) -> Array:
        y = host_memory.empty(geometry.y_shape, x.dtype)

        def work(start: int, stop: int) -> None:
            numpy_pool.average_forward(x[start:stop], y[start:stop], geometry, count_padding)

        self._parallel(work, len(x), x[0].size)
        return y

    def avg_pool2d_backward(self, dy: Array, *, geometry: Geometry, count_padding: bool) -> Array:
        dx = host_memory.empty(geometry.x_shape, dy.dtype)

        def work(start: int, stop: int) -> None:
            dx[start:stop] = 0
            numpy_pool.average_backward(dy[start:stop], dx[start:stop], geometry, count_padding)

        self._parallel(work, len(dy), dx[0].size)
        return dx

    # ---- activations

    def activation_forward(self, x: Array, activation: Activation) -> Array:
        y = host_memory.empty(x.shape, x.dtype)
        flat, out = x.reshape(-1), y.reshape(-1)
        self._parallel(lambda i, j: _activate(flat[i:j], activation, out=out[i:j]), x.size, 1)
        return y

    def activation_backward(self, dy: Array, y: Array, activation: Activation) -> Array:
        dx = host_memory.empty(dy.shape, dy.dtype)
        flat_dy, flat_y, out = dy.reshape(-1), y.reshape(-1), dx.reshape(-1)

        def work(start: int, stop: int) -> None:
            for i in range(start, stop, BLOCK):
                j = min(i + BLOCK, stop)
                out[i:j] = _opened(flat_dy[i:j], Gate(flat_y[i:j], activation))

        self._parallel(work, dy.size, 1)
        return dx

    # ---- threads

    @contextmanager
    def _one_blas_thread(self) -> Iterator[None]:
        before = [library.get_num_threads() for library in self._blas]
        for library in self._blas:
            library.set_num_threads(1)
        try:
            yield
        finally:
            for library, threads in zip(self._blas, before, strict=True):
                library.set_num_threads(threads)

    def _parallel(self, work: Callable[[int, int], T], count: int, each: int) -> list[T]:
        """work(start, stop) on one part of range(count) a thread; the results in the order of the parts.

        Args:
            each: elements of work that one of `count` stands for.
        """
        parts = min(self.threads, count, max(1, count * each // SMALL))
        if self._process != os.getpid():  # threads do not survive a fork
            self._make_pool()
        # BLAS's own threads spin for milliseconds after a product, and would take the cores from these
        with self._one_blas_thread(), np.errstate(all="ignore"):
            if parts <= 1 or self._pool is None:
                return [work(0, count)]
            bounds = [count * i // parts for i in range(parts + 1)]
            waiting = [self._pool.submit(_quietly, work, i, j) for i, j in pairwise(bounds[1:])]
            try:
                first = work(0, bounds[1])
            finally:
                rest = [task.result() for task in waiting]
        return [first, *rest]


def _activate(x: Array, activation: Activation, *, out: Array) -> None:
    match activation.name:
        case "relu":
            np.maximum(x, 0, out=out)
        case "leaky_relu":
            low = np.minimum(x, 0)
            low *= activation.slope
            np.maximum(x, 0, out=out)
            out += low
        case "sigmoid":
            np.exp(-x, out=out)
            out += 1
            np.reciprocal(out, out=out)
        case _:
            np.tanh(x, out=out)


def _opened(dy: Array, gate: Gate | None) -> Array:
    """dy taken back through the activation whose output the gate holds."""
    if gate is None:
        return dy
    y = gate.y
    match gate.activation.name:
        case "relu":
            # keep the bits of dy where y is not <= 0: free of branches, and NaN in y lets dy through
            bits = np.dtype(f"i{dy.dtype.itemsize}")
            mask = host_memory.empty(y.shape, bits)
            np.negative(np.logical_not(y <= 0).view(np.int8), out=mask, casting="unsafe")
            return np.bitwise_and(dy.view(bits), mask, out=mask).view(dy.dtype)
        case "leaky_relu":
            slopes = np.array([1, gate.activation.slope], dy.dtype)
            factor = slopes[(y <= 0).view(np.uint8)]
            return np.multiply(dy, factor, out=factor)
        case "sigmoid":
            slope = 1 - y
            slope *= y
            return np.multiply(dy, slope, out=slope)
        case _:
            slope = y * y
            np.subtract(1, slope, out=slope)
            return np.multiply(dy, slope, out=slope)


def _part(gate: Gate | None, first: int, last: int) -> Gate | None:
    return None if gate is None else Gate(gate.y[first:last], gate.activation)


def _full_padding(g: Geometry) -> tuple[tuple[int, int], tuple[int, int]]:
    """Padding of dy under which its convolution with the rotated filters has the size of x."""
    sides = []
    for e, (before, _), n, out in zip(g.effective_window, g.padding, g.x_shape[1:3], g.y_shape[1:3], strict=True):
        first = e - 1 - before
        sides.append((first, n + e - 1 - out - first))
    return sides[0], sides[1]


def _quietly(work: Callable[[int, int], T], start: int, stop: int) -> T:
    with np.errstate(all="ignore"):  # of this thread: the setting is not inherited
        return work(start, stop)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
