"""Activations, and softmax over the last axis."""

from __future__ import annotations

from typing import Any

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.base import ACTIVATIONS, Activation, Array


class _Activate(Function):
    name = "activation"

    def forward(self, x: Array, *, activation: Activation) -> Array:
        self.y = self.backend.activation_forward(x, activation)
        self.activation = activation
        return self.y

    def backward(self, dy: Array) -> Any:
        return self.backend.activation_backward(dy, self.y, self.activation)


class _Gelu(Function):
    name = "gelu"

    def forward(self, x: Array) -> Array:
        self.save(x)
        return self.backend.gelu_forward(x)

    def backward(self, dy: Array) -> Any:
        (x,) = self.saved
        return self.backend.gelu_backward(dy, x)


class _Softmax(Function):
    name = "softmax"

    def forward(self, x: Array, *, log: bool) -> Array:
        self.log = log
        self.y = self.backend.softmax_forward(x, log=log)
        return self.y

    def backward(self, dy: Array) -> Any:
        return self.backend.softmax_backward(dy, self.y, log=self.log)


def activation_of(operation: str, activation: str | Activation | None) -> Activation | None:
    """The activation that an argument means."""
    if activation is None or isinstance(activation, Activation):
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(f"{operation}: activation is {activation!r} but takes one of {', '.join(ACTIVATIONS)} or None")
    return Activation(activation)


def relu(x: Tensor) -> Tensor:
    """max(x, 0); NaN stays NaN, and the gradient at 0 is 0."""
    return _Activate.apply(x, activation=Activation("relu"))


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x where positive, `negative_slope` x elsewhere.

    Args:
        x: any shape and float dtype.
        negative_slope: positive, for the gradient is told from the sign of the output.
    """
    if not negative_slope > 0:
        raise ValueError(f"leaky_relu: negative_slope is {negative_slope} but must be positive; use relu for 0")
    return _Activate.apply(x, activation=Activation("leaky_relu", negative_slope))


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return _Activate.apply(x, activation=Activation("sigmoid"))


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return _Activate.apply(x, activation=Activation("tanh"))


def gelu(x: Tensor) -> Tensor:
    """x Phi(x), Phi the standard normal distribution function itself, not an approximation (Hendrycks & Gimpel 2016).

    Not to be fused by `activation=`: its gradient needs the input, which the others' do not.
    """
    return _Gelu.apply(x)


def softmax(x: Tensor) -> Tensor:
    """exp(x) / sum(exp(x)) over the last axis."""
    return _Softmax.apply(_checked(x, "softmax"), log=False)


def log_softmax(x: Tensor) -> Tensor:
    """The logarithm of `softmax`, computed without overflow."""
    return _Softmax.apply(_checked(x, "log_softmax"), log=True)


def _checked(x: Tensor, operation: str) -> Tensor:
    if expect_tensor(operation, "x", x).ndim == 0:
        raise ValueError(f"{operation}: x has no axes but takes at least one, the classes")
    return x
