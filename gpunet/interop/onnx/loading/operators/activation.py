"""Activations."""

from __future__ import annotations

from math import pi, prod, sqrt
from typing import Any

import numpy as np

from gpunet import functional as F
from gpunet.autograd import Tensor
from gpunet.interop.onnx.loading.operators.arithmetic import each
from gpunet.interop.onnx.loading.operators.registry import choice, operator
from gpunet.interop.onnx.loading.values import Value, aligned, channels_last, normal_axis, of_images


@operator("Relu")
def relu(x: Value) -> Value:
    """The larger of x and 0."""
    return each(F.relu, lambda values: np.maximum(values, 0), x)


def _leaky(x: Tensor, slope: float) -> Tensor:
    """x above 0, slope x elsewhere, for slopes of any sign."""
    return F.leaky_relu(x, slope) if slope > 0 else F.where(x > 0, x, x * slope)


@operator("LeakyRelu")
def leaky_relu(x: Value, *, alpha: float = 0.01) -> Value:
    """x above 0, alpha x elsewhere."""
    return Value(_leaky(x.tensor(x.order), alpha), x.order)


@operator("PRelu", parameters={"slope": None})
def prelu(x: Value, slope: Value) -> Value:
    """x above 0, slope x elsewhere, with learned slopes that broadcast."""
    values, channels = x.tensor(channels_last(x.ndim)), x.shape[1:2]
    by_channel = slope.deep(x.ndim).shape == (1, *channels, *(1,) * (x.ndim - 2))
    if x.ndim > 1 and (prod(slope.shape) == 1 or by_channel):
        return of_images(F.prelu(values, F.reshape(slope.tensor(), -1)))
    (values, slopes), order = aligned(x, slope)
    return Value(F.where(values > 0, values, F.multiply(values, slopes)), order)


def _elu(x: Tensor, alpha: float) -> Tensor:
    """x above 0, alpha (exp(x) - 1) elsewhere, for alphas of any sign."""
    if alpha > 0:
        return F.elu(x, alpha)
    return F.where(x > 0, x, (F.exp(F.minimum(x, 0.0)) - 1) * alpha)


@operator("Elu")
def elu(x: Value, *, alpha: float = 1.0) -> Value:
    """x above 0, alpha (exp(x) - 1) elsewhere."""
    return Value(_elu(x.tensor(x.order), alpha), x.order)


@operator("Selu")
def selu(x: Value, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Value:
    """gamma times an ELU."""
    return Value(_elu(x.tensor(x.order), alpha) * gamma, x.order)


@operator("Celu")
def celu(x: Value, *, alpha: float = 1.0) -> Value:
    """x above 0, alpha (exp(x / alpha) - 1) elsewhere."""
    if not alpha > 0:
        raise ValueError(f"attribute alpha is {alpha} but must be positive")
    return Value(F.elu(x.tensor(x.order) / alpha) * alpha, x.order)


@operator("Gelu")
def gelu(x: Value, *, approximate: str = "none") -> Value:
    """x Phi(x); or its approximation by a tanh."""
    values = x.tensor(x.order)
    if choice("approximate", approximate, "none", "tanh") == "none":
        return Value(F.gelu(values), x.order)
    inner = (values + values * values * values * 0.044715) * sqrt(2 / pi)
    return Value(values * (F.tanh(inner) + 1) * 0.5, x.order)


@operator("Erf")
def erf(x: Value) -> Value:
    """The error function: 2 Phi(sqrt(2) x) - 1 with Phi(u) = gelu(u) / u, near 0 its series."""
    z = F.clip(x.tensor(x.order), -6.0, 6.0)  # beyond, it is 1 in every dtype
    near = F.abs(z) < 0.125
    u = F.where(near, 1.0, z * sqrt(2))
    square = z * z
    series: Any = 1.0
    for n in (6, 5, 4, 3, 2, 1):  # the terms (-z^2)^n / (n! (2 n + 1)), as nested products
        series = 1 - square * series * ((2 * n - 1) / (n * (2 * n + 1)))
    return Value(F.where(near, z * series * (2 / sqrt(pi)), 2 * F.gelu(u) / u - 1), x.order)


@operator("HardSigmoid")
def hard_sigmoid(x: Value, *, alpha: float = 0.2, beta: float = 0.5) -> Value:
    """alpha x + beta between 0 and 1."""
    return Value(F.clip(x.tensor(x.order) * alpha + beta, 0.0, 1.0), x.order)


@operator("HardSwish")
def hard_swish(x: Value) -> Value:
    """x times a hard sigmoid."""
    return Value(F.hard_swish(x.tensor(x.order)), x.order)


@operator("Mish")
def mish(x: Value) -> Value:
    """x tanh(softplus(x))."""
    values = x.tensor(x.order)
    return Value(values * F.tanh(F.softplus(values)), x.order)


@operator("Sigmoid")
def sigmoid(x: Value) -> Value:
    """The logistic function."""
    return Value(F.sigmoid(x.tensor(x.order)), x.order)


@operator("Swish")
def swish(x: Value, *, alpha: float = 1.0) -> Value:
    """x times the logistic function of alpha x."""
    values = x.tensor(x.order)
    return Value(F.silu(values) if alpha == 1 else values * F.sigmoid(values * alpha), x.order)


@operator("Softsign")
def softsign(x: Value) -> Value:
    """x / (1 + |x|)."""
    values = x.tensor(x.order)
    return Value(values / (F.abs(values) + 1), x.order)


@operator("Tanh")
def tanh(x: Value) -> Value:
    """The hyperbolic tangent."""
    return Value(F.tanh(x.tensor(x.order)), x.order)


@operator("Softplus")
def softplus(x: Value) -> Value:
    """log(1 + exp(x))."""
    return Value(F.softplus(x.tensor(x.order)), x.order)


def _softmax(x: Value, axis: int | None, opset: int, *, log: bool) -> Value:
    """Softmax over one axis; up to opset 12 over all axes from that one on."""
    function = F.log_softmax if log else F.softmax
    default = 1 if opset < 13 else -1
    at = normal_axis(x, default if axis is None else axis)
    if opset < 13:
        rows = F.reshape(x.tensor(), prod(x.shape[:at]), prod(x.shape[at:]))
        return Value(F.reshape(function(rows), *x.shape))
    order = (*(a for a in x.order if a != at), at)
    return Value(function(x.tensor(order)), order)


@operator("Softmax")
def softmax(x: Value, *, axis: int | None = None, opset: int = 13) -> Value:
    """exp(x) over its sum."""
    return _softmax(x, axis, opset, log=False)


@operator("LogSoftmax")
def log_softmax(x: Value, *, axis: int | None = None, opset: int = 13) -> Value:
    """The logarithm of the softmax."""
    return _softmax(x, axis, opset, log=True)
