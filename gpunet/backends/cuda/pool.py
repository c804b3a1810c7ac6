"""Pooling on a CUDA device."""

from typing import Any

from gpunet.backends.contract import Array
from gpunet.backends.cuda.device import CudaDevice, geometry_fields
from gpunet.cuda.instantiations import ELEMENTS, MASKS, pool_vectors
from gpunet.geometry import Geometry


class CudaPool(CudaDevice):
    """The primitives of kernels/max_pool2d.cu and avg_pool2d.cu."""

    def max_pool2d_forward(self, x: Array, pool: Geometry) -> tuple[Array, Array]:
        self._element("max_pool2d_forward", x=(x, pool.x_shape))
        y = self.arrays.empty(pool.y_shape, x.dtype)
        mask = self.arrays.empty(pool.y_shape, pool.mask_dtype)
        self._max_pool("max_pool2d_forward", y.size, (x, y), mask, x, y, mask, geometry_fields(pool))
        return y, mask

    def max_pool2d_backward(self, dy: Array, mask: Array, pool: Geometry) -> Array:
        self._element("max_pool2d_backward", dy=(dy, pool.y_shape))
        if mask.shape != dy.shape:
            raise ValueError(f"max_pool2d_backward: mask has shape {mask.shape} but takes {dy.shape}")
        dx = self.arrays.empty(pool.x_shape, dy.dtype)
        self._max_pool("max_pool2d_backward", dx.size, (dy, dx), mask, dy, mask, dx, geometry_fields(pool))
        return dx

    def _max_pool(self, kernel: str, count: int, floats: tuple[Array, ...], mask: Array, *args: Any) -> None:
        """Launch max pooling, with several channels per thread where loads are aligned."""
        dtype, mask_dtype = floats[0].dtype.name, mask.dtype.name
        vector = not self.simple and floats[0].shape[3] % 4 == 0 and self._aligned(*floats)
        v = pool_vectors(dtype, mask_dtype)[0] if vector else 1
        self._each(kernel, count // v, *args, element=f"{ELEMENTS[dtype]}, {MASKS[mask_dtype]}, {v}")

    def avg_pool2d_forward(self, x: Array, pool: Geometry, count_padding: bool) -> Array:
        element = self._element("avg_pool2d_forward", x=(x, pool.x_shape))
        y = self.arrays.empty(pool.y_shape, x.dtype)
        args = x, y, geometry_fields(pool), _counted_fields(pool, count_padding)
        self._each("avg_pool2d_forward", y.size, *args, element=element)
        return y

    def avg_pool2d_backward(self, dy: Array, pool: Geometry, count_padding: bool) -> Array:
        element = self._element("avg_pool2d_backward", dy=(dy, pool.y_shape))
        dx = self.arrays.empty(pool.x_shape, dy.dtype)
        args = dy, dx, geometry_fields(pool), _counted_fields(pool, count_padding)
        self._each("avg_pool2d_backward", dx.size, *args, element=element)
        return dx


def _counted_fields(pool: Geometry, count_padding: bool) -> dict[str, int]:
    """The kernels' struct `Counted`: the padding that counts in a mean."""
    (top, bottom), (left, right) = pool.counted_padding if count_padding else ((0, 0), (0, 0))
    return {"top": top, "bottom": bottom, "left": left, "right": right}
