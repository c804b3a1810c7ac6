"""The convolutions of `NumpyBackend`: blocks of images on all threads."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import Any

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.gate import Gate, check_fused_pool
from gpunet.backends.host import memory
from gpunet.backends.host.arrays import deliver
from gpunet.backends.numpy.conv.columns import Columns
from gpunet.backends.numpy.conv.form import Form
from gpunet.backends.numpy.conv.registry import form_of
from gpunet.backends.numpy.conv.subpixel import convolve_back, rotate, turned_geometry
from gpunet.backends.numpy.gate import opened, part
from gpunet.backends.numpy.sums import Total
from gpunet.backends.numpy.threads import PRODUCTS, NumpyThreads
from gpunet.geometry import Geometry


class NumpyConv(NumpyThreads, ABC):
    """A convolution, and the gradients of its input and of its weights."""

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
        y = memory.empty(geometry.y_shape if pool is None else pool.y_shape, x.dtype)
        mask = None if pool is None else memory.empty(pool.y_shape, pool.mask_dtype)

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
        dx = memory.empty(g.x_shape, dy.dtype)
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
