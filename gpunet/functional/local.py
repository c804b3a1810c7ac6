"""Locally connected layers: convolutions whose filters are not shared between places."""

from __future__ import annotations

from typing import Any

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract.arrays import Array
from gpunet.functional.conv import as_shaped
from gpunet.geometry import Geometry, Padding, Pair


class _LocallyConnected2d(Function):
    name = "locally_connected2d"
    fresh = True

    def forward(self, x: Array, w: Array, b: Array | None, *, geometry: Geometry) -> Array:
        self.save(x, w)
        self.geometry = geometry
        return self.backend.local_conv2d_forward(x, w, b, geometry=geometry)

    def backward(self, dy: Array) -> Any:
        x, w = self.saved
        dx = dw = db = None
        if self.needs(1) or self.needs(2):
            dw, db = self.backend.local_conv2d_weight_grad(
                dy, x, geometry=self.geometry, out=self.destination(1), bias=self.needs(2),
                bias_out=self.destination(2), accumulate=self.accumulate,
            )  # fmt: skip
        if self.needs(0):
            dx = self.backend.local_conv2d_input_grad(dy, w, geometry=self.geometry)
        return dx, dw, db


def locally_connected2d(x: Tensor, w: Any, b: Any = None, *, stride: int | Pair = 1, padding: Padding = 0) -> Tensor:
    """A convolution with filters of each output pixel's own (LeCun 1989, "Generalization and Network Design Strategies").

    Args:
        x: (N, H, W, C), any float dtype.
        w: (OH, OW, KH, KW, C, O), filters of x's dtype.
        b: (OH, OW, O), added to every image; None for none.
        stride, padding: as for `conv2d`, whose output extents OH and OW are.
    Returns:
        (N, OH, OW, O).
    Raises:
        ValueError: channels, windows or extents that do not fit.
    """
    name = "locally_connected2d"
    expect_tensor(name, "x", x)
    w, b = as_shaped(w), as_shaped(b)
    if len(w.shape) != 6:
        raise ValueError(f"{name}: w has shape {tuple(w.shape)} but takes 6 axes (OH, OW, KH, KW, C, O)")
    geometry = Geometry.conv(x.shape, w.shape[2:], stride=stride, padding=padding, operation=name)
    places = geometry.y_shape[1:3]
    if tuple(w.shape[:2]) != places:
        raise ValueError(
            f"{name}: w {tuple(w.shape)} has filters for {tuple(w.shape[:2])} pixels, but x gives {places}"
        )
    if b is not None and tuple(b.shape) != (*places, geometry.filters):
        raise ValueError(f"{name}: b has shape {tuple(b.shape)} but takes {(*places, geometry.filters)}")
    return _LocallyConnected2d.apply(x, w, b, geometry=geometry)
