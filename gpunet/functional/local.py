"""Locally connected layers: convolutions whose filters are not shared between output pixels."""

from __future__ import annotations

from typing import Any

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract import Array
from gpunet.functional.conv import as_shaped
from gpunet.geometry import Geometry, Padding, Pair

__all__ = ["locally_connected2d"]


class _LocallyConnected2d(Function, name="locally_connected2d", fresh=True):
    def forward(self, x: Array, weight: Array, bias: Array | None, *, geometry: Geometry) -> Array:
        self.save(x, weight)
        self.geometry = geometry
        return self.backend.local_conv2d_forward(x, weight, bias, geometry)

    def backward(self, dy: Array) -> Any:
        x, weight = self.saved
        dx = dw = db = None
        if self.needs(1) or self.needs(2):
            dw, db = self.backend.local_conv2d_weight_grad(dy, x, self.geometry, self.into(weight=1, bias=2))
        if self.needs(0):
            dx = self.backend.local_conv2d_input_grad(dy, weight, self.geometry)
        return dx, dw, db


def locally_connected2d(
    x: Tensor, weight: Any, bias: Any = None, *, stride: int | Pair = 1, padding: Padding = 0
) -> Tensor:
    """A convolution with different filters for each output pixel.

    Source: LeCun 1989, "Generalization and Network Design Strategies".

    Args:
        x: (N, H, W, C), any float dtype.
        weight: (OH, OW, KH, KW, C, O), filters of x's dtype.
        bias: (OH, OW, O), added to every image; None for none.
        stride, padding: as for `conv2d`, whose output extents OH and OW are.
    Returns:
        (N, OH, OW, O).
    Raises:
        ValueError: channels, windows or extents that do not fit.
    """
    name = "locally_connected2d"
    expect_tensor(name, "x", x)
    weight, bias = as_shaped(weight), as_shaped(bias)
    if len(weight.shape) != 6:
        raise ValueError(f"{name}: weight has shape {tuple(weight.shape)} but takes 6 axes (OH, OW, KH, KW, C, O)")
    geometry = Geometry.conv(x.shape, weight.shape[2:], stride=stride, padding=padding, operation=name)
    places = geometry.y_shape[1:3]
    if tuple(weight.shape[:2]) != places:
        raise ValueError(f"{name}: weight has filters for {tuple(weight.shape[:2])} pixels, but x gives {places}")
    if bias is not None and tuple(bias.shape) != (*places, geometry.filters):
        raise ValueError(f"{name}: bias has shape {tuple(bias.shape)} but takes {(*places, geometry.filters)}")
    return _LocallyConnected2d.apply(x, weight, bias, geometry=geometry)
