"""Pooling on a CUDA device."""

from __future__ import annotations

from abc import ABC
from typing import Any

from gpunet.backends.contract.arrays import Array
from gpunet.backends.cuda.device import CudaDevice, geometry_fields
from gpunet.cuda.instantiations import ELEMENTS, MASKS, pool_vectors
from gpunet.geometry import Geometry


class CudaPool(CudaDevice, ABC):
    """Primitives of kernels/max_pool2d.cu and avg_pool2d.cu."""

    def max_pool2d_forward(self, x: Array, *, geometry: Geometry) -> tuple[Array, Array]:
        self._element("max_pool2d_forward", x=(x, geometry.x_shape))
        y = self.arrays.empty(geometry.y_shape, x.dtype)
        mask = self.arrays.empty(geometry.y_shape, geometry.mask_dtype)
        self._pool("max_pool2d_forward", y.size, (x, y), mask, x, y, mask, geometry_fields(geometry))
        return y, mask

    def max_pool2d_backward(self, dy: Array, mask: Array, *, geometry: Geometry) -> Array:
        self._element("max_pool2d_backward", dy=(dy, geometry.y_shape))
        if mask.shape != dy.shape:
            raise ValueError(f"max_pool2d_backward: mask has shape {mask.shape} but takes {dy.shape}")
        dx = self.arrays.empty(geometry.x_shape, dy.dtype)
        self._pool("max_pool2d_backward", dx.size, (dy, dx), mask, dy, mask, dx, geometry_fields(geometry))
        return dx

    def _pool(self, kernel: str, count: int, floats: tuple[Array, ...], mask: Array, *args: Any) -> None:
        """Launch max pooling, four channels a thread where every load of them is aligned."""
        dtype, kind = floats[0].dtype.name, mask.dtype.name
        vector = not self.simple and floats[0].shape[3] % 4 == 0 and self._aligned(*floats)
        v = pool_vectors(dtype, kind)[0] if vector else 1
        self._each(kernel, count // v, *args, element=f"{ELEMENTS[dtype]}, {MASKS[kind]}, {v}")

    def avg_pool2d_forward(self, x: Array, *, geometry: Geometry, count_padding: bool) -> Array:
        element = self._element("avg_pool2d_forward", x=(x, geometry.x_shape))
        y = self.arrays.empty(geometry.y_shape, x.dtype)
        args = x, y, geometry_fields(geometry), _counted_fields(geometry, count_padding)
        self._each("avg_pool2d_forward", y.size, *args, element=element)
        return y

    def avg_pool2d_backward(self, dy: Array, *, geometry: Geometry, count_padding: bool) -> Array:
        element = self._element("avg_pool2d_backward", dy=(dy, geometry.y_shape))
        dx = self.arrays.empty(geometry.x_shape, dy.dtype)
        args = dy, dx, geometry_fields(geometry), _counted_fields(geometry, count_padding)
        self._each("avg_pool2d_backward", dx.size, *args, element=element)
        return dx


def _counted_fields(g: Geometry, count_padding: bool) -> dict[str, int]:
    """The kernels' Counted."""
    (top, bottom), (left, right) = g.counted_padding if count_padding else ((0, 0), (0, 0))
    return {"top": top, "bottom": bottom, "left": left, "right": right}
