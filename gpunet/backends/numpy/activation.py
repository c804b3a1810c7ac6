"""Activations of `NumpyBackend`."""

from __future__ import annotations

from gpunet.backends.contract import Activation, Array, InputActivation
from gpunet.backends.host import memory
from gpunet.backends.numpy import input_activation
from gpunet.backends.numpy.output_activation import activate, open_activation
from gpunet.backends.numpy.threads import BLOCK, NumpyThreads


class NumpyActivation(NumpyThreads):
    """Elementwise functions and their gradients."""

    def activation_forward(self, x: Array, activation: Activation) -> Array:
        y = memory.empty(x.shape, x.dtype)
        flat, out = x.reshape(-1), y.reshape(-1)
        self._parallel(lambda i, j: activate(flat[i:j], activation, out=out[i:j]), x.size, 1)
        return y

    def activation_backward(self, dy: Array, y: Array, activation: Activation) -> Array:
        dx = memory.empty(dy.shape, dy.dtype)
        flat_dy, flat_y, out = dy.reshape(-1), y.reshape(-1), dx.reshape(-1)

        def work(start: int, stop: int) -> None:
            for i in range(start, stop, BLOCK):
                j = min(i + BLOCK, stop)
                out[i:j] = open_activation(flat_dy[i:j], flat_y[i:j], activation)

        self._parallel(work, dy.size, 1)
        return dx

    def input_activation_forward(self, x: Array, activation: InputActivation) -> Array:
        y = memory.empty(x.shape, x.dtype)
        flat, out = x.reshape(-1), y.reshape(-1)
        self._parallel(lambda i, j: input_activation.forward(flat[i:j], out[i:j], activation), x.size, 8)
        return y

    def input_activation_backward(self, dy: Array, x: Array, activation: InputActivation) -> Array:
        dx = memory.empty(x.shape, x.dtype)
        flat_dy, flat, out = dy.reshape(-1), x.reshape(-1), dx.reshape(-1)

        def work(i: int, j: int) -> None:
            input_activation.backward(flat_dy[i:j], flat[i:j], out[i:j], activation)

        self._parallel(work, x.size, 8)
        return dx
