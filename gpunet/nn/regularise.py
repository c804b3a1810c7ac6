"""Layers that add noise in training mode and do nothing in inference."""

from __future__ import annotations

from gpunet import functional as F
from gpunet.autograd import Tensor
from gpunet.functional.regularise import check_rate, check_std
from gpunet.nn.module import Module

__all__ = ["Dropout", "Dropout2d", "GaussianNoise"]


class Dropout(Module):
    """In training mode, set elements to 0 with probability p; see `functional.dropout`."""

    def __init__(self, p: float = 0.5):
        check_rate(type(self).__name__, p)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return F.dropout(x, self.p, training=self.training)

    def extra_repr(self) -> str:
        """The probability."""
        return f"{self.p}"


class Dropout2d(Dropout):
    """In training mode, set channels to 0 with probability p; see `functional.dropout2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """x (N, …, C) -> (N, …, C)."""
        return F.dropout2d(x, self.p, training=self.training)


class GaussianNoise(Module):
    """In training mode, add normal noise of standard deviation `std`.

    It stands in front of a net, to act on its inputs, or between layers. For targets, which no
    layer sees, call `functional.gaussian_noise`.
    """

    def __init__(self, std: float = 0.1):
        check_std("GaussianNoise", std)
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return F.gaussian_noise(x, self.std, training=self.training)

    def extra_repr(self) -> str:
        """The standard deviation."""
        return f"{self.std}"
