"""The contract of activations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from gpunet.backends.contract.arrays import Array

ACTIVATIONS = ("relu", "leaky_relu", "sigmoid", "tanh", "elu", "relu6", "hard_tanh", "hard_sigmoid")
"""Activations whose gradient follows from their output, so that they can be fused into the operation before them."""
LINES = ("relu6", "hard_tanh", "hard_sigmoid")
"""Those among them that are a line between two limits."""
INPUT_ACTIVATIONS = ("gelu", "silu", "softplus", "hard_swish", "sigmoid", "tanh", "elu")
"""Those whose gradient takes their input. Most fall before they rise, so that the output does not tell it. The last three tend
to a limit, near which the output has lost the digits that tell it: they may be fused too, but here they are not."""


@dataclass(frozen=True, slots=True)
class Activation:
    """An elementwise function by name, with what some of them take, which the others leave unused.

    Raises:
        ValueError: a name that is none of `ACTIVATIONS`, or numbers that leave the output without a sign of the gradient.
    """

    name: str
    slope: float = 0.01
    """Leaky ReLU's for negative inputs, positive."""
    alpha: float = 1.0
    """ELU tends to -alpha, positive."""
    low: float = -1.0
    """The least output of hard tanh."""
    high: float = 1.0
    """The largest."""

    def __post_init__(self) -> None:
        if self.name not in ACTIVATIONS:
            raise ValueError(f"activation: name is {self.name!r} but takes one of {', '.join(ACTIVATIONS)}")
        if self.name == "leaky_relu" and not self.slope > 0:
            raise ValueError(f"leaky_relu: negative_slope is {self.slope} but must be positive; use relu for 0")
        if self.name == "elu" and not self.alpha > 0:
            raise ValueError(f"elu: alpha is {self.alpha} but must be positive; use relu for 0")
        if self.name == "hard_tanh" and not self.low < self.high:
            raise ValueError(f"hard_tanh: low is {self.low} and high {self.high} but low must be less")

    @property
    def line(self) -> tuple[float, float, float, float]:
        """(slope, shift, low, high) of one of `LINES`: y = min(max(slope (x + shift), low), high).

        Its gradient is slope strictly between the limits and 0 at them, as PyTorch has it.
        """
        if self.name == "hard_sigmoid":
            return 1 / 6, 3.0, 0.0, 1.0
        if self.name == "relu6":
            return 1.0, 0.0, 0.0, 6.0
        return 1.0, 0.0, self.low, self.high


@dataclass(frozen=True, slots=True)
class InputActivation:
    """An elementwise function by name whose gradient takes the input; `beta` is softplus's, or ELU's alpha.

    Raises:
        ValueError: a name that is none of `INPUT_ACTIVATIONS`, or a beta that is not positive.
    """

    name: str
    beta: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in INPUT_ACTIVATIONS:
            raise ValueError(f"activation: name is {self.name!r} but takes one of {', '.join(INPUT_ACTIVATIONS)}")
        if not self.beta > 0:
            raise ValueError(f"{self.name}: beta is {self.beta} but must be positive")


class ActivationPrimitives(ABC):
    """Elementwise functions and their gradients."""

    @abstractmethod
    def activation_forward(self, x: Array, activation: Activation) -> Array:
        """y of x's shape. ReLU, leaky ReLU and ELU (Clevert et al. 2016) take 0 as negative; NaN stays NaN."""

    @abstractmethod
    def activation_backward(self, dy: Array, y: Array, activation: Activation) -> Array:
        """dx from dy and the output y."""

    @abstractmethod
    def input_activation_forward(self, x: Array, activation: InputActivation) -> Array:
        """y of x's shape. gelu: x Phi(x), with the standard normal distribution function Phi (Hendrycks & Gimpel 2016);
        silu: x s(x), with the logistic s(x) = 1 / (1 + exp(-x)) (Ramachandran et al. 2017); softplus:
        log(1 + exp(beta x)) / beta, without overflow; hard_swish: x min(max(x + 3, 0), 6) / 6 (Howard et al. 2019); the
        others as `activation_forward`. An infinite x gives the limit."""

    @abstractmethod
    def input_activation_backward(self, dy: Array, x: Array, activation: InputActivation) -> Array:
        """dx from dy and the input x. gelu: dy (Phi(x) + x phi(x)), phi the density; silu: dy s(x) (1 + x s(-x));
        softplus: dy s(beta x); hard_swish: 0 up to -3, dy from 3 on, dy (x + 3/2) / 3 between; sigmoid: dy s(x) s(-x); tanh:
        dy / cosh(x)^2; elu: dy above 0, beta exp(x) dy elsewhere."""
