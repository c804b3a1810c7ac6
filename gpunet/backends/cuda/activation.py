"""Activations on a CUDA device."""

from gpunet.backends.contract import INPUT_ACTIVATIONS, Activation, Array, InputActivation
from gpunet.backends.cuda.device import CudaDevice, activation_fields, piece_of_each


class CudaActivation(CudaDevice):
    """Primitives of kernels/activation.cu and kernels/input_activation.cu."""

    def activation_forward(self, x: Array, activation: Activation) -> Array:
        return self._elementwise("activation_forward", activation_fields(activation), x=x)

    def activation_backward(self, dy: Array, y: Array, activation: Activation) -> Array:
        return self._elementwise("activation_backward", activation_fields(activation), dy=dy, y=y)

    def input_activation_forward(self, x: Array, activation: InputActivation) -> Array:
        return self._elementwise("input_activation_forward", _input_fields(activation), x=x)

    def input_activation_backward(self, dy: Array, x: Array, activation: InputActivation) -> Array:
        return self._elementwise("input_activation_backward", _input_fields(activation), dy=dy, x=x)

    def _elementwise(self, kernel: str, fields: dict[str, float], **given: Array) -> Array:
        """Launch a kernel on arrays of one shape -> its result, of this shape."""
        like, *_ = given.values()
        element = self._element(kernel, **{name: (array, like.shape) for name, array in given.items()})
        y = self.arrays.empty(like.shape, like.dtype)
        self._each(kernel, y.size, *given.values(), y, y.size, fields, element=element, each=piece_of_each(y))
        return y


def _input_fields(activation: InputActivation) -> dict[str, float]:
    """The struct InputActivation of the kernels."""
    return {"kind": INPUT_ACTIVATIONS.index(activation.name), "beta": activation.beta}
