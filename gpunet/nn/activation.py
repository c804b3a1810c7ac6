"""Activations as layers, whose functions in `gpunet.functional` say what they compute."""

from __future__ import annotations

from math import isfinite, prod
from typing import Any

import numpy as np

from gpunet import functional as F
from gpunet.autograd import Tensor, parameter
from gpunet.backends.contract.activation import Activation, InputActivation
from gpunet.geometry import positive_int
from gpunet.nn.layers import Shape
from gpunet.nn.module import Module


class _Elementwise(Module):
    cost = 1

    def flops(self, x_shape: Shape, y_shape: Shape) -> int:
        """A fixed number an element."""
        return self.cost * prod(y_shape)


class ActivationLayer(_Elementwise):
    """A layer that is an activation, `function`; `nn.fusion` takes in those whose gradient follows from the output."""

    function: Any
    """An `Activation` or an `InputActivation`."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return F.activation.activate(x, self.function)


class ReLU(ActivationLayer):
    """max(x, 0)."""

    function = Activation("relu")


class LeakyReLU(ActivationLayer):
    """x where positive, `negative_slope` x elsewhere."""

    cost = 2

    def __init__(self, negative_slope: float = 0.01):
        self.function = Activation("leaky_relu", negative_slope)

    def extra_repr(self) -> str:
        """The slope."""
        return f"{self.function.slope}"


class PReLU(_Elementwise):
    """x where positive, a learned slope times x elsewhere; see `functional.prelu`.

    Args:
        slopes: one for all, or one a channel: C.
        init: what they start from, finite.
    Attributes:
        weight: (slopes,).
    Weight decay would draw the slopes to 0: He et al. 2015 leave it out for them.
    """

    cost = 2

    def __init__(self, slopes: int = 1, *, init: float = 0.25):
        shape = (positive_int("PReLU", "slopes", slopes),)
        if not (isinstance(init, int | float | np.number) and isfinite(init)):
            raise ValueError(f"PReLU: init is {init!r} but must be a finite number")
        self.weight = parameter(np.full(shape, init, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        """(…, C), elementwise."""
        return F.prelu(x, self.weight)

    def parameter_formula(self) -> str:
        """1, or C."""
        return f"{self.weight.size}"

    def extra_repr(self) -> str:
        """The number of slopes."""
        return f"{self.weight.size}"


class ELU(ActivationLayer):
    """x where positive, `alpha` (exp(x) - 1) elsewhere."""

    cost = 3

    def __init__(self, alpha: float = 1.0):
        self.function = Activation("elu", alpha=alpha)

    def extra_repr(self) -> str:
        """The limit's distance from 0."""
        return f"{self.function.alpha}"


class Sigmoid(ActivationLayer):
    """1 / (1 + exp(-x))."""

    cost = 3
    function = Activation("sigmoid")


class Tanh(ActivationLayer):
    """Hyperbolic tangent."""

    cost = 5
    function = Activation("tanh")


class ReLU6(ActivationLayer):
    """min(max(x, 0), 6)."""

    cost = 2
    function = Activation("relu6")


class HardTanh(ActivationLayer):
    """min(max(x, low), high)."""

    cost = 2

    def __init__(self, low: float = -1.0, high: float = 1.0):
        self.function = Activation("hard_tanh", low=low, high=high)

    def extra_repr(self) -> str:
        """The limits."""
        return f"{self.function.low}, {self.function.high}"


class HardSigmoid(ActivationLayer):
    """min(max(x / 6 + 1/2, 0), 1)."""

    cost = 4
    function = Activation("hard_sigmoid")


class GELU(ActivationLayer):
    """x Phi(x), with the standard normal distribution function Phi."""

    cost = 6
    function = InputActivation("gelu")


class SiLU(ActivationLayer):
    """x / (1 + exp(-x)), also called swish."""

    cost = 4
    function = InputActivation("silu")


class Softplus(ActivationLayer):
    """log(1 + exp(beta x)) / beta."""

    cost = 5

    def __init__(self, beta: float = 1.0):
        self.function = InputActivation("softplus", beta)

    def extra_repr(self) -> str:
        """How steep."""
        return f"{self.function.beta}"


class HardSwish(ActivationLayer):
    """x min(max(x + 3, 0), 6) / 6."""

    cost = 5
    function = InputActivation("hard_swish")


class Softmax(_Elementwise):
    """exp(x) / sum(exp(x)) over the last axis."""

    cost = 4

    def forward(self, x: Tensor) -> Tensor:
        """Over the last axis."""
        return F.softmax(x)


class LogSoftmax(_Elementwise):
    """The logarithm of softmax over the last axis."""

    cost = 5

    def forward(self, x: Tensor) -> Tensor:
        """Over the last axis."""
        return F.log_softmax(x)
