"""Layers that normalise."""

from __future__ import annotations

from math import prod

import numpy as np

from gpunet import functional as F
from gpunet.autograd import Parameter, Tensor, parameter
from gpunet.backends.contract.activation import Activation
from gpunet.geometry import positive_int
from gpunet.nn import init as initial
from gpunet.nn.layers import Shape
from gpunet.nn.module import Buffer, Module


class BatchNorm2d(Module):
    """Batch normalisation by channel: (…, C) -> (…, C); images (N, H, W, C), or features (N, C).

    In training mode the batch's moments normalise, and the running ones follow them; in `eval` mode the running ones normalise.

    Args:
        channels: C.
        eps, momentum: as for `functional.batch_norm`.
        affine: whether to learn a scale and a shift.
        activation: as for `functional.conv2d`, fused.
    Attributes:
        weight, bias: (C,), gamma and beta, 1 and 0 at first; None unless `affine`.
        running_mean, running_var: buffers (C,), 0 and 1 at first.
        num_batches_tracked: buffer (), how many batches these are the mean of; None unless `momentum` is.
    """

    def __init__(
        self,
        channels: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        activation: str | None = None,
    ):
        shape = (positive_int("BatchNorm2d", "channels", channels),)
        F.norm.check_momentum("BatchNorm2d", momentum)
        if not eps >= 0:
            raise ValueError(f"BatchNorm2d: eps is {eps} but must be at least 0")
        self.eps, self.momentum = eps, momentum
        self.activation = F.activation.activation_of("BatchNorm2d", activation)
        self.weight = parameter(np.ones(shape, np.float32)) if affine else None
        self.bias = parameter(initial.zeros(shape)) if affine else None
        self.running_mean = Buffer(initial.zeros(shape))
        self.running_var = Buffer(np.ones(shape, np.float32))
        self.num_batches_tracked = Buffer(np.zeros((), np.float32)) if momentum is None else None

    def forward(self, x: Tensor, residual: Tensor | None = None, *, activation: Activation | None = None) -> Tensor:
        """x (…, C), and what is added before the activation, of x's shape -> (…, C); `activation` as for `Conv2d.forward`."""
        return F.batch_norm(
            x, self.weight, self.bias, self.running_mean, self.running_var,
            training=self.training, momentum=self.momentum, batches=self.num_batches_tracked, eps=self.eps,
            activation=self.activation or activation, residual=residual,
        )  # fmt: skip

    def parameter_formula(self) -> str:
        """2·C."""
        return "" if self.weight is None else f"2·{self.weight.size}"

    def flops(self, x_shape: Shape, y_shape: Shape) -> int:
        """In inference: two an element, for a scale and a shift, and one a fused activation."""
        return prod(y_shape) * (2 + (self.activation is not None))

    def extra_repr(self) -> str:
        """Channels and options."""
        fused = "" if self.activation is None else f", activation={self.activation.name!r}"
        affine = "" if self.weight is not None else ", affine=False"
        return f"{self.running_mean.size}, eps={self.eps}, momentum={self.momentum}{affine}{fused}"


class _SampleNorm(Module):
    """Group or layer norm: what they share."""

    weight: Parameter | None
    bias: Parameter | None

    def __init__(self, shape: tuple[int, ...], eps: float, affine: bool):
        if not eps >= 0:
            raise ValueError(f"{type(self).__name__}: eps is {eps} but must be at least 0")
        self.eps = eps
        self.weight = parameter(np.ones(shape, np.float32), matrix=False) if affine else None
        self.bias = parameter(initial.zeros(shape), matrix=False) if affine else None

    def parameter_formula(self) -> str:
        """2·C."""
        return "" if self.weight is None else f"2·{self.weight.size}"

    def flops(self, x_shape: Shape, y_shape: Shape) -> int:
        """An element: one for the mean, three for the variance, two to normalise, two for a scale and a shift."""
        return prod(y_shape) * (6 + 2 * (self.weight is not None))

    def _options(self) -> str:
        return f"eps={self.eps}" + ("" if self.weight is not None else ", affine=False")


class GroupNorm(_SampleNorm):
    """Group normalisation: (N, …, C) -> (N, …, C); see `functional.group_norm`.

    Args:
        groups, channels: of the C channels, neighbours in so many groups; as many as channels for instance norm.
        eps: added to the variance.
        affine: whether to learn a scale and a shift.
    Attributes:
        weight, bias: (C,), gamma and beta, 1 and 0 at first; None unless `affine`.
    """

    def __init__(self, groups: int, channels: int, *, eps: float = 1e-5, affine: bool = True):
        self.groups = positive_int("GroupNorm", "groups", groups)
        self.channels = positive_int("GroupNorm", "channels", channels)
        if channels % groups:
            raise ValueError(f"GroupNorm: groups={groups} must divide channels={channels}")
        super().__init__((channels,), eps, affine)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, …, C) -> (N, …, C)."""
        return F.group_norm(x, self.groups, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        """Groups, channels and options."""
        return f"{self.groups}, {self.channels}, {self._options()}"


class LayerNorm(_SampleNorm):
    """Layer normalisation over the last axes; see `functional.layer_norm`.

    Args:
        shape: extents of those axes, or the last one's: C normalises by pixel, (H, W, C) by image.
        eps, affine: as for `GroupNorm`.
    Attributes:
        weight, bias: of that shape, gamma and beta, 1 and 0 at first; None unless `affine`.
    """

    def __init__(self, shape: int | tuple[int, ...], *, eps: float = 1e-5, affine: bool = True):
        extents = shape if isinstance(shape, tuple | list) and shape else (shape,)
        self.shape = tuple(positive_int("LayerNorm", "shape", n) for n in extents)
        super().__init__(self.shape, eps, affine)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, *shape) -> (…, *shape)."""
        if x.shape[-len(self.shape) :] != self.shape:
            raise ValueError(f"LayerNorm: x has shape {x.shape} but its last axes must be {self.shape}")
        return F.layer_norm(x, self.weight, self.bias, axes=len(self.shape), eps=self.eps)

    def extra_repr(self) -> str:
        """Extents and options."""
        return f"{self.shape}, {self._options()}"
