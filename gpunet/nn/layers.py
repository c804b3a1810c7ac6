"""Layers: thin, stateful wrappers over `gpunet.functional`, which says what they compute."""

from __future__ import annotations

from math import prod

import numpy as np

from gpunet import functional as F
from gpunet.autograd import Tensor, parameter
from gpunet.backends.contract import Activation
from gpunet.functional.conv import extra_pixels
from gpunet.geometry import Geometry, Padding, Pair, pair, positive_int, sides_of
from gpunet.nn import init as initial
from gpunet.nn.module import Module

__all__ = ["AvgPool2d", "Conv2d", "ConvTranspose2d", "Flatten", "Identity", "Linear", "LocallyConnected2d", "MaxPool2d"]

Shape = tuple[int, ...]


class Conv2d(Module):
    """2-D convolution with learned filters: (N, H, W, C) -> (N, OH, OW, O).

    Args:
        in_channels, out_channels: C and O.
        kernel_size: (KH, KW), or one extent for both, in pixels.
        stride, padding, dilation, groups, activation, pool: as for `functional.conv2d`.
        bias: whether to add one number per filter.
        init: initialiser of the weight, or its name in `nn.init`; the bias starts at 0.
    Attributes:
        weight: (KH, KW, C // groups, O).
        bias: (O,), or None.
    Raises:
        ValueError: groups that do not divide C and O, an unknown activation or initialiser, or an
            extent out of range; now, not for the first image.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: Padding = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        activation: str | None = None,
        pool: int | Pair | None = None,
        init: str | initial.Initializer = "kaiming_uniform",
    ):
        kh, kw = pair("Conv2d", "kernel_size", kernel_size)
        in_channels, out_channels, groups = checked_channels("Conv2d", in_channels, out_channels, groups)
        self.stride, self.dilation = pair("Conv2d", "stride", stride), pair("Conv2d", "dilation", dilation)
        sides_of("Conv2d", padding)  # raises here, not for the first image
        self.padding, self.groups = padding, groups
        self.activation = F.activation.activation_of("Conv2d", activation)
        self.pool = None if pool is None else pair("Conv2d", "pool", pool)
        self.weight = parameter(initial.draw(init, (kh, kw, in_channels // groups, out_channels)))
        self.bias = parameter(initial.zeros((out_channels,))) if bias else None

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        *,
        activation: Activation | None = None,
        pool: Pair | None = None,
        before_norm: bool = False,
    ) -> Tensor:
        """x (N, H, W, C) -> (N, OH, OW, O).

        Args:
            residual: as for `functional.conv2d`.
            activation, pool: of the layers that follow, where this layer has none of its own; see
                `nn.fusion`.
            before_norm: as for `functional.conv2d`.
        """
        return F.conv2d(
            x, self.weight, self.bias, stride=self.stride, padding=self.padding, dilation=self.dilation,
            groups=self.groups, activation=self.activation or activation, pool=self.pool or pool,
            residual=residual, before_norm=before_norm,
        )  # fmt: skip

    def parameter_formula(self) -> str:
        """(kh·kw·C+1)·O."""
        kh, kw, c, o = self.weight.shape
        return f"({kh}·{kw}·{c}+1)·{o}" if self.bias is not None else f"{kh}·{kw}·{c}·{o}"

    def flops(self, x_shape: Shape, y_shape: Shape) -> int:
        """Two per multiply-add; one per bias, fused activation and element that a pool compares."""
        geometry = Geometry.conv(
            x_shape, self.weight.shape, stride=self.stride, padding=self.padding, dilation=self.dilation,
            groups=self.groups,
        )  # fmt: skip
        pooled = prod(y_shape) * prod(self.pool) if self.pool is not None else 0
        return 2 * geometry.multiply_adds + _after_product(self, geometry.y_shape) + pooled

    def extra_repr(self) -> str:
        """Extents and options."""
        kh, kw, c, o = self.weight.shape
        extents = f"{c * self.groups}, {o}, ({kh}, {kw})"
        pool = "" if self.pool is None else f", pool={self.pool}"
        return f"{extents}, stride={self.stride}, padding={self.padding!r}{_fused(self)}{pool}"


def checked_channels(layer: str, in_channels: int, out_channels: int, groups: int) -> tuple[int, int, int]:
    """The three as positive integers, or an error; `groups` must divide both numbers of channels."""
    names = "in_channels", "out_channels", "groups"
    values = zip(names, (in_channels, out_channels, groups), strict=True)
    in_channels, out_channels, groups = (positive_int(layer, name, value) for name, value in values)
    if in_channels % groups or out_channels % groups:
        raise ValueError(f"{layer}: {groups=} must divide {in_channels=} and {out_channels=}")
    return in_channels, out_channels, groups


class Linear(Module):
    """Dense layer: (…, I) -> (…, O).

    Args:
        in_features, out_features: I and O.
        bias, activation, init: as for `Conv2d`.
    Attributes:
        weight: (I, O).
        bias: (O,), or None.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        activation: str | None = None,
        init: str | initial.Initializer = "kaiming_uniform",
    ):
        in_features = positive_int("Linear", "in_features", in_features)
        out_features = positive_int("Linear", "out_features", out_features)
        self.activation = F.activation.activation_of("Linear", activation)
        self.weight = parameter(initial.draw(init, (in_features, out_features)))
        self.bias = parameter(initial.zeros((out_features,))) if bias else None

    def forward(self, x: Tensor, *, activation: Activation | None = None) -> Tensor:
        """x (…, I) -> (…, O); `activation` as for `Conv2d.forward`."""
        return F.linear(x, self.weight, self.bias, activation=self.activation or activation)

    def parameter_formula(self) -> str:
        """(I+1)·O."""
        i, o = self.weight.shape
        return f"({i}+1)·{o}" if self.bias is not None else f"{i}·{o}"

    def flops(self, x_shape: Shape, y_shape: Shape) -> int:
        """Two per multiply-add, and one per bias and fused activation."""
        return 2 * prod(y_shape) * self.weight.shape[0] + _after_product(self, y_shape)

    def extra_repr(self) -> str:
        """Extents."""
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}{_fused(self)}"


def _after_product(layer: Conv2d | Linear, y_shape: Shape) -> int:
    return prod(y_shape) * ((layer.bias is not None) + (layer.activation is not None))


def _fused(layer: Conv2d | Linear) -> str:
    return "" if layer.activation is None else f", activation={layer.activation.name!r}"


class _Pool2d(Module):
    def __init__(
        self,
        kernel_size: int | Pair,
        *,
        stride: int | Pair | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
    ):
        name = type(self).__name__
        self.kernel_size = pair(name, "kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else pair(name, "stride", stride)
        sides_of(name, padding)
        self.padding, self.ceil_mode = padding, ceil_mode

    def flops(self, x_shape: Shape, y_shape: Shape) -> int:
        """One per pixel of each window."""
        return prod(y_shape) * prod(self.kernel_size)

    def extra_repr(self) -> str:
        """Extents and options."""
        ceil = ", ceil_mode=True" if self.ceil_mode else ""
        return f"{self.kernel_size}, stride={self.stride}, padding={self.padding!r}{ceil}"


class MaxPool2d(_Pool2d):
    """Maximum over windows: (N, H, W, C) -> (N, OH, OW, C); see `functional.max_pool2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """x (N, H, W, C) -> (N, OH, OW, C)."""
        return F.max_pool2d(x, self.kernel_size, stride=self.stride, padding=self.padding, ceil_mode=self.ceil_mode)


class AvgPool2d(_Pool2d):
    """Mean over windows: (N, H, W, C) -> (N, OH, OW, C); see `functional.avg_pool2d`."""

    def __init__(
        self,
        kernel_size: int | Pair,
        *,
        stride: int | Pair | None = None,
        padding: Padding = 0,
        count_padding: bool | None = None,
        ceil_mode: bool = False,
    ):
        super().__init__(kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode)
        self.count_padding = count_padding

    def forward(self, x: Tensor) -> Tensor:
        """x (N, H, W, C) -> (N, OH, OW, C)."""
        return F.avg_pool2d(
            x, self.kernel_size, stride=self.stride, padding=self.padding, count_padding=self.count_padding,
            ceil_mode=self.ceil_mode,
        )  # fmt: skip


class Identity(Module):
    """Returns x unchanged: a placeholder for a layer, or a branch that does nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """x -> x."""
        return x


class Flatten(Module):
    """Joins all axes but the first: (N, …) -> (N, the product of the rest)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (N, …) -> (N, the product of the rest)."""
        return F.flatten(x)


class ConvTranspose2d(Module):
    """Transposed convolution with learned filters: (N, H, W, I) -> (N, OH, OW, O).

    Args:
        in_channels, out_channels: I and O.
        kernel_size: (KH, KW), or one extent for both, in pixels.
        stride, padding, output_padding, dilation, groups: as for `functional.conv_transpose2d`.
        bias, init: as for `Conv2d`, with a fan_in of KH KW I.
    Attributes:
        weight: (KH, KW, O // groups, I); it is no `Parameter.matrix`.
        bias: (O,), or None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: Padding = 0,
        output_padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        init: str | initial.Initializer = "kaiming_uniform",
    ):
        name = "ConvTranspose2d"
        kh, kw = pair(name, "kernel_size", kernel_size)
        in_channels, out_channels, groups = checked_channels(name, in_channels, out_channels, groups)
        self.stride, self.dilation = pair(name, "stride", stride), pair(name, "dilation", dilation)
        self.padding = padding
        self.output_padding = extra_pixels(name, output_padding, self.stride, sides_of(name, padding))
        self.groups = groups
        drawn = initial.draw(init, (kh, kw, in_channels, out_channels // groups))
        self.weight = parameter(drawn.transpose(0, 1, 3, 2).copy(), matrix=False)  # its last axis is I, not O
        self.bias = parameter(initial.zeros((out_channels,))) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x (N, H, W, I) -> (N, OH, OW, O)."""
        return F.conv_transpose2d(
            x, self.weight, self.bias, stride=self.stride, padding=self.padding, output_padding=self.output_padding,
            dilation=self.dilation, groups=self.groups,
        )  # fmt: skip

    def parameter_formula(self) -> str:
        """kh·kw·O·I+O."""
        kh, kw, o, i = self.weight.shape
        return f"{kh}·{kw}·{o}·{i}" + (f"+{o * self.groups}" if self.bias is not None else "")

    def flops(self, x_shape: Shape, y_shape: Shape) -> int:
        """Two per multiply-add and one per bias."""
        multiply_adds = prod(x_shape) * prod(self.weight.shape[:3])
        return 2 * multiply_adds + (prod(y_shape) if self.bias is not None else 0)

    def extra_repr(self) -> str:
        """Extents and options."""
        kh, kw, o, i = self.weight.shape
        return f"{i}, {o * self.groups}, ({kh}, {kw}), stride={self.stride}, padding={self.padding!r}"


class LocallyConnected2d(Module):
    """Different learned filters for each output pixel: (N, H, W, C) -> (N, OH, OW, O).

    All images have one size.

    Args:
        in_shape: (H, W, C) of the images.
        out_channels: O.
        kernel_size: (KH, KW), or one extent for both, in pixels.
        stride, padding: as for `functional.locally_connected2d`.
        bias: whether to add one number per filter.
        init: as for `Conv2d`; it draws the filters of one output pixel at a time.
    Attributes:
        weight: (OH, OW, KH, KW, C, O); it is no `Parameter.matrix`.
        bias: (OH, OW, O), or None.
    """

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        out_channels: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: Padding = 0,
        bias: bool = True,
        init: str | initial.Initializer = "kaiming_uniform",
    ):
        name = "LocallyConnected2d"
        if not isinstance(in_shape, tuple | list) or len(in_shape) != 3:
            raise ValueError(f"{name}: in_shape is {in_shape!r} but takes (H, W, C)")
        h, w, c = (positive_int(name, "in_shape", extent) for extent in in_shape)
        filters = (*pair(name, "kernel_size", kernel_size), c, positive_int(name, "out_channels", out_channels))
        geometry = Geometry.conv((1, h, w, c), filters, stride=stride, padding=padding, operation=name)
        places = geometry.y_shape[1:3]
        self.stride, self.padding = geometry.stride, padding
        drawn = [initial.draw(init, filters) for _ in range(prod(places))]
        self.weight = parameter(np.stack(drawn).reshape(*places, *filters), matrix=False)
        self.bias = parameter(initial.zeros((*places, filters[3])), matrix=False) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x (N, H, W, C) -> (N, OH, OW, O)."""
        return F.locally_connected2d(x, self.weight, self.bias, stride=self.stride, padding=self.padding)

    def parameter_formula(self) -> str:
        """oh·ow·(kh·kw·C+1)·O."""
        oh, ow, kh, kw, c, o = self.weight.shape
        return f"{oh}·{ow}·({kh}·{kw}·{c}+1)·{o}" if self.bias is not None else f"{oh}·{ow}·{kh}·{kw}·{c}·{o}"

    def flops(self, x_shape: Shape, y_shape: Shape) -> int:
        """Two per multiply-add and one per bias."""
        return prod(y_shape) * (2 * prod(self.weight.shape[2:5]) + (self.bias is not None))

    def extra_repr(self) -> str:
        """Extents and options."""
        _, _, kh, kw, c, o = self.weight.shape
        return f"{c}, {o}, ({kh}, {kw}), stride={self.stride}, padding={self.padding!r}"
