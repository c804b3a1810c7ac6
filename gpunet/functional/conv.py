"""Convolution and dense layers: both are products of windows with filters."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract import FUSED_POOL, Activation, Array, Conv, Gate, Grads, Product, real_array
from gpunet.functional.activation import activation_of
from gpunet.functional.movement import reshape
from gpunet.functional.pool import max_pool2d
from gpunet.geometry import Geometry, Padding, Pair, pair

__all__ = ["conv2d", "linear"]


class _Conv2d(Function, name="conv2d", fresh=True):
    def forward(self, x: Array, weight: Array, bias: Array | None, *, conv: Conv) -> Array:
        y, mask = self.backend.conv2d_forward(x, weight, bias, conv)
        self.save(x, weight)
        self.conv, self.gate = conv, conv.gate(y, mask)
        return y

    def backward(self, dy: Array) -> Any:
        x, weight = self.saved
        dx = dw = db = None
        if self.needs(1) or self.needs(2):
            dw, db = self.backend.conv2d_weight_grad(dy, x, self.conv, self.gate, self.into(weight=1, bias=2))
        if self.needs(0):
            dx = self.backend.conv2d_input_grad(dy, weight, self.conv, self.gate)
        return dx, dw, db


class _Linear(Function, name="linear", fresh=True):
    def forward(self, x: Array, weight: Array, bias: Array | None, *, activation: Activation | None) -> Array:
        y = self.backend.matmul(x, weight, Product(bias=bias, activation=activation))
        self.save(x, weight)
        self.gate = None if activation is None else Gate(y, activation)
        return y

    def backward(self, dy: Array) -> Any:
        x, weight = self.saved
        dx = dw = db = None
        if self.needs(1) or self.needs(2):
            dw, db = self._weight_grad(dy, x, weight)
        if self.needs(0):
            dx = self.backend.matmul(dy, weight, Product(transpose_b=True, gate=self.gate))
        return dx, dw, db

    def _weight_grad(self, dy: Array, x: Array, weight: Array) -> Grads:
        conv, into = _conv_of_one_pixel(x.shape[0], *weight.shape), self.into(weight=1, bias=2)
        gate = None if self.gate is None else self.gate._replace(y=self.gate.y.reshape(conv.y_shape))
        if into.weight is not None:
            into = into._replace(weight=into.weight.reshape(conv.geometry.w_shape))
        pixels = dy.reshape(conv.y_shape), x.reshape(conv.geometry.x_shape)
        dw, db = self.backend.conv2d_weight_grad(*pixels, conv, gate, into)
        return dw.reshape(weight.shape) if into.weight is None else self.destination(1), db


@lru_cache(maxsize=1024)
def _conv_of_one_pixel(images: int, inputs: int, outputs: int) -> Conv:
    """A dense layer as a 1x1 convolution of images of one pixel."""
    return Conv(Geometry.conv((images, 1, 1, inputs), (1, 1, inputs, outputs)))


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
) -> Tensor:
    """2-D convolution (without a flip), bias, activation and max pool in one operation.

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
    Returns:
        (N, OH, OW, O), with OH = floor((H + top + bottom - dilation (KH - 1) - 1) / stride) + 1,
        or OH // pool with a pool.
    Raises:
        ValueError: channels, groups or a window that do not fit.
    """
    expect_tensor("conv2d", "x", x)
    weight, bias = as_shaped(weight), as_shaped(bias)
    geometry = Geometry.conv(x.shape, weight.shape, stride=stride, padding=padding, dilation=dilation, groups=groups)
    _check_bias("conv2d", bias, geometry.filters)
    fused = activation_of("conv2d", activation)
    if pool is None:
        return _Conv2d.apply(x, weight, bias, conv=Conv(geometry, fused))
    pooling = Geometry.pool(geometry.y_shape, pair("conv2d", "pool", pool), operation="conv2d")
    if pooling.window != FUSED_POOL:
        return max_pool2d(_Conv2d.apply(x, weight, bias, conv=Conv(geometry, fused)), pooling.window)
    return _Conv2d.apply(x, weight, bias, conv=Conv(geometry, fused, pooling))


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
    _check_bias("linear", bias, weight.shape[1])
    rows = x if x.ndim == 2 else reshape(x, prod(x.shape[:-1]), x.shape[-1])
    y = _Linear.apply(rows, weight, bias, activation=activation_of("linear", activation))
    return y if x.ndim == 2 else reshape(y, *x.shape[:-1], weight.shape[1])


def as_shaped(value: Any) -> Any:
    """Nested lists as an array; anything that has a shape, or is None, as it is."""
    return value if value is None or hasattr(value, "shape") else real_array("weights: data", value)


def _check_bias(operation: str, bias: Any, outputs: int) -> None:
    if bias is not None and tuple(bias.shape) != (outputs,):
        raise ValueError(f"{operation}: bias has shape {tuple(bias.shape)} but weight takes ({outputs},)")
