"""Elementwise functions and their gradients in compiled loops: activation.cpp."""

from __future__ import annotations

from functools import cache

import numpy as np

from gpunet.backends.contract import ACTIVATIONS, LINES, Activation, Array, InputActivation
from gpunet.backends.host import memory
from gpunet.backends.numpy.activation import CHEBYSHEV, TERMS, NumpyActivation
from gpunet.backends.numpy.compiled.loops import CompiledLoops

KINDS = (*(name for name in ACTIVATIONS if name not in LINES), "line", "gelu", "silu", "softplus", "hard_swish")
"""The functions by their numbers in activation.cpp."""
WORK = 4
"""Elements of work that one element stands for."""


class CompiledActivation(CompiledLoops, NumpyActivation):
    """Elementwise functions and their gradients."""

    def activation_forward(self, x: Array, activation: Activation) -> Array:
        loops = self._loops("activation", x)
        if loops is None:
            return super().activation_forward(x, activation)
        y = memory.empty(x.shape, x.dtype)
        self._spread(loops, "activation_forward", x.size, WORK, x, y, *kind_and_numbers(activation), None, 0)
        return y

    def activation_backward(self, dy: Array, y: Array, activation: Activation) -> Array:
        loops = self._loops("activation", dy, y)
        if loops is None:
            return super().activation_backward(dy, y, activation)
        dx = memory.empty(y.shape, y.dtype)
        self._spread(loops, "activation_backward", y.size, WORK, dy, y, dx, *kind_and_numbers(activation))
        return dx

    def input_activation_forward(self, x: Array, activation: InputActivation) -> Array:
        loops = self._loops("activation", x)
        if loops is None:
            return super().input_activation_forward(x, activation)
        y, series = memory.empty(x.shape, x.dtype), _series(x.dtype.name)
        numbers = KINDS.index(activation.name), float(activation.beta), 0.0, 0.0, 0.0, series, len(series)
        self._spread(loops, "activation_forward", x.size, WORK, x, y, *numbers)
        return y

    def input_activation_backward(self, dy: Array, x: Array, activation: InputActivation) -> Array:
        loops = self._loops("activation", dy, x)
        if loops is None:
            return super().input_activation_backward(dy, x, activation)
        dx, series = memory.empty(x.shape, x.dtype), _series(x.dtype.name)
        numbers = KINDS.index(activation.name), float(activation.beta), series, len(series)
        self._spread(loops, "input_activation_backward", x.size, WORK, dy, x, dx, *numbers)
        return dx


def fused_numbers(activation: Activation | None) -> tuple[float, ...]:
    """A function that is fused, as `with_fused` in band.hpp takes it: -1 for none."""
    return (-1, 0.0, 0.0, 0.0, 0.0) if activation is None else kind_and_numbers(activation)


def kind_and_numbers(activation: Activation) -> tuple[float, ...]:
    """A function whose gradient follows from its output, as activation.cpp takes it."""
    if activation.name in LINES:
        return (KINDS.index("line"), *map(float, activation.line))
    number = {"leaky_relu": activation.negative_slope, "elu": activation.alpha}.get(activation.name, 0.0)
    return KINDS.index(activation.name), float(number), 0.0, 0.0, 0.0


@cache
def _series(dtype: str) -> Array:
    return np.array(CHEBYSHEV[: TERMS[dtype]], dtype)
