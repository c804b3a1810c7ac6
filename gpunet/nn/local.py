"""`LocallyConnected2d`: a convolution that shares no filters between output pixels."""

from __future__ import annotations

from math import prod

import numpy as np

from gpunet import functional as F
from gpunet.autograd import Tensor, parameter
from gpunet.geometry import Geometry, Padding, Pair, pair, positive_int
from gpunet.nn import init as initial
from gpunet.nn.layers import Shape
from gpunet.nn.module import Module

__all__ = ["LocallyConnected2d"]


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
