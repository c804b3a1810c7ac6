"""Transposed convolution: the input gradient of a convolution as an operation of its own."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract import Array, Conv
from gpunet.functional.arithmetic import unbroadcast
from gpunet.functional.conv import as_shaped
from gpunet.geometry import Geometry, Padding, Pair, Sides, pair, sides_of

__all__ = ["conv_transpose2d"]


class _ConvTranspose2d(Function, name="conv_transpose2d", fresh=True):
    def forward(self, x: Array, weight: Array, bias: Array | None, *, conv: Conv) -> Array:
        self.save(x, weight)
        self.conv = conv
        y = self.backend.conv2d_input_grad(x, weight, conv)
        return y if bias is None else self.backend.binary("add", y, bias, out=y)

    def backward(self, dy: Array) -> Any:
        x, weight = self.saved
        dx = dw = db = None
        if self.needs(1):
            into = self.into(weight=1, bias=2)._replace(bias=None, needs_bias=False)
            dw, _ = self.backend.conv2d_weight_grad(x, dy, self.conv, into=into)
        if self.needs(0):
            dx, _ = self.backend.conv2d_forward(dy, weight, None, self.conv)
        if self.needs(2):
            db = unbroadcast(self.backend, dy, self.conv.geometry.x_shape[3:])
        return dx, dw, db


def conv_transpose2d(
    x: Tensor,
    weight: Any,
    bias: Any = None,
    *,
    stride: int | Pair = 1,
    padding: Padding = 0,
    output_padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Transposed convolution (Zeiler et al. 2010; Dumoulin & Visin 2016, chapter 4).

    y is the input gradient of the convolution with these filters that takes images of y's extents
    to those of x: each pixel of x adds the filters, times itself, to a window of y, and the windows
    lie a stride apart.

    Args:
        x: (N, H, W, I), any float dtype.
        weight: (KH, KW, O // groups, I), as in Keras; PyTorch's is
            ``weight.transpose(2, 3, 1, 0)``.
        bias: (O,), added to every pixel; None for none.
        stride: step between windows of y, in pixels.
        padding: pixels cut off each side of y, given as for `conv2d`; "same" gives the extents of x
            times the stride.
        output_padding: pixels added to y at its lower and right end, fewer than the stride: they
            say which of several possible extents y has. 0 with "same".
        dilation, groups: as for `conv2d`.
    Returns:
        (N, OH, OW, O), with
        OH = (H - 1) stride - top - bottom + dilation (KH - 1) + output_padding + 1.
    Raises:
        ValueError: channels, groups or extents that do not fit.
    """
    name = "conv_transpose2d"
    if expect_tensor(name, "x", x).ndim != 4:
        raise ValueError(f"{name}: x has shape {x.shape} but takes 4 axes (N, H, W, I)")
    weight, bias = as_shaped(weight), as_shaped(bias)
    if len(weight.shape) != 4 or weight.shape[3] != x.shape[3]:
        takes = f"(KH, KW, O // groups, {x.shape[3]})"
        raise ValueError(f"{name}: weight has shape {tuple(weight.shape)} but x {x.shape} takes {takes}")
    geometry = transposed_geometry(
        x.shape, weight.shape, stride=stride, padding=padding, output_padding=output_padding, dilation=dilation,
        groups=groups,
    )  # fmt: skip
    if bias is not None and tuple(bias.shape) != geometry.x_shape[3:]:
        raise ValueError(f"{name}: bias has shape {tuple(bias.shape)} but takes {geometry.x_shape[3:]}")
    return _ConvTranspose2d.apply(x, weight, bias, conv=Conv(geometry))


def extra_pixels(operation: str, output_padding: Any, stride: Pair, padding: Sides) -> Pair:
    """(rows, columns) of `output_padding`, or a ValueError if it does not fit."""
    extra = output_padding if isinstance(output_padding, list | tuple) else (output_padding, output_padding)
    whole = len(extra) == 2 and all(isinstance(e, Integral) for e in extra)
    if not whole or not all(0 <= int(e) < s for e, s in zip(extra, stride, strict=True)):
        raise ValueError(f"{operation}: output_padding is {output_padding} but must be from 0 to below stride {stride}")
    if padding == "same" and any(extra):
        raise ValueError(f'{operation}: output_padding is {output_padding} but must be 0 with padding "same"')
    return int(extra[0]), int(extra[1])


def transposed_geometry(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    *,
    stride: int | Pair = 1,
    padding: Padding = 0,
    output_padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Geometry:
    """Geometry of the convolution from y to x, whose input gradient `conv_transpose2d` is."""
    name = "conv_transpose2d"
    stride, dilation = pair(name, "stride", stride), pair(name, "dilation", dilation)
    sides = sides_of(name, padding)
    extra = extra_pixels(name, output_padding, stride, sides)
    extents = []
    for axis, (n, f, s, d, e) in enumerate(zip(x_shape[1:3], w_shape, stride, dilation, extra, strict=False)):
        if sides == "same":
            extents.append(n * s)
        else:
            cut = 0 if sides == "valid" else sum(sides[axis])
            extents.append((n - 1) * s - cut + d * (f - 1) + e + 1)
    if min(extents) < 1:
        raise ValueError(f"{name}: padding {padding!r} leaves nothing of x {tuple(x_shape)} with windows {w_shape[:2]}")
    y_shape = (x_shape[0], *extents, w_shape[2] * groups)
    geometry = Geometry.conv(y_shape, w_shape, stride=stride, padding=sides, dilation=dilation, groups=groups)
    if geometry.y_shape != tuple(x_shape):
        raise ValueError(f"{name}: no output fits x {tuple(x_shape)}, windows {w_shape[:2]} and padding {padding!r}")
    return geometry
