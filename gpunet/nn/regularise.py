"""Layers that add noise while training, and are nothing in inference."""

from __future__ import annotations

from gpunet import functional as F
from gpunet.autograd import Tensor
from gpunet.functional.regularise import check_rate, check_std
from gpunet.nn.module import Module


class Dropout(Module):
    """Elements set to 0 with probability p while training, the rest scaled by 1 / (1 - p)."""

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
    """Channels of a sample set to 0 with probability p while training, the rest scaled: (N, …, C) -> (N, …, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (N, …, C) -> (N, …, C)."""
        return F.dropout2d(x, self.p, training=self.training)


class GaussianNoise(Module):
    """Normal noise of standard deviation `std` added while training: in front of a net to its inputs, or between layers.

    For targets, which no layer sees, there is `functional.gaussian_noise`.
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
