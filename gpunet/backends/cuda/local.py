"""Locally connected layers on a CUDA device."""

from gpunet.backends.contract import NEW, Array, Grads, Into
from gpunet.backends.cuda.device import CudaDevice, geometry_fields
from gpunet.cuda.work import Work
from gpunet.geometry import Geometry


class CudaLocal(CudaDevice):
    """The primitives of kernels/local_conv2d.cu."""

    def local_conv2d_forward(self, x: Array, w: Array, b: Array | None, geometry: Geometry) -> Array:
        g, (w_shape, b_shape) = geometry, _shapes(geometry)
        element = self._element("local_conv2d_forward", x=(x, g.x_shape), w=(w, w_shape), b=(b, b_shape))
        y = self.arrays.empty(g.y_shape, x.dtype)
        args = x, w, b, y, geometry_fields(g)
        self._each("local_conv2d_forward", y.size, *args, element=element, work=Work(2 * g.multiply_adds))
        return y

    def local_conv2d_input_grad(self, dy: Array, w: Array, geometry: Geometry) -> Array:
        g = geometry
        element = self._element("local_conv2d_input_grad", dy=(dy, g.y_shape), w=(w, _shapes(g)[0]))
        dx = self.arrays.empty(g.x_shape, dy.dtype)
        args = dy, w, dx, geometry_fields(g)
        self._each("local_conv2d_input_grad", dx.size, *args, element=element, work=Work(2 * g.multiply_adds))
        return dx

    def local_conv2d_weight_grad(self, dy: Array, x: Array, geometry: Geometry, into: Into = NEW) -> Grads:
        g, name = geometry, "local_conv2d_weight_grad"
        element = self._element(name, dy=(dy, g.y_shape), x=(x, g.x_shape))
        dw, db, add = self._place_gradients(name, into, *_shapes(g))
        count = dw.size + (0 if db is None else db.size)
        args = dy, x, dw, db, geometry_fields(g), int(add)
        self._each(name, count, *args, element=element, work=Work(2 * g.multiply_adds))
        return dw, db


def _shapes(g: Geometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(OH, OW, KH, KW, C, O), of the filters, and (OH, OW, O), of the bias."""
    places = g.y_shape[1:3]
    return (*places, *g.w_shape), (*places, g.filters)
