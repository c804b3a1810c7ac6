"""Resampling and filters of each place on a CUDA device: kernels/resample2d.cu and local_conv2d.cu."""

from __future__ import annotations

from abc import ABC

import numpy as np

from gpunet.backends.base import Array
from gpunet.backends.cuda_device import CudaDevice, check_accumulate, geometry_fields
from gpunet.geometry import Geometry
from gpunet.resampling import Taps

Placed = tuple[Array, Array, Array]
"""The starts, indices and weights of `Taps`, on the device."""


class CudaSpatial(CudaDevice, ABC):
    """Primitives of kernels/resample2d.cu and local_conv2d.cu."""

    def resample2d(self, x: Array, rows: Taps, columns: Taps) -> Array:
        element = self._element("resample2d", x=(x, (x.shape[0], rows.extent, columns.extent, x.shape[-1])))
        n, h, w, c = x.shape
        y = self.arrays.empty((n, rows.outputs, columns.outputs, c), x.dtype)
        fields = {"N": n, "H": h, "W": w, "C": c, "OH": rows.outputs, "OW": columns.outputs}
        v = 4 if not self.simple and c % 4 == 0 and self._aligned(x, y) else 1
        args = x, *self._placed(rows), *self._placed(columns), y, fields
        self._each("resample2d", y.size // v, *args, element=f"{element}, {v}")
        return y

    def _placed(self, taps: Taps) -> Placed:
        """The tables on the device, a few kilobytes each."""
        return (
            self._constant((taps, "starts"), lambda: taps.starts),
            self._constant((taps, "index"), lambda: taps.index),
            self._constant((taps, "weight"), lambda: taps.weight.astype(np.float32)),
        )

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
