"""Pooling on a CUDA device."""

from math import prod

from gpunet.backends.contract import Array, Gate
from gpunet.backends.cuda.device import MAX_BLOCKS, THREADS, CudaDevice, activation_fields, geometry_fields
from gpunet.backends.cuda.shares import across, shared_blocks, shares_taps
from gpunet.cuda.instantiations import MASKS, pool_vectors
from gpunet.cuda.naming import ELEMENTS, instance
from gpunet.geometry import Geometry


class CudaPool(CudaDevice):
    """The primitives of kernels/max_pool2d.cu and avg_pool2d.cu."""

    def max_pool2d_forward(self, x: Array, pool: Geometry) -> tuple[Array, Array]:
        self._element("max_pool2d_forward", x=(x, pool.x_shape))
        y = self.arrays.empty(pool.y_shape, x.dtype)
        mask = self.arrays.empty(pool.y_shape, pool.mask_dtype)
        self._forward("max_pool2d_forward", pool, (x, y, mask), geometry_fields(pool))
        return y, mask

    def max_pool2d_backward(self, dy: Array, mask: Array, pool: Geometry) -> Array:
        self._element("max_pool2d_backward", dy=(dy, pool.y_shape))
        if mask.shape != dy.shape:
            raise ValueError(f"max_pool2d_backward: mask has shape {mask.shape} but takes {dy.shape}")
        return self._undo_max_pool(dy, Gate(None, None, mask), pool)

    def _undo_max_pool(self, dy: Array, gate: Gate, pool: Geometry) -> Array:
        """dy taken back through the gate's activation, and then through the pool."""
        dx = self.arrays.empty(pool.x_shape, dy.dtype)
        args = dy, gate.y, gate.mask, dx, geometry_fields(pool), activation_fields(gate.activation)
        element, v = self._variant("max_pool2d_backward", dy, gate.mask, dx, *(() if gate.y is None else (gate.y,)))
        self._each("max_pool2d_backward", dx.size // v, *args, element=element)
        return dx

    def avg_pool2d_forward(self, x: Array, pool: Geometry, count_padding: bool) -> Array:
        self._element("avg_pool2d_forward", x=(x, pool.x_shape))
        y = self.arrays.empty(pool.y_shape, x.dtype)
        fields = geometry_fields(pool), _counted_fields(pool, count_padding)
        self._forward("avg_pool2d_forward", pool, (x, y), *fields)
        return y

    def _forward(self, kernel: str, pool: Geometry, arrays: tuple[Array, ...], *fields: dict[str, int]) -> None:
        """Launch a pass in which a thread takes a window, or the threads of a block share one."""
        results, c, long = prod(pool.y_shape), pool.y_shape[3], f"{kernel}_long"
        element, v = self._variant(long, *arrays)
        if self.simple or not shares_taps(results // v, prod(pool.window)):
            element, v = self._variant(kernel, *arrays)
            self._each(kernel, results // v, *arrays, *fields, element=element)
        else:
            blocks = min(shared_blocks(results, c, v), MAX_BLOCKS)
            self.launcher.launch(instance(long, element), blocks, THREADS, (*arrays, *fields, across(c, v)))

    def _variant(self, kernel: str, *arrays: Array) -> tuple[str, int]:
        """(template arguments, neighbouring channels that a thread takes at once) for a kernel's
        arrays."""
        dtype, masks = arrays[0].dtype.name, [a.dtype.name for a in arrays if a.dtype.name in MASKS]
        v = self._piece_of(arrays[0].shape[3], *arrays)
        if masks and v not in pool_vectors(kernel, dtype, *masks):
            v = 1
        return ", ".join([ELEMENTS[dtype], *(MASKS[mask] for mask in masks), str(v)]), v

    def avg_pool2d_backward(self, dy: Array, pool: Geometry, count_padding: bool) -> Array:
        self._element("avg_pool2d_backward", dy=(dy, pool.y_shape))
        dx = self.arrays.empty(pool.x_shape, dy.dtype)
        element, v = self._variant("avg_pool2d_backward", dy, dx)
        fields = geometry_fields(pool), _counted_fields(pool, count_padding)
        self._each("avg_pool2d_backward", dx.size // v, dy, dx, *fields, element=element)
        return dx


def _counted_fields(pool: Geometry, count_padding: bool) -> dict[str, int]:
    """The kernels' struct `Counted`: the padding that counts in a mean."""
    (top, bottom), (left, right) = pool.counted_padding if count_padding else ((0, 0), (0, 0))
    return {"top": top, "bottom": bottom, "left": left, "right": right}
