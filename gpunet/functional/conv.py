"""Convolutions, also transposed and locally connected, and dense layers: products with filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from numbers import Integral
from typing import Any

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract import (
    FUSED_POOL,
    Activation,
    Array,
    Conv,
    CrossEntropy,
    Gate,
    Grads,
    LinearGrad,
    LossParts,
    PartMoments,
    Product,
    real_array,
)  # fmt: skip
from gpunet.functional.activation import activation_of
from gpunet.functional.arithmetic import unbroadcast
from gpunet.functional.movement import reshape
from gpunet.functional.pool import max_pool2d
from gpunet.geometry import Geometry, Padding, Pair, Sides, pair, sides_of
from gpunet.modes import announce, mode
from gpunet.tensors import LateTensor

__all__ = ["conv2d", "conv_transpose2d", "linear", "locally_connected2d"]


class _Conv2d(Function, name="conv2d"):
    left: PartMoments | None = None
    """The moments of the result, where a batch norm follows and the kernel leaves them."""

    def forward(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        residual: Array | None,
        *,
        conv: Conv,
        before_norm: bool = False,
    ) -> Array:
        if before_norm:
            y, mask, self.left = self.backend.conv2d_forward_with_moments(x, weight, bias, conv, residual)
        else:
            y, mask = self.backend.conv2d_forward(x, weight, bias, conv, residual)
        self.save(x, weight)
        self.conv, self.gate = conv, conv.gate(y, mask)
        self.fresh = residual is None  # the gradient of a residual may be dy itself
        return y

    def backward(self, dy: Array) -> Any:
        x, weight = self.saved
        dw = db = dresidual = None
        dy, gate = self.backend.open_pool(dy, self.conv, self.gate)
        if self.needs(3):
            if gate is not None and gate.activation is not None:  # opened once, for all four gradients
                dy, gate = self.backend.activation_backward(dy, gate.y, gate.activation), None
            dresidual = dy
        if self.needs(1) or self.needs(2):
            dw, db = self.backend.conv2d_weight_grad(dy, x, self.conv, gate, self.into(weight=1, bias=2))
        dx = self.backend.conv2d_input_grad(dy, weight, self.conv, gate) if self.needs(0) else None
        return dx, dw, db, dresidual


class _Linear(Function, name="linear", fresh=True):
    ready: tuple[Array, Array] | None = None
    """A gradient of the result, and that of x, which was computed with it; used once."""

    def forward(
        self, x: Array, weight: Array, bias: Array | None, *, activation: Activation | None, y: Array | None = None
    ) -> Array:
        """The result, which is `y` where that has been computed."""
        if y is None:
            y = self.backend.linear_forward(x, weight, bias, activation, precision=self.matrix_precision)
        self.save(x, weight)
        self.gate = None if activation is None else Gate(y, activation)
        return y

    def backward(self, dy: Array) -> Any:
        x, weight = self.saved
        dw, db = self._weight_grad(dy, x) if self.needs(1) or self.needs(2) else (None, None)
        (known, dx), self.ready = self.ready or (None, None), None
        if known is None or known is not dy:
            product = Product(transpose_b=True, gate=self.gate, precision=self.matrix_precision)
            dx = self.backend.matmul(dy, weight, product) if self.needs(0) else None
        return dx, dw, db

    def _weight_grad(self, dy: Array, x: Array) -> Grads:
        layer = LinearGrad(dy, x, self.gate, self.into(weight=1, bias=2), self.matrix_precision)
        backend = self.backend
        if self.needs(1) and backend.shares_launch(layer) and self.put_off(backend.linear_weight_grads, layer, 1, 2):
            return self.destination(1), self.destination(2)
        return backend.linear_weight_grads([layer])[0]


def conv2d(
    x: Tensor,
    weight: Any,
    bias: Any = None,
    *,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    activation: str | Activation | None = None,
    pool: int | Pair | None = None,
    residual: Tensor | None = None,
    before_norm: bool = False,
) -> Tensor:
    """2-D convolution (without a flip), bias, residual, activation and max pool in one operation.

    Args:
        x: (N, H, W, C), any float dtype.
        weight: (KH, KW, C // groups, O), filters of x's dtype.
        bias: (O,), added to every pixel; None for none.
        stride: step between windows, in pixels; an integer or (vertical, horizontal).
        padding: pixels of zeros around x: an integer, (vertical, horizontal), ((top, bottom),
            (left, right)), "valid" (none) or "same" (output ceil(n / stride), TensorFlow's).
        dilation: step between the taps of a window, in pixels.
        groups: number of groups, each of which connects C // groups channels with O // groups
            filters; C for a depthwise convolution.
        activation: "relu", "leaky_relu", "sigmoid", "tanh", "elu", "relu6", "hard_tanh" or
            "hard_sigmoid", fused; an `Activation` to set its numbers.
        pool: window of a max pool after the activation, with windows side by side. A pool of 2 is
            fused, and the convolution's whole output is never written then. The gradient goes to
            the first largest value of a window before bias and activation.
        residual: of the convolution's shape (N, OH, OW, O), added before the activation, as in He et
            al. 2016, figure 2; None for none. A pool is then an operation of its own.
        before_norm: whether `batch_norm` takes the result next, in training. On tensor cores the
            convolution then leaves the moments of its result, which saves a pass over it.
    Returns:
        (N, OH, OW, O), with OH = floor((H + top + bottom - dilation (KH - 1) - 1) / stride) + 1,
        or OH // pool with a pool.
    Raises:
        ValueError: channels, groups, a window or a residual that do not fit.
    """
    expect_tensor("conv2d", "x", x)
    weight, bias, residual = as_shaped(weight), as_shaped(bias), as_shaped(residual)
    geometry = Geometry.conv(x.shape, weight.shape, stride=stride, padding=padding, dilation=dilation, groups=groups)
    check_bias("conv2d", bias, (geometry.filters,))
    if residual is not None and tuple(residual.shape) != geometry.y_shape:
        raise ValueError(
            f"conv2d: residual has shape {tuple(residual.shape)} but the convolution makes {geometry.y_shape}"
        )
    fused = activation_of("conv2d", activation)
    plain = Conv(geometry, fused, precision=mode.matrix_precision)
    leaves: dict[str, bool] = {"before_norm": True} if before_norm else {}
    if pool is None:
        return _Conv2d.apply(x, weight, bias, residual, conv=plain, **leaves)
    pooling = Geometry.pool(geometry.y_shape, pair("conv2d", "pool", pool), operation="conv2d")
    if pooling.window != FUSED_POOL or residual is not None:
        return max_pool2d(_Conv2d.apply(x, weight, bias, residual, conv=plain), pooling.window)
    return _Conv2d.apply(x, weight, bias, None, conv=replace(plain, pool=pooling), **leaves)


def moments_left(x: Tensor) -> PartMoments | None:
    """The moments of x that the convolution which made it has left, if it did."""
    return x.creator.left if isinstance(x.creator, _Conv2d) and x.version == 0 else None


def linear(x: Tensor, weight: Any, bias: Any = None, *, activation: str | Activation | None = None) -> Tensor:
    """Dense layer y = f(x weight + bias).

    Args:
        x: (…, I), any float dtype.
        weight: (I, O).
        bias: (O,), or None.
        activation: as for `conv2d`.
    Returns:
        (…, O).
    Raises:
        ValueError: shapes that do not fit.
    """
    expect_tensor("linear", "x", x)
    weight, bias = as_shaped(weight), as_shaped(bias)
    if len(weight.shape) != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[0]:
        raise ValueError(f"linear: takes x (…, I) and weight (I, O), got x {x.shape} and weight {tuple(weight.shape)}")
    check_bias("linear", bias, tuple(weight.shape[1:]))
    fused = activation_of("linear", activation)
    if fused is None and x.ndim == 2 and mode.late is not None and mode.fuses and _joins_loss(x, weight):
        return _Linear.apply_late((x.shape[0], weight.shape[1]), x, weight, bias, activation=None)
    rows = x if x.ndim == 2 else reshape(x, prod(x.shape[:-1]), x.shape[-1])
    y = _Linear.apply(rows, weight, bias, activation=fused)
    return y if x.ndim == 2 else reshape(y, *x.shape[:-1], weight.shape[1])


def _joins_loss(x: Tensor, weight: Any) -> bool:
    return x.dtype.name in x.backend.dtypes and x.backend.joins_loss(x.shape, tuple(weight.shape))


def cross_entropy_of_linear(logits: Tensor, labels: Array, options: CrossEntropy) -> LossParts | None:
    """The cross entropy of a dense layer's result that waits, in one launch with the layer.

    Returns:
        (loss, dlogits, correct), as `softmax_cross_entropy` gives them; None where the result does
        not wait.
    """
    if not isinstance(logits, LateTensor) or logits.pending is None:
        return None
    linear, (x, weight, bias), _ = logits.pending
    announce(linear, "forward")
    passed_on = options.gain == 1 and options.reduction != "none"  # whether dlogits itself goes back, as a rule
    needs_dx = passed_on and logits.requires_grad and linear.needs(0)
    y, parts, dx = linear.backend.linear_cross_entropy(
        x, weight, bias, labels, options, needs_dx=needs_dx, precision=linear.matrix_precision
    )
    logits.compute(y=y)
    linear.ready = None if dx is None else (parts[1], dx)
    return parts


def as_shaped(value: Any) -> Any:
    """Nested lists as an array; anything that has a shape, or is None, as it is."""
    return value if value is None or hasattr(value, "shape") else real_array("weights: data", value)


def check_bias(operation: str, bias: Any, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the bias is None or has the shape."""
    if bias is not None and tuple(bias.shape) != shape:
        raise ValueError(f"{operation}: bias has shape {tuple(bias.shape)} but takes {shape}")


class _LocallyConnected2d(Function, name="locally_connected2d", fresh=True):
    def forward(self, x: Array, weight: Array, bias: Array | None, *, geometry: Geometry) -> Array:
        self.save(x, weight)
        self.geometry = geometry
        return self.backend.local_conv2d_forward(x, weight, bias, geometry)

    def backward(self, dy: Array) -> Any:
        x, weight = self.saved
        dw = db = None
        if self.needs(1) or self.needs(2):
            dw, db = self.backend.local_conv2d_weight_grad(dy, x, self.geometry, self.into(weight=1, bias=2))
        dx = self.backend.local_conv2d_input_grad(dy, weight, self.geometry) if self.needs(0) else None
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
    check_bias(name, bias, (*places, geometry.filters))
    return _LocallyConnected2d.apply(x, weight, bias, geometry=geometry)


class _ConvTranspose2d(Function, name="conv_transpose2d", fresh=True):
    def forward(self, x: Array, weight: Array, bias: Array | None, *, conv: Conv) -> Array:
        self.save(x, weight)
        self.conv = conv
        return self.backend.conv_transpose2d(x, weight, bias, conv)

    def backward(self, dy: Array) -> Any:
        x, weight = self.saved
        dx = dw = None
        if self.needs(1):
            into = self.into(weight=1, bias=2)._replace(bias=None, needs_bias=False)
            dw, _ = self.backend.conv2d_weight_grad(x, dy, self.conv, into=into)
        if self.needs(0):
            dx, _ = self.backend.conv2d_forward(dy, weight, None, self.conv)
        db = unbroadcast(self.backend, dy, self.conv.geometry.x_shape[3:]) if self.needs(2) else None
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
        weight: (KH, KW, O // groups, I), as in Keras; of a weight w of PyTorch's, (I, O // groups,
            KH, KW), it is ``w.transpose(2, 3, 1, 0)``.
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
    expect_tensor("conv_transpose2d", "x", x)
    weight, bias = as_shaped(weight), as_shaped(bias)
    geometry = transposed_geometry(
        "conv_transpose2d", x.shape, tuple(weight.shape), stride=stride, padding=padding, output_padding=output_padding,
        dilation=dilation, groups=groups,
    )  # fmt: skip
    check_bias("conv_transpose2d", bias, geometry.x_shape[3:])
    return _ConvTranspose2d.apply(x, weight, bias, conv=Conv(geometry, precision=mode.matrix_precision))


def transposed_geometry(
    name: str, x_shape: Sequence[int], w_shape: Sequence[int], *, stride: int | Pair, padding: Padding,
    output_padding: int | Pair, dilation: int | Pair, groups: int,
) -> Geometry:  # fmt: skip
    """The convolution from y to x whose input gradient a transposed convolution is.

    Args:
        name: the operation, for messages.
        x_shape, w_shape: (N, H, W, I) and (KH, KW, O // groups, I).
        stride, padding, output_padding, dilation, groups: as for `conv_transpose2d`.
    Raises:
        ValueError: channels, groups or extents that do not fit.
    """
    x_shape, w_shape = tuple(x_shape), tuple(w_shape)
    if len(x_shape) != 4:
        raise ValueError(f"{name}: x has shape {x_shape} but takes 4 axes (N, H, W, I)")
    if len(w_shape) != 4 or w_shape[3] != x_shape[3]:
        raise ValueError(f"{name}: weight is {w_shape} but x {x_shape} takes (KH, KW, O // groups, {x_shape[3]})")
    stride, dilation, sides = pair(name, "stride", stride), pair(name, "dilation", dilation), sides_of(name, padding)
    extra = extra_pixels(name, output_padding, stride, sides)
    extents = []
    for axis, (n, f, s, d, e) in enumerate(zip(x_shape[1:3], w_shape, stride, dilation, extra, strict=False)):
        if sides == "same":
            extents.append(n * s)
        else:
            cut = 0 if sides == "valid" else sum(sides[axis])
            extents.append((n - 1) * s - cut + d * (f - 1) + e + 1)
    if min(extents) < 1:
        raise ValueError(f"{name}: padding {padding!r} leaves nothing of x {x_shape} with windows {w_shape[:2]}")
    y_shape = (x_shape[0], *extents, w_shape[2] * groups)
    geometry = Geometry.conv(y_shape, w_shape, stride=stride, padding=sides, dilation=dilation, groups=groups)
    if geometry.y_shape != x_shape:
        raise ValueError(f"{name}: no output fits x {x_shape}, windows {w_shape[:2]} and padding {padding!r}")
    return geometry


def extra_pixels(operation: str, output_padding: Any, stride: Pair, padding: Sides) -> Pair:
    """(rows, columns) of `output_padding`, or a ValueError if it does not fit."""
    extra = output_padding if isinstance(output_padding, list | tuple) else (output_padding, output_padding)
    whole = len(extra) == 2 and all(isinstance(e, Integral) for e in extra)
    if not whole or not all(0 <= int(e) < s for e, s in zip(extra, stride, strict=True)):
        raise ValueError(f"{operation}: output_padding is {output_padding} but must be from 0 to below stride {stride}")
    if padding == "same" and any(extra):
        raise ValueError(f'{operation}: output_padding is {output_padding} but must be 0 with padding "same"')
    return int(extra[0]), int(extra[1])
