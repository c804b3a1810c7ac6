"""The contract of locally connected layers."""

from abc import ABC, abstractmethod

from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.gradients import NEW, Grads, Into
from gpunet.geometry import Geometry


class LocalPrimitives(ABC):
    """A convolution with different filters for each output pixel."""

    @abstractmethod
    def local_conv2d_forward(self, x: Array, w: Array, b: Array | None, geometry: Geometry) -> Array:
        """Product of each window with the filters of its output pixel -> y (N, OH, OW, O).

        With x (N, H, W, C), w (OH, OW, KH, KW, C, O), b (OH, OW, O), stride s and dilation d,

            y[n, p, q, o] = b[p, q, o] + sum over i, j, c of
                x[n, p s + i d - pad, q s + j d - pad, c] w[p, q, i, j, c, o]
        """

    @abstractmethod
    def local_conv2d_input_grad(self, dy: Array, w: Array, geometry: Geometry) -> Array:
        """Gradient of x, of dy (N, OH, OW, O) -> dx (N, H, W, C)."""

    @abstractmethod
    def local_conv2d_weight_grad(self, dy: Array, x: Array, geometry: Geometry, into: Into = NEW) -> Grads:
        """Gradients of w and b, of their shapes -> (dw, db or None); see `conv2d_weight_grad`."""
