"""Activations as layers; the functions in `gpunet.functional` say what they compute."""

from __future__ import annotations

from math import isfinite, prod
from typing import Any

import numpy as np

from gpunet import functional as F
from gpunet.autograd import Tensor, parameter
from gpunet.backends.contract import Activation, InputActivation
from gpunet.geometry import positive_int
from gpunet.nn.layers import Shape
from gpunet.nn.module import Module

__all__ = [
    "ELU", "GELU", "HardSigmoid", "HardSwish", "HardTanh", "LeakyReLU", "LogSoftmax", "PReLU", "ReLU", "ReLU6",
    "SiLU", "Sigmoid", "Softmax", "Softplus", "Tanh",
]  # fmt: skip


class _Elementwise(Module):
    cost = 1
    """Floating-point operations per element."""

    def flops(self, x_shape: Shape, y_shape: Shape) -> int:
        """A fixed number per element."""
        return self.cost * prod(y_shape)


class ActivationLayer(_Elementwise):
    """A layer that applies an activation.

    `nn.fusion` fuses it into the layer before it if its gradient follows from its output.
    """

    function: Any
    """An `Activation` or an `InputActivation`."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return F.activation.activate(x, self.function)


class ReLU(ActivationLayer):
    """`functional.relu` as a layer."""

    function = Activation("relu")


class LeakyReLU(ActivationLayer):
    """`functional.leaky_relu` as a layer."""

    cost = 2

    def __init__(self, negative_slope: float = 0.01):
        self.function = Activation("leaky_relu", negative_slope)

    def extra_repr(self) -> str:
        """The slope."""
        return f"{self.function.negative_slope}"


class PReLU(_Elementwise):
    """`functional.prelu` as a layer, with slopes that are learned.

    Args:
        num_parameters: 1 slope for all channels, or C, one slope per channel.
        init: the value that the slopes start from, finite.
    Attributes:
        weight: (num_parameters,).
    Weight decay would pull the slopes towards 0; He et al. 2015 leave it out for them.
    """

    cost = 2

    def __init__(self, num_parameters: int = 1, *, init: float = 0.25):
        shape = (positive_int("PReLU", "num_parameters", num_parameters),)
        if not (isinstance(init, int | float | np.number) and isfinite(init)):
            raise ValueError(f"PReLU: init is {init!r} but must be a finite number")
        self.weight = parameter(np.full(shape, init, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) -> (…, C), elementwise."""
        return F.prelu(x, self.weight)

    def parameter_formula(self) -> str:
        """1, or C."""
        return f"{self.weight.size}"

    def extra_repr(self) -> str:
        """The number of slopes."""
        return f"{self.weight.size}"


class ELU(ActivationLayer):
    """`functional.elu` as a layer."""

    cost = 3

    def __init__(self, alpha: float = 1.0):
        self.function = Activation("elu", alpha=alpha)

    def extra_repr(self) -> str:
        """The distance of the limit from 0."""
        return f"{self.function.alpha}"


class Sigmoid(ActivationLayer):
    """`functional.sigmoid` as a layer."""

    cost = 3
    function = Activation("sigmoid")


class Tanh(ActivationLayer):
    """`functional.tanh` as a layer."""

    cost = 5
    function = Activation("tanh")


class ReLU6(ActivationLayer):
    """`functional.relu6` as a layer."""

    cost = 2
    function = Activation("relu6")


class HardTanh(ActivationLayer):
    """`functional.hard_tanh` as a layer."""

    cost = 2

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0):
        self.function = Activation("hard_tanh", min_val=min_val, max_val=max_val)

    def extra_repr(self) -> str:
        """The limits."""
        return f"{self.function.min_val}, {self.function.max_val}"


class HardSigmoid(ActivationLayer):
    """`functional.hard_sigmoid` as a layer."""

    cost = 4
    function = Activation("hard_sigmoid")


class GELU(ActivationLayer):
    """`functional.gelu` as a layer."""

    cost = 6
    function = InputActivation("gelu")


class SiLU(ActivationLayer):
    """`functional.silu` as a layer."""

    cost = 4
    function = InputActivation("silu")


class Softplus(ActivationLayer):
    """`functional.softplus` as a layer."""

    cost = 5

    def __init__(self, beta: float = 1.0):
        self.function = InputActivation("softplus", beta)

    def extra_repr(self) -> str:
        """The steepness."""
        return f"{self.function.beta}"


class HardSwish(ActivationLayer):
    """`functional.hard_swish` as a layer."""

    cost = 5
    function = InputActivation("hard_swish")


class Softmax(_Elementwise):
    """`functional.softmax` as a layer."""

    cost = 4

    def forward(self, x: Tensor) -> Tensor:
        """Over the last axis."""
        return F.softmax(x)


class LogSoftmax(_Elementwise):
    """`functional.log_softmax` as a layer."""

    cost = 5

    def forward(self, x: Tensor) -> Tensor:
        """Over the last axis."""
        return F.log_softmax(x)
