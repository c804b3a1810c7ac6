"""`ConvTranspose2d`: a learned layer that enlarges images."""

from __future__ import annotations

from math import prod

from gpunet import functional as F
from gpunet.autograd import Tensor, parameter
from gpunet.functional.transposed import extra_pixels, transposed_geometry
from gpunet.geometry import Padding, Pair, pair, sides_of
from gpunet.nn import init as initial
from gpunet.nn.layers import Shape, checked_channels
from gpunet.nn.module import Module

__all__ = ["ConvTranspose2d"]


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
        geometry = transposed_geometry(
            x_shape, self.weight.shape, stride=self.stride, padding=self.padding, output_padding=self.output_padding,
            dilation=self.dilation, groups=self.groups,
        )  # fmt: skip
        return 2 * geometry.multiply_adds + (prod(y_shape) if self.bias is not None else 0)

    def extra_repr(self) -> str:
        """Extents and options."""
        kh, kw, o, i = self.weight.shape
        return f"{i}, {o * self.groups}, ({kh}, {kw}), stride={self.stride}, padding={self.padding!r}"
