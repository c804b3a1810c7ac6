"""Locally connected layers on a CUDA device."""

from __future__ import annotations

from abc import ABC

import numpy as np

from gpunet.backends.contract.arrays import Array
from gpunet.backends.cuda.device import CudaDevice, check_accumulate, geometry_fields
from gpunet.geometry import Geometry


class CudaLocal(CudaDevice, ABC):
    """Primitives of kernels/local_conv2d.cu."""

    def local_conv2d_forward(self, x: Array, w: Array, b: Array | None = None, *, geometry: Geometry) -> Array:
        g = geometry
        filters, biases = _shapes(g)
        element = self._element("local_conv2d_forward", x=(x, g.x_shape), w=(w, filters), b=(b, biases))
        y = self.arrays.empty(g.y_shape, x.dtype)
        args = x, w, b, y, geometry_fields(g)
        self._each("local_conv2d_forward", y.size, *args, element=element, flops=2 * g.multiply_adds)
        return y

    def local_conv2d_input_grad(self, dy: Array, w: Array, *, geometry: Geometry) -> Array:
        g = geometry
        element = self._element("local_conv2d_input_grad", dy=(dy, g.y_shape), w=(w, _shapes(g)[0]))
        dx = self.arrays.empty(g.x_shape, dy.dtype)
        args = dy, w, dx, geometry_fields(g)
        self._each("local_conv2d_input_grad", dx.size, *args, element=element, flops=2 * g.multiply_adds)
        return dx

    def local_conv2d_weight_grad(
        self,
        dy: Array,
        x: Array,
        *,
        geometry: Geometry,
        out: Array | None = None,
        bias: bool = True,
        bias_out: Array | None = None,
        accumulate: bool = False,
    ) -> tuple[Array, Array | None]:
        g, name = geometry, "local_conv2d_weight_grad"
        filters, biases = _shapes(g)
        self._expect(name, out=(out, filters), bias_out=(bias_out, biases))
        element = self._element(name, dy=(dy, g.y_shape), x=(x, g.x_shape))
        check_accumulate(name, accumulate, bias_out if out is None and bias else out)
        if accumulate and out is None:  # only one of them adds to something: to the other's zeros
            out = self.full(filters, 0.0, np.float32)
        if accumulate and bias and bias_out is None:
            bias_out = self.full(biases, 0.0, np.float32)
        dw = self._out(name, out, filters)
        db = self._out(name, bias_out, biases) if bias else None
        count = dw.size + (0 if db is None else db.size)
        args = dy, x, dw, db, geometry_fields(g), int(accumulate)
        self._each(name, count, *args, element=element, flops=2 * g.multiply_adds)
        return dw, db


def _shapes(g: Geometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of w and of b."""
    places = g.y_shape[1:3]
    return (*places, *g.w_shape), (*places, g.filters)
