"""Layers that normalise."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from gpunet import functional as F
from gpunet.autograd import Parameter, Tensor, parameter
from gpunet.backends.contract import Activation, check_eps
from gpunet.geometry import positive_int
from gpunet.nn import init as initial
from gpunet.nn.layers import Shape
from gpunet.nn.module import Buffer, Module

__all__ = ["BatchNorm2d", "GroupNorm", "LayerNorm", "synchronise_batch_norm"]


class _Norm(Module):
    """What all normalisations share."""

    weight: Parameter | None
    bias: Parameter | None

    def __init__(self, shape: tuple[int, ...], eps: float, affine: bool):
        check_eps(type(self).__name__, eps)
        self.eps = eps
        self.weight = parameter(np.ones(shape, np.float32), matrix=False) if affine else None
        self.bias = parameter(initial.zeros(shape), matrix=False) if affine else None

    def parameter_formula(self) -> str:
        """2·C."""
        return "" if self.weight is None else f"2·{self.weight.size}"

    def flops(self, x_shape: Shape, y_shape: Shape) -> int:
        """Per element: 1 for the mean, 3 for the variance, 2 to normalise, 2 to scale and shift."""
        return prod(y_shape) * (6 + 2 * (self.weight is not None))


class BatchNorm2d(_Norm):
    """Batch normalisation of each channel: (…, C) -> (…, C).

    It takes images (N, H, W, C), or features (N, C). In training mode the moments of the batch
    normalise, and the running moments follow them; in `eval` mode the running moments normalise.
    See `functional.batch_norm`.

    Args:
        num_features: C.
        eps, momentum: as for `functional.batch_norm`.
        affine: whether to learn a weight and a bias.
        activation: as for `functional.conv2d`, fused.
        synchronised: whether ranks that train together normalise by the moments of the whole batch,
            see `functional.batch_norm`; `synchronise_batch_norm` sets it in a whole model.
    Attributes:
        weight, bias: (C,), 1 and 0 at first; None unless `affine`.
        running_mean, running_var: buffers (C,), 0 and 1 at first.
        num_batches_tracked: buffer (), the number of batches that these are the mean of; None
            unless `momentum` is None.
    """

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        activation: str | None = None,
        synchronised: bool = False,
    ):
        shape = (positive_int("BatchNorm2d", "num_features", num_features),)
        F.norm.check_momentum("BatchNorm2d", momentum)
        super().__init__(shape, eps, affine)
        self.momentum, self.synchronised = momentum, synchronised
        self.activation = F.activation.activation_of("BatchNorm2d", activation)
        self.running_mean = Buffer(initial.zeros(shape))
        self.running_var = Buffer(np.ones(shape, np.float32))
        self.num_batches_tracked = Buffer(np.zeros((), np.float32)) if momentum is None else None

    def forward(self, x: Tensor, residual: Tensor | None = None, *, activation: Activation | None = None) -> Tensor:
        """Normalise x.

        Args:
            x: (…, C).
            residual: added before the activation, of x's shape.
            activation: as for `Conv2d.forward`.
        Returns:
            (…, C).
        """
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias,
            training=self.training, momentum=self.momentum, eps=self.eps, num_batches_tracked=self.num_batches_tracked,
            activation=self.activation or activation, residual=residual, synchronised=self.synchronised,
        )  # fmt: skip

    def flops(self, x_shape: Shape, y_shape: Shape) -> int:
        """In inference: two per element, to scale and to shift, and one for a fused activation."""
        return prod(y_shape) * (2 + (self.activation is not None))

    def extra_repr(self) -> str:
        """Channels and options."""
        fused = "" if self.activation is None else f", activation={self.activation.name!r}"
        affine = "" if self.weight is not None else ", affine=False"
        joins = ", synchronised=True" if self.synchronised else ""
        return f"{self.running_mean.size}, eps={self.eps}, momentum={self.momentum}{affine}{fused}{joins}"


def synchronise_batch_norm(model: Module, synchronised: bool = True) -> None:
    """Let every `BatchNorm2d` of a model take the moments of all ranks in training, or of its own again."""
    for _, module in model.named_modules():
        if isinstance(module, BatchNorm2d):
            module.synchronised = synchronised


class GroupNorm(_Norm):
    """Group normalisation: (N, …, C) -> (N, …, C); see `functional.group_norm`.

    Args:
        num_groups: the number of groups of neighbouring channels; C for instance normalisation.
        num_channels: C, a multiple of num_groups.
        eps: added to the variance, at least 0.
        affine: whether to learn a weight and a bias.
    Attributes:
        weight, bias: (C,), 1 and 0 at first; None unless `affine`.
    """

    def __init__(self, num_groups: int, num_channels: int, *, eps: float = 1e-5, affine: bool = True):
        self.num_groups = positive_int("GroupNorm", "num_groups", num_groups)
        self.num_channels = positive_int("GroupNorm", "num_channels", num_channels)
        if num_channels % num_groups:
            raise ValueError(f"GroupNorm: num_groups={num_groups} must divide num_channels={num_channels}")
        super().__init__((num_channels,), eps, affine)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, …, C) -> (N, …, C)."""
        return F.group_norm(x, self.num_groups, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        """Groups, channels and options."""
        affine = "" if self.weight is not None else ", affine=False"
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}{affine}"


class LayerNorm(_Norm):
    """Layer normalisation over the last axes; see `functional.layer_norm`.

    Args:
        normalized_shape: the extents of those axes, or of the last axis alone: C normalises each
            pixel, (H, W, C) each image.
        eps: added to the variance, at least 0.
        elementwise_affine: whether to learn a weight and a bias.
    Attributes:
        weight, bias: of that shape, 1 and 0 at first; None unless `elementwise_affine`.
    """

    def __init__(self, normalized_shape: int | Sequence[int], *, eps: float = 1e-5, elementwise_affine: bool = True):
        self.normalized_shape = F.norm.normalized_extents("LayerNorm", normalized_shape)
        super().__init__(self.normalized_shape, eps, elementwise_affine)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, *normalized_shape) -> (…, *normalized_shape)."""
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        """Extents and options."""
        affine = "" if self.weight is not None else ", elementwise_affine=False"
        return f"{self.normalized_shape}, eps={self.eps}{affine}"
