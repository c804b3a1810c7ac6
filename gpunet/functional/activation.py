"""Activations, and softmax over the last axis."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract.activation import ACTIVATIONS, INPUT_ACTIVATIONS, Activation, InputActivation
from gpunet.backends.contract.arrays import Array
from gpunet.functional.arithmetic import unbroadcast

_RELU = Activation("relu")
_BELOW = Activation("hard_tanh", low=-inf, high=0.0)  # min(x, 0)


class _Activate(Function):
    name = "activation"
    fresh = True

    def forward(self, x: Array, *, activation: Activation) -> Array:
        self.y = self.backend.activation_forward(x, activation)
        self.activation = activation
        return self.y

    def backward(self, dy: Array) -> Any:
        return self.backend.activation_backward(dy, self.y, self.activation)


class _InputActivate(Function):
    name = "input_activation"
    fresh = True

    def forward(self, x: Array, *, activation: InputActivation) -> Array:
        self.save(x)
        self.activation = activation
        return self.backend.input_activation_forward(x, activation)

    def backward(self, dy: Array) -> Any:
        (x,) = self.saved
        return self.backend.input_activation_backward(dy, x, self.activation)


class _PReLU(Function):
    """y = max(x, 0) + w min(x, 0), from primitives that there are: six passes back, which a layer as rare as this may cost."""

    name = "prelu"

    def forward(self, x: Array, w: Array) -> Array:
        self.save(x, w)
        above = self.backend.activation_forward(x, _RELU)
        return self.backend.binary("add", above, self._times(w, self._below(x)))

    def backward(self, dy: Array) -> Any:
        (x, w), apply = self.saved, self.backend.binary
        dx = dw = None
        if self.needs(0):  # dy above 0, w dy elsewhere
            above = self.backend.activation_backward(dy, x, _RELU)  # x has the signs that it looks for
            dx = apply("add", above, self._times(w, apply("subtract", dy, above)))
        if self.needs(1):
            dw = unbroadcast(self.backend, apply("multiply", dy, self._below(x)), tuple(w.shape))
        return dx, dw

    def _below(self, x: Array) -> Array:
        return self.backend.activation_forward(x, _BELOW)

    def _times(self, w: Array, a: Array) -> Array:
        return self.backend.binary("multiply", w, a)


class _Softmax(Function):
    name = "softmax"
    fresh = True

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


def activate(x: Tensor, activation: Activation | InputActivation) -> Tensor:
    """The activation of x, of any shape and float dtype.

    The gradient of one that tends to a limit is computed from x where it stands alone, for y tells it only to y's own last
    digit: 1 - y of a sigmoid that has rounded to 1 is 0. Fused into the operation before, it follows from y.
    """
    if activation.name in INPUT_ACTIVATIONS and isinstance(activation, Activation):
        activation = InputActivation(activation.name, activation.alpha)
    if isinstance(activation, InputActivation):
        return _InputActivate.apply(x, activation=activation)
    return _Activate.apply(x, activation=activation)


def relu(x: Tensor) -> Tensor:
    """max(x, 0); NaN stays NaN, and the gradient at 0 is 0."""
    return activate(x, _RELU)


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x where positive, `negative_slope` x elsewhere.

    Args:
        x: any shape and float dtype.
        negative_slope: positive, for the gradient is told from the sign of the output.
    """
    return activate(x, Activation("leaky_relu", negative_slope))


def prelu(x: Tensor, w: Any) -> Tensor:
    """x where positive, w x elsewhere, with a slope w that is learned (He et al. 2015, equation 1).

    Args:
        x: (…, C), any float dtype.
        w: (C,), a slope a channel, or (1,), one for all; of any sign.
    Raises:
        ValueError: shapes that do not fit.
    The gradient at 0 is w. That of w is the sum of dy min(x, 0) over what shares it.
    """
    shape = tuple(np.shape(w)) if not isinstance(w, Tensor) else w.shape
    if expect_tensor("prelu", "x", x).ndim == 0 or shape not in ((1,), x.shape[-1:]):
        raise ValueError(f"prelu: w has shape {shape} but x {x.shape} takes (1,) or one slope a channel")
    return _PReLU.apply(x, w)


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x where positive, `alpha` (exp(x) - 1) elsewhere (Clevert et al. 2016).

    Args:
        x: any shape and float dtype.
        alpha: positive, for the gradient is told from the output; at 0 it is `alpha`.
    """
    return activate(x, Activation("elu", alpha=alpha))


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return activate(x, Activation("sigmoid"))


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return activate(x, Activation("tanh"))


def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6) (Krizhevsky 2010); the gradient at 0 and at 6 is 0, as that of `hard_tanh` at its limits."""
    return activate(x, Activation("relu6"))


def hard_tanh(x: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    """min(max(x, low), high).

    Args:
        x: any shape and float dtype.
        low, high: the limits, low < high; the gradient is 1 between them and 0 at them.
    """
    return activate(x, Activation("hard_tanh", low=low, high=high))


def hard_sigmoid(x: Tensor) -> Tensor:
    """min(max(x / 6 + 1/2, 0), 1), as PyTorch has it; the gradient is 1/6 between -3 and 3, and 0 at them."""
    return activate(x, Activation("hard_sigmoid"))


def gelu(x: Tensor) -> Tensor:
    """x Phi(x), Phi the standard normal distribution function itself, not an approximation (Hendrycks & Gimpel 2016).

    Not to be fused by `activation=`: its gradient needs the input, which the others' do not. So do those of `silu`,
    `softplus` and `hard_swish`.
    """
    return activate(x, InputActivation("gelu"))


def silu(x: Tensor) -> Tensor:
    """x / (1 + exp(-x)), also called swish (Ramachandran et al. 2017)."""
    return activate(x, InputActivation("silu"))


def softplus(x: Tensor, beta: float = 1.0) -> Tensor:
    """log(1 + exp(beta x)) / beta, computed without overflow, so without PyTorch's threshold (Dugas et al. 2001).

    Args:
        x: any shape and float dtype.
        beta: positive; the larger, the closer to `relu`.
    """
    return activate(x, InputActivation("softplus", beta))


def hard_swish(x: Tensor) -> Tensor:
    """x min(max(x + 3, 0), 6) / 6 (Howard et al. 2019, section 5.2); the gradient at -3 is 0, at 3 it is 1."""
    return activate(x, InputActivation("hard_swish"))


def softmax(x: Tensor) -> Tensor:
    """exp(x) / sum(exp(x)) over the last axis."""
    return _Softmax.apply(_checked(x, "softmax"), log=False)


def log_softmax(x: Tensor) -> Tensor:
    """The logarithm of `softmax`, computed without overflow."""
    return _Softmax.apply(_checked(x, "log_softmax"), log=True)


def _checked(x: Tensor, operation: str) -> Tensor:
    if expect_tensor(operation, "x", x).ndim == 0:
        raise ValueError(f"{operation}: x has no axes but takes at least one, the classes")
    if x.shape[-1] == 0:
        raise ValueError(f"{operation}: x {x.shape} has no classes")
    return x
