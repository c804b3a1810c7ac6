"""Locally connected layers on a CUDA device."""

from gpunet.backends.contract import NEW, Array, Grads, Into
from gpunet.backends.cuda.device import MAX_BLOCKS, THREADS, WARP, CudaDevice, geometry_fields
from gpunet.cuda.naming import instance
from gpunet.cuda.work import Work
from gpunet.geometry import Geometry
from gpunet.nvrtc.source import constant

IMAGES = constant("local_conv2d.cu", "IMAGES")
"""Images of a thread, for which it reads a filter once."""


class CudaLocal(CudaDevice):
    """The primitives of kernels/local_conv2d.cu."""

    def local_conv2d_forward(self, x: Array, w: Array, b: Array | None, geometry: Geometry) -> Array:
        g, (w_shape, b_shape) = geometry, _shapes(geometry)
        element = self._element("local_conv2d_forward", x=(x, g.x_shape), w=(w, w_shape), b=(b, b_shape))
        y = self.arrays.empty(g.y_shape, x.dtype)
        count = -(-g.y_shape[0] // IMAGES) * (y.size // max(g.y_shape[0], 1))
        name, args = f"{element}, {self._vector_of(g.x_shape[3], x)}", (x, w, b, y, geometry_fields(g))
        self._each("local_conv2d_forward", count, *args, element=name, work=Work(2 * g.multiply_adds))
        return y

    def local_conv2d_input_grad(self, dy: Array, w: Array, geometry: Geometry) -> Array:
        g, name = geometry, "local_conv2d_input_grad"
        element = self._element(name, dy=(dy, g.y_shape), w=(w, _shapes(g)[0]))
        dx = self.arrays.empty(g.x_shape, dy.dtype)
        if not dx.size:
            return dx
        images, rows, columns, channels = g.x_shape
        across = min(WARP, 1 << (channels - 1).bit_length())
        threads = min(THREADS, -(-across * -(-images // IMAGES) // WARP) * WARP)
        tiles = -(-images // (threads // across * IMAGES)) * -(-channels // across)
        blocks = min(rows * columns * tiles, MAX_BLOCKS)
        kernel = instance(name, element, self._vector_of(g.filters, dy))
        args = dy, w, dx, geometry_fields(g), across
        self.launcher.launch(kernel, blocks, threads, args, work=Work(2 * g.multiply_adds))
        return dx

    def local_conv2d_weight_grad(self, dy: Array, x: Array, geometry: Geometry, into: Into = NEW) -> Grads:
        g, name = geometry, "local_conv2d_weight_grad"
        element = self._element(name, dy=(dy, g.y_shape), x=(x, g.x_shape))
        dw, db, add = self._place_gradients(name, into, *_shapes(g))
        v = self._vector_of(g.x_shape[3], x)
        count = dw.size // v + (0 if db is None else db.size)
        args = dy, x, dw, db, geometry_fields(g), int(add)
        self._each(name, count, *args, element=f"{element}, {v}", work=Work(2 * g.multiply_adds))
        return dw, db


def _shapes(g: Geometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(OH, OW, KH, KW, C, O), of the filters, and (OH, OW, O), of the bias."""
    places = g.y_shape[1:3]
    return (*places, *g.w_shape), (*places, g.filters)
