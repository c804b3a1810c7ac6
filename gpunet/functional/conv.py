"""Convolution and dense layers: both are products of windows with filters."""

from __future__ import annotations

from math import prod
from typing import Any

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.gate import FUSED_POOL, Gate
from gpunet.backends.contract.real import real_array
from gpunet.functional.activation import activation_of
from gpunet.functional.movement import reshape
from gpunet.functional.pool import max_pool2d
from gpunet.geometry import Geometry, Padding, Pair, pair


class _Conv2d(Function):
    name = "conv2d"
    fresh = True

    def forward(
        self,
        x: Array,
        w: Array,
        b: Array | None,
        *,
        geometry: Geometry,
        activation: Activation | None,
        pool: Geometry | None,
    ) -> Array:
        y, mask = self.backend.conv2d_forward(x, w, b, geometry=geometry, activation=activation, pool=pool)
        self.save(x, w)
        self.geometry = geometry
        self.gate = None
        if activation is not None or pool is not None:
            self.gate = Gate(None if activation is None else y, activation, mask, pool)
        return y

    def backward(self, dy: Array) -> Any:
        x, w = self.saved
        dx = dw = db = None
        if self.needs(1) or self.needs(2):
            dw, db = self.backend.conv2d_weight_grad(
                dy, x, geometry=self.geometry, gate=self.gate, out=self.destination(1), bias=self.needs(2),
                bias_out=self.destination(2), accumulate=self.accumulate,
            )  # fmt: skip
        if self.needs(0):
            dx = self.backend.conv2d_input_grad(dy, w, geometry=self.geometry, gate=self.gate)
        return dx, dw, db


class _Linear(Function):
    name = "linear"
    fresh = True

    def forward(self, x: Array, w: Array, b: Array | None, *, activation: Activation | None) -> Array:
        y = self.backend.matmul(x, w, bias=b, activation=activation)
        self.save(x, w)
        self.gate = None if activation is None else Gate(y, activation)
        return y

    def backward(self, dy: Array) -> Any:
        x, w = self.saved
        dx = dw = db = None
        if self.needs(1) or self.needs(2):  # a dense layer is a 1x1 convolution of one pixel
            (n, inputs), outputs = x.shape, dy.shape[1]
            geometry = Geometry.conv((n, 1, 1, inputs), (1, 1, inputs, outputs))
            out = self.destination(1)
            pixel = (n, 1, 1, outputs)
            dw, db = self.backend.conv2d_weight_grad(
                dy.reshape(pixel), x.reshape(geometry.x_shape), geometry=geometry,
                gate=None if self.gate is None else self.gate._replace(y=self.gate.y.reshape(pixel)),
                out=None if out is None else out.reshape(geometry.w_shape), bias=self.needs(2),
                bias_out=self.destination(2), accumulate=self.accumulate,
            )  # fmt: skip
            dw = dw.reshape(w.shape) if out is None else out
        if self.needs(0):
            dx = self.backend.matmul(dy, w, transpose_b=True, gate=self.gate)
        return dx, dw, db


def conv2d(
    x: Tensor,
    w: Any,
    b: Any = None,
    *,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    activation: str | Activation | None = None,
    pool: int | Pair | None = None,
) -> Tensor:
    """2-D convolution (without a flip, as deep learning means it), bias, activation and max pool in one operation.

    Args:
        x: (N, H, W, C), any float dtype.
        w: (KH, KW, C // groups, O), filters of x's dtype.
        b: (O,), added to every pixel; None for none.
        stride: step between windows, in pixels; an integer or (vertical, horizontal).
        padding: pixels of zeros around x: an integer, (vertical, horizontal), ((top, bottom), (left, right)), "valid"
            (none) or "same" (output ceil(n / stride), TensorFlow's).
        dilation: step between the taps of a window, in pixels.
        groups: joins C // groups channels to O // groups filters each; C for a depthwise convolution.
        activation: "relu", "leaky_relu", "sigmoid", "tanh", "elu", "relu6", "hard_tanh" or "hard_sigmoid", fused; an
            `Activation` where it takes numbers.
        pool: window of a max pool after the activation, its windows side by side; 2 is fused, and the convolution's
            whole output then never written. The gradient goes to the first largest value before bias and activation.
    Returns:
        (N, OH, OW, O), with OH = floor((H + top + bottom - dilation (KH - 1) - 1) / stride) + 1; OH // pool with a pool.
    Raises:
        ValueError: channels, groups or a window that do not fit.
    """
    expect_tensor("conv2d", "x", x)
    w, b = as_shaped(w), as_shaped(b)
    geometry = Geometry.conv(x.shape, w.shape, stride=stride, padding=padding, dilation=dilation, groups=groups)
    _check_bias("conv2d", b, geometry.filters)
    kept = activation_of("conv2d", activation)
    if pool is None:
        return _Conv2d.apply(x, w, b, geometry=geometry, activation=kept, pool=None)
    pooling = Geometry.pool(geometry.y_shape, pair("conv2d", "pool", pool), operation="conv2d")
    if pooling.window != FUSED_POOL:
        return max_pool2d(_Conv2d.apply(x, w, b, geometry=geometry, activation=kept, pool=None), pooling.window)
    return _Conv2d.apply(x, w, b, geometry=geometry, activation=kept, pool=pooling)


def linear(x: Tensor, w: Any, b: Any = None, *, activation: str | Activation | None = None) -> Tensor:
    """Dense layer y = f(x w + b).

    Args:
        x: (…, I), any float dtype.
        w: (I, O).
        b: (O,), or None.
        activation: as for `conv2d`.
    Returns:
        (…, O).
    """
    expect_tensor("linear", "x", x)
    w, b = as_shaped(w), as_shaped(b)
    if len(w.shape) != 2 or x.ndim < 1 or x.shape[-1] != w.shape[0]:
        raise ValueError(f"linear: takes x (…, I) and w (I, O), got x {tuple(x.shape)} and w {tuple(w.shape)}")
    _check_bias("linear", b, w.shape[1])
    rows = x if x.ndim == 2 else reshape(x, prod(x.shape[:-1]), x.shape[-1])
    y = _Linear.apply(rows, w, b, activation=activation_of("linear", activation))
    return y if x.ndim == 2 else reshape(y, *x.shape[:-1], w.shape[1])


def as_shaped(value: Any) -> Any:
    """Nested lists as an array; anything that has a shape, or is None, as it is."""
    return value if value is None or hasattr(value, "shape") else real_array("weights: data", value)


def _check_bias(operation: str, b: Any, outputs: int) -> None:
    if b is not None and tuple(b.shape) != (outputs,):
        raise ValueError(
            f"{operation}: b has shape {tuple(b.shape)} but w gives {outputs} outputs, so takes ({outputs},)"
        )
