"""Activations on a CUDA device."""

from __future__ import annotations

from gpunet.backends.contract import INPUT_ACTIVATIONS, Activation, Array, InputActivation
from gpunet.backends.cuda.device import CudaDevice, activation_fields


class CudaActivation(CudaDevice):
    """Primitives of kernels/activation.cu and kernels/input_activation.cu."""

    def activation_forward(self, x: Array, activation: Activation) -> Array:
        element = self._element("activation_forward", x=(x, None))
        y = self.arrays.empty(x.shape, x.dtype)
        self._each("activation_forward", x.size, x, y, x.size, activation_fields(activation), element=element)
        return y

    def activation_backward(self, dy: Array, y: Array, activation: Activation) -> Array:
        element = self._element("activation_backward", dy=(dy, None), y=(y, dy.shape))
        dx = self.arrays.empty(dy.shape, dy.dtype)
        args = dy, y, dx, dy.size, activation_fields(activation)
        self._each("activation_backward", dy.size, *args, element=element)
        return dx

    def input_activation_forward(self, x: Array, activation: InputActivation) -> Array:
        element = self._element("input_activation_forward", x=(x, None))
        y = self.arrays.empty(x.shape, x.dtype)
        self._each("input_activation_forward", x.size, x, y, x.size, _input_fields(activation), element=element)
        return y

    def input_activation_backward(self, dy: Array, x: Array, activation: InputActivation) -> Array:
        element = self._element("input_activation_backward", dy=(dy, None), x=(x, dy.shape))
        dx = self.arrays.empty(dy.shape, dy.dtype)
        args = dy, x, dx, dy.size, _input_fields(activation)
        self._each("input_activation_backward", dy.size, *args, element=element)
        return dx


def _input_fields(activation: InputActivation) -> dict[str, float]:
    """The struct InputActivation of the kernels."""
    return {"kind": INPUT_ACTIVATIONS.index(activation.name), "beta": activation.beta}
