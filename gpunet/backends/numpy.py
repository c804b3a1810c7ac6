"""`NumpyBackend`: the fast CPU path. Windows are copied into columns and multiplied by BLAS: `numpy_conv.py`
with many channels, `numpy_planes.py` with few, `numpy_depthwise.py` with a filter a channel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from gpunet.backends import host_memory, numpy_group_norm, numpy_input_activation, numpy_norm, numpy_pool
from gpunet.backends.base import Activation, Array, Gate, InputActivation, Moments, check_fused_pool
from gpunet.backends.host import deliver
from gpunet.backends.numpy_activation import activate, open_activation, opened, part
from gpunet.backends.numpy_conv import BLOCK, Columns, Form, convolve_back, rotate, turned_geometry
from gpunet.backends.numpy_depthwise import Depthwise
from gpunet.backends.numpy_planes import Planes
from gpunet.backends.numpy_spatial import NumpySpatial
from gpunet.backends.numpy_sums import Total, add_axes, multiply, takes_chunks
from gpunet.backends.numpy_threads import T
from gpunet.geometry import Geometry

PRODUCTS = 32
"""Multiply-adds of a matrix product that take as long as one element elsewhere."""


class NumpyBackend(NumpySpatial):
    """BLAS, strided views and threads: see `NumpyThreads`."""

    name = "numpy"
    dtypes = ("float32", "float64")

    # ---- convolution

    def conv2d_forward(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        *,
        geometry: Geometry,
        activation: Activation | None = None,
        pool: Geometry | None = None,
    ) -> tuple[Array, Array | None]:
        check_fused_pool("conv2d_forward", geometry, pool)
        y = host_memory.empty(geometry.y_shape if pool is None else pool.y_shape, x.dtype)
        mask = None if pool is None else host_memory.empty(pool.y_shape, pool.mask_dtype)

        def work(form: Form, i: int, j: int) -> None:
            form.forward(x[i:j], w, b, activation, pool, y[i:j], None if mask is None else mask[i:j])

        self._in_blocks(form_of(geometry), geometry, x.dtype, work)
        return y, mask

    def conv2d_input_grad(self, dy: Array, w: Array, *, geometry: Geometry, gate: Gate | None = None) -> Array:
        g = geometry
        if g.pointwise and (gate is None or gate.mask is None):
            flat = g.pixels, g.filters
            flat_gate = None if gate is None or gate.y is None else gate._replace(y=gate.y.reshape(flat))
            return self.matmul(dy.reshape(flat), w[0, 0], transpose_b=True, gate=flat_gate).reshape(g.x_shape)
        dx = host_memory.empty(g.x_shape, dy.dtype)
        form = form_of(g)
        if form is Columns and (turned := turned_geometry(g)) is not None:
            rotated = rotate(w, g.groups, g.stride)

            def convolve(form: Form, i: int, j: int) -> None:
                convolve_back(form, opened(dy[i:j], part(gate, i, j)), rotated, g, dx[i:j])

            self._in_blocks(form, turned, dy.dtype, convolve)
        else:

            def work(form: Form, i: int, j: int) -> None:
                form.input_grad(dy[i:j], w, part(gate, i, j), dx[i:j])

            self._in_blocks(form, g, dy.dtype, work)
        return dx

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
        filters = geometry.filters
        if geometry.pointwise:
            dense = opened(dy, gate).reshape(geometry.pixels, filters)
            flat_out = None if out is None else out.reshape(-1, filters)
            rows = x.reshape(geometry.pixels, x.shape[3])
            dw = self.matmul(rows, dense, transpose_a=True, out=flat_out, accumulate=accumulate)
            db = deliver(self.sum(dense, (0,)), bias_out, accumulate) if bias else None
            return dw.reshape(
                geometry.w_shape
            ) if out is None else out, db  # itself, not a view: the tape compares them

        def begin() -> tuple[Total, Total | None]:
            return Total(geometry.w_shape, x.dtype), Total((filters,), x.dtype) if bias else None

        def work(form: Form, i: int, j: int, dw: Total, db: Total | None) -> None:
            form.weight_grad(dy[i:j], x[i:j], part(gate, i, j), dw, db)

        (dw, db), *others = self._in_blocks(form_of(geometry), geometry, x.dtype, work, begin)
        for more_dw, more_db in others:
            dw.join(more_dw)
            if db is not None:
                db.join(more_db)
        return deliver(dw.result(), out, accumulate), (
            None if db is None else deliver(db.result(), bias_out, accumulate)
        )

    def _in_blocks(
        self, kind: type[Form], g: Geometry, dtype: Any, work: Callable[..., None], begin: Callable[[], Any] = tuple
    ) -> list[Any]:
        """work(form, i, j, *state) for blocks of images i … j - 1, on all threads; -> each thread's state, which
        `begin` makes."""

        def run(start: int, stop: int) -> Any:
            form, state = kind(g, dtype), begin()
            for i, j in form.blocks(start, stop):
                work(form, i, j, *state)
            return state

        images = g.x_shape[0]
        return self._parallel(run, images, g.multiply_adds // max(images, 1) // PRODUCTS) or [begin()]

    def _parallel(self, work: Callable[[int, int], T], count: int, each: int) -> list[T]:
        """No results where there is nothing to do."""
        return super()._parallel(work, count, each) if count else []

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
        a = opened(a, gate)
        left, right = a.T if transpose_a else a, b.T if transpose_b else b
        if out is None:
            out, accumulate = host_memory.empty((left.shape[0], right.shape[1]), a.dtype), False
        y = out

        def work(start: int, stop: int) -> None:
            rows = None if accumulate else y[start:stop]
            if takes_chunks(left[start:stop], right):
                rows = deliver(multiply(left[start:stop], right), rows, accumulate=False)
            else:
                rows = np.matmul(left[start:stop], right, out=rows)
            if bias is not None:
                rows += bias
            if activation is not None:
                activate(rows, activation, out=rows)
            if accumulate:
                y[start:stop] += rows

        self._parallel(work, len(y), right.size // PRODUCTS)
        return y

    def batched_matmul(self, a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False) -> Array:
        left, right = a.swapaxes(1, 2) if transpose_a else a, b.swapaxes(1, 2) if transpose_b else b
        y = host_memory.empty((*left.shape[:2], right.shape[2]), a.dtype)
        work = left.shape[1] * right[0].size // PRODUCTS if len(a) else 0
        self._parallel(lambda i, j: np.matmul(left[i:j], right[i:j], out=y[i:j]), len(a), work)
        return y

    def sum(self, a: Array, axes: tuple[int, ...]) -> Array:
        if a.dtype.char not in "fd" or not a.flags.c_contiguous:
            return super().sum(a, axes)
        return self._alone(partial(add_axes, a, axes))

    # ---- pooling

    def max_pool2d_forward(self, x: Array, *, geometry: Geometry) -> tuple[Array, Array]:
        y = host_memory.empty(geometry.y_shape, x.dtype)
        mask = host_memory.empty(geometry.y_shape, geometry.mask_dtype)

        def work(start: int, stop: int) -> None:
            numpy_pool.max_forward(x[start:stop], y[start:stop], mask[start:stop], geometry)

        self._parallel(work, len(x), prod(x.shape[1:]))
        return y, mask

    def max_pool2d_backward(self, dy: Array, mask: Array, *, geometry: Geometry) -> Array:
        dx = host_memory.empty(geometry.x_shape, dy.dtype)

        def work(start: int, stop: int) -> None:
            dx[start:stop] = 0
            numpy_pool.max_backward(dy[start:stop], mask[start:stop], dx[start:stop], geometry)

        self._parallel(work, len(dy), prod(dx.shape[1:]))
        return dx

    def avg_pool2d_forward(self, x: Array, *, geometry: Geometry, count_padding: bool) -> Array:
        y = host_memory.empty(geometry.y_shape, x.dtype)

        def work(start: int, stop: int) -> None:
            numpy_pool.average_forward(x[start:stop], y[start:stop], geometry, count_padding)

        self._parallel(work, len(x), prod(x.shape[1:]))
        return y

    def avg_pool2d_backward(self, dy: Array, *, geometry: Geometry, count_padding: bool) -> Array:
        dx = host_memory.empty(geometry.x_shape, dy.dtype)

        def work(start: int, stop: int) -> None:
            dx[start:stop] = 0
            numpy_pool.average_backward(dy[start:stop], dx[start:stop], geometry, count_padding)

        self._parallel(work, len(dy), prod(dx.shape[1:]))
        return dx

    # ---- normalisation

    def batch_norm_forward(
        self,
        x: Array,
        gamma: Array | None,
        beta: Array | None,
        running_mean: Array,
        running_var: Array,
        *,
        momentum: float,
        eps: float,
        training: bool,
        activation: Activation | None = None,
        residual: Array | None = None,
    ) -> tuple[Array, Moments]:
        saved = Moments(running_mean, running_var)
        if training:
            saved, n = numpy_norm.moments(x, self._parallel)
            running_mean += momentum * (saved.mean - running_mean)
            running_var += momentum * (saved.variance * (n / (n - 1)) - running_var)
        apply = None if activation is None else lambda block: activate(block, activation, out=block)
        return numpy_norm.normalize(x, gamma, beta, saved, eps, residual, apply, self._parallel), saved

    def batch_norm_backward(
        self,
        dy: Array,
        x: Array,
        y: Array | None,
        gamma: Array | None,
        saved: Moments,
        *,
        eps: float,
        training: bool,
        activation: Activation | None = None,
        residual: bool = False,
        gamma_out: Array | None = None,
        beta_out: Array | None = None,
        accumulate: bool = False,
    ) -> tuple[Array, Array, Array, Array | None]:
        g, fill = dy, None
        if activation is not None:  # opened once, by the sums, for both passes
            g = host_memory.empty(dy.shape, dy.dtype)
            rows, upstream, output = (numpy_norm.as_rows(a) for a in (g, dy, y))

            def fill(i: int, j: int) -> None:
                rows[i:j] = open_activation(upstream[i:j], output[i:j], activation)

        sums = numpy_norm.gradient_sums(g, x, saved, eps, fill, self._parallel)
        dx = host_memory.empty(x.shape, x.dtype) if residual or g is dy else g
        numpy_norm.input_gradient(g, x, gamma, saved, eps, sums if training else None, dx, self._parallel)
        dgamma, dbeta = (total.astype(x.dtype) for total in sums)
        dgamma, dbeta = deliver(dgamma, gamma_out, accumulate), deliver(dbeta, beta_out, accumulate)
        return dx, dgamma, dbeta, g if residual else None

    def group_norm_forward(
        self, x: Array, gamma: Array | None, beta: Array | None, *, groups: int, eps: float
    ) -> tuple[Array, Moments]:
        return numpy_group_norm.forward(x, gamma, beta, groups, eps, self._parallel)

    def group_norm_backward(
        self,
        dy: Array,
        x: Array,
        gamma: Array | None,
        saved: Moments,
        *,
        groups: int,
        eps: float,
        gamma_out: Array | None = None,
        beta_out: Array | None = None,
        accumulate: bool = False,
    ) -> tuple[Array, Array, Array]:
        dx, *sums = numpy_group_norm.backward(dy, x, gamma, saved, groups, eps, self._parallel)
        dgamma, dbeta = (total.astype(x.dtype) for total in sums)
        return dx, deliver(dgamma, gamma_out, accumulate), deliver(dbeta, beta_out, accumulate)

    # ---- activations

    def activation_forward(self, x: Array, activation: Activation) -> Array:
        y = host_memory.empty(x.shape, x.dtype)
        flat, out = x.reshape(-1), y.reshape(-1)
        self._parallel(lambda i, j: activate(flat[i:j], activation, out=out[i:j]), x.size, 1)
        return y

    def activation_backward(self, dy: Array, y: Array, activation: Activation) -> Array:
        dx = host_memory.empty(dy.shape, dy.dtype)
        flat_dy, flat_y, out = dy.reshape(-1), y.reshape(-1), dx.reshape(-1)

        def work(start: int, stop: int) -> None:
            for i in range(start, stop, BLOCK):
                j = min(i + BLOCK, stop)
                out[i:j] = open_activation(flat_dy[i:j], flat_y[i:j], activation)

        self._parallel(work, dy.size, 1)
        return dx

    def input_activation_forward(self, x: Array, activation: InputActivation) -> Array:
        y = host_memory.empty(x.shape, x.dtype)
        flat, out = x.reshape(-1), y.reshape(-1)
        self._parallel(lambda i, j: numpy_input_activation.forward(flat[i:j], out[i:j], activation), x.size, 8)
        return y

    def input_activation_backward(self, dy: Array, x: Array, activation: InputActivation) -> Array:
        dx = host_memory.empty(x.shape, x.dtype)
        flat_dy, flat, out = dy.reshape(-1), x.reshape(-1), dx.reshape(-1)

        def work(i: int, j: int) -> None:
            numpy_input_activation.backward(flat_dy[i:j], flat[i:j], out[i:j], activation)

        self._parallel(work, x.size, 8)
        return dx


def form_of(g: Geometry) -> type[Form]:
    """How a convolution of this geometry is computed."""
    return next((form for form in (Depthwise, Planes) if form.suits(g)), Columns)
