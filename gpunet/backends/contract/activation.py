"""The contract of activations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from gpunet.backends.contract.arrays import Array, check_name

__all__ = ["ACTIVATIONS", "INPUT_ACTIVATIONS", "LINES", "Activation", "InputActivation"]

ACTIVATIONS = ("relu", "leaky_relu", "sigmoid", "tanh", "elu", "relu6", "hard_tanh", "hard_sigmoid")
"""Activations whose gradient follows from their output, so that they can be fused into the
operation before them."""
LINES = ("relu6", "hard_tanh", "hard_sigmoid")
"""Those among them that are a straight line between two limits."""
INPUT_ACTIVATIONS = ("gelu", "silu", "softplus", "hard_swish", "sigmoid", "tanh", "elu")
"""Activations whose gradient is computed from their input. Most of them fall before they rise, so
that two inputs share an output. The last three tend to a limit: near it the output has lost the
digits of the gradient, which the input still has."""


@dataclass(frozen=True, slots=True)
class Activation:
    """An elementwise function by name, with the numbers that some of them take.

    Raises:
        ValueError: a name that is none of `ACTIVATIONS`, or numbers with which the output does not
            tell the gradient.
    """

    name: str
    negative_slope: float = 0.01
    """The slope of leaky ReLU for negative inputs, positive."""
    alpha: float = 1.0
    """ELU tends to -alpha, positive."""
    min_val: float = -1.0
    """The smallest output of hard tanh."""
    max_val: float = 1.0
    """The largest output of hard tanh."""

    def __post_init__(self) -> None:
        check_name("activation", self.name, ACTIVATIONS)
        if self.name == "leaky_relu" and not self.negative_slope > 0:
            raise ValueError(f"leaky_relu: negative_slope is {self.negative_slope} but must be positive; or use relu")
        if self.name == "elu" and not self.alpha > 0:
            raise ValueError(f"elu: alpha is {self.alpha} but must be positive; or use relu")
        if self.name == "hard_tanh" and not self.min_val < self.max_val:
            raise ValueError(f"hard_tanh: min_val is {self.min_val} but must be less than max_val {self.max_val}")

    @property
    def line(self) -> tuple[float, float, float, float]:
        """(slope, shift, low, high) of one of `LINES`, min(max(slope (x + shift), low), high)."""
        if self.name == "hard_sigmoid":
            return 1 / 6, 3.0, 0.0, 1.0
        if self.name == "relu6":
            return 1.0, 0.0, 0.0, 6.0
        return 1.0, 0.0, self.min_val, self.max_val


@dataclass(frozen=True, slots=True)
class InputActivation:
    """An elementwise function by name, whose gradient is computed from its input.

    Raises:
        ValueError: a name that is none of `INPUT_ACTIVATIONS`, or a beta that is not positive.
    """

    name: str
    beta: float = 1.0
    """The beta of softplus, or the alpha of ELU; the others do not use it."""

    def __post_init__(self) -> None:
        check_name("activation", self.name, INPUT_ACTIVATIONS)
        if not self.beta > 0:
            raise ValueError(f"{self.name}: beta is {self.beta} but must be positive")


class ActivationPrimitives(ABC):
    """Elementwise functions and their gradients."""

    @abstractmethod
    def activation_forward(self, x: Array, activation: Activation) -> Array:
        """y = f(x), elementwise; NaN stays NaN.

        relu: max(x, 0).
        leaky_relu: x above 0, negative_slope x elsewhere.
        sigmoid: 1 / (1 + exp(-x)).
        tanh: the hyperbolic tangent.
        elu: x above 0, alpha (exp(x) - 1) elsewhere (Clevert et al. 2016).
        relu6: min(max(x, 0), 6) (Krizhevsky 2010).
        hard_tanh: min(max(x, min_val), max_val).
        hard_sigmoid: min(max(x / 6 + 1/2, 0), 1).
        """

    @abstractmethod
    def activation_backward(self, dy: Array, y: Array, activation: Activation) -> Array:
        """dx = f'(x) dy from dy and the output y = f(x); a NaN in y does not set dx to 0.

        relu: dy above 0, 0 elsewhere.
        leaky_relu: dy above 0, negative_slope dy elsewhere.
        sigmoid: dy y (1 - y).
        tanh: dy (1 - y^2).
        elu: dy above 0, dy (y + alpha) elsewhere.
        relu6, hard_tanh, hard_sigmoid: slope dy between the limits, 0 at and beyond them, as in
            PyTorch; the slope of hard_sigmoid is 1/6, that of the others 1.
        """

    @abstractmethod
    def input_activation_forward(self, x: Array, activation: InputActivation) -> Array:
        """y = f(x), elementwise; NaN stays NaN, and an infinite x gives the limit.

        gelu: x Phi(x), with the standard normal distribution function Phi (Hendrycks & Gimpel 2016).
        silu: x s(x), with the logistic function s(x) = 1 / (1 + exp(-x)) (Ramachandran et al. 2017).
        softplus: log(1 + exp(beta x)) / beta, without overflow (Dugas et al. 2001).
        hard_swish: x min(max(x + 3, 0), 6) / 6 (Howard et al. 2019, section 5.2).
        sigmoid, tanh, elu: as in `activation_forward`, with beta for alpha.
        """

    @abstractmethod
    def input_activation_backward(self, dy: Array, x: Array, activation: InputActivation) -> Array:
        """dx = f'(x) dy from dy and the input x.

        gelu: dy (Phi(x) + x phi(x)), with the density phi(x) = exp(-x^2 / 2) / sqrt(2 pi).
        silu: dy s(x) (1 + x s(-x)).
        softplus: dy s(beta x).
        hard_swish: 0 up to -3, dy from 3 on, dy (x + 3/2) / 3 between.
        sigmoid: dy s(x) s(-x).
        tanh: dy / cosh(x)^2.
        elu: dy above 0, beta exp(x) dy elsewhere.
        """
