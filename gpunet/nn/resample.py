"""Layers that change the extents of images: upsampling, padding, adaptive and global pooling."""

from __future__ import annotations

from math import prod
from typing import ClassVar, Literal

from gpunet import functional as F
from gpunet.autograd import Tensor
from gpunet.functional.resample import Sides, Size, Upsampling, adaptive_size, check_padding
from gpunet.geometry import Pair
from gpunet.nn.layers import Shape
from gpunet.nn.module import Module
from gpunet.resampling import windows

__all__ = [
    "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "GlobalAvgPool2d", "GlobalMaxPool2d", "ReflectionPad2d",
    "ReplicationPad2d", "Upsample2d", "ZeroPad2d",
]  # fmt: skip


class Upsample2d(Module):
    """Enlarges or shrinks images: (N, H, W, C) -> (N, OH, OW, C); see `functional.upsample2d`."""

    def __init__(
        self,
        scale_factor: float | tuple[float, float] | None = None,
        *,
        size: int | Pair | None = None,
        mode: Literal["nearest", "bilinear"] = "nearest",
        align_corners: bool = False,
        antialias: bool = False,
    ):
        self.options = Upsampling("Upsample2d", scale_factor, size, mode, align_corners, antialias)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, H, W, C) -> (N, OH, OW, C)."""
        return self.options.resized(x)

    def flops(self, x_shape: Shape, y_shape: Shape) -> int:
        """Two per multiply-add; none for "nearest", which copies."""
        if self.options.mode == "nearest" or not self.options.antialias:
            return 0 if self.options.mode == "nearest" else 8 * prod(y_shape)
        rows, columns = self.options.taps(x_shape)
        return 2 * x_shape[0] * x_shape[3] * len(rows.index) * len(columns.index)

    def extra_repr(self) -> str:
        """The options."""
        given = f"{self.options.scale_factor}" if self.options.size is None else f"size={self.options.size}"
        chosen = "".join(f", {name}=True" for name in ("align_corners", "antialias") if getattr(self.options, name))
        return f"{given}, mode={self.options.mode!r}{chosen}"


class _Pad2d(Module):
    mode: ClassVar[Literal["zero", "reflect", "edge"]]

    def __init__(self, padding: Sides):
        self.padding = check_padding(type(self).__name__, padding, self.mode)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, H, W, C) -> (N, top + H + bottom, left + W + right, C)."""
        return F.pad2d(x, self.padding, mode=self.mode)

    def extra_repr(self) -> str:
        """The pixels on each side."""
        return f"{self.padding}"


class ZeroPad2d(_Pad2d):
    """Puts zeros around images; the argument is that of `functional.pad2d`."""

    mode = "zero"


class ReflectionPad2d(_Pad2d):
    """Mirrors images at their border pixels; the argument is that of `functional.pad2d`."""

    mode = "reflect"


class ReplicationPad2d(_Pad2d):
    """Repeats the border pixels; the argument is that of `functional.pad2d`."""

    mode = "edge"


class _AdaptivePool2d(Module):
    def __init__(self, output_size: Size):
        adaptive_size(type(self).__name__, output_size, (1, 1))
        self.output_size = output_size

    def flops(self, x_shape: Shape, y_shape: Shape) -> int:
        """One per pixel of each window."""
        extents = zip(x_shape[1:3], y_shape[1:3], strict=True)
        pixels = (sum(last - first for first, last in windows(n, outputs)) for n, outputs in extents)
        return x_shape[0] * x_shape[3] * prod(pixels)

    def extra_repr(self) -> str:
        """The extents of the output."""
        return f"{self.output_size}"


class AdaptiveAvgPool2d(_AdaptivePool2d):
    """Mean over (OH, OW) windows -> (N, OH, OW, C); see `functional.adaptive_avg_pool2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """x (N, H, W, C) -> (N, OH, OW, C)."""
        return F.adaptive_avg_pool2d(x, self.output_size)


class AdaptiveMaxPool2d(_AdaptivePool2d):
    """Maximum over (OH, OW) windows -> (N, OH, OW, C); see `functional.adaptive_max_pool2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """x (N, H, W, C) -> (N, OH, OW, C)."""
        return F.adaptive_max_pool2d(x, self.output_size)


class GlobalAvgPool2d(AdaptiveAvgPool2d):
    """Mean of each channel: (N, H, W, C) -> (N, 1, 1, C)."""

    def __init__(self) -> None:
        super().__init__(1)


class GlobalMaxPool2d(AdaptiveMaxPool2d):
    """Maximum of each channel: (N, H, W, C) -> (N, 1, 1, C)."""

    def __init__(self) -> None:
        super().__init__(1)
