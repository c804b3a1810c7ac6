"""Activations by their formulas."""

from __future__ import annotations

from math import erfc, pi, sqrt

import numpy as np

from gpunet.backends.contract import Activation, Array, InputActivation
from gpunet.backends.host.arrays import HostArrays

FAR = 2000
"""Size of x beyond which the tails of activations are 0 in float64, and so are their products with
x."""


class ReferenceActivation(HostArrays):
    """Elementwise functions and their gradients."""

    def activation_forward(self, x: Array, activation: Activation) -> Array:
        with np.errstate(over="ignore"):
            match activation.name:
                case "relu":
                    return np.where(x <= 0, 0, x).astype(x.dtype)
                case "leaky_relu":
                    return np.where(x <= 0, activation.negative_slope * x, x).astype(x.dtype)
                case "sigmoid":
                    return (1 / (1 + np.exp(-x))).astype(x.dtype)
                case "tanh":
                    return np.tanh(x)
                case "elu":
                    return np.where(x <= 0, activation.alpha * np.expm1(x), x).astype(x.dtype)
                case _:
                    slope, shift, low, high = activation.line
                    return np.clip(slope * (x + shift), low, high).astype(x.dtype)

    def activation_backward(self, dy: Array, y: Array, activation: Activation) -> Array:
        match activation.name:
            case "relu":
                return np.where(y <= 0, 0, dy).astype(dy.dtype)
            case "leaky_relu":
                return np.where(y <= 0, activation.negative_slope * dy, dy).astype(dy.dtype)
            case "sigmoid":
                return dy * y * (1 - y)
            case "tanh":
                return dy * (1 - y * y)
            case "elu":
                return np.where(y <= 0, dy * (y + activation.alpha), dy).astype(dy.dtype)
            case _:
                slope, _, low, high = activation.line
                return np.where((y <= low) | (y >= high), 0, slope * dy).astype(dy.dtype)

    def input_activation_forward(self, x: Array, activation: InputActivation) -> Array:
        x64 = x.astype(np.float64)
        far = np.maximum(x64, -FAR).astype(np.longdouble)  # because infinity times 0 is not the limit
        with np.errstate(all="ignore"):
            match activation.name:
                case "gelu":
                    y = far * _normal_cdf(far)
                case "silu":
                    y = far / (1 + np.exp(-far))
                case "softplus":
                    y = np.logaddexp(0, activation.beta * x64.astype(np.longdouble)) / activation.beta
                case "hard_swish":
                    y = np.where(x <= -3, 0, np.where(x >= 3, x, x * (x + 3) / 6))
                case _:
                    return self.activation_forward(x, Activation(activation.name, alpha=activation.beta))
            return y.astype(np.float64).astype(x.dtype)

    def input_activation_backward(self, dy: Array, x: Array, activation: InputActivation) -> Array:
        x64 = x.astype(np.float64)
        far = np.clip(x64, -FAR, FAR).astype(np.longdouble)
        with np.errstate(all="ignore"):
            match activation.name:
                case "gelu":
                    slope = _normal_cdf(far) + far * (np.exp(-far * far / 2) / sqrt(2 * pi))
                case "silu":
                    slope = (1 + far / (1 + np.exp(far))) / (1 + np.exp(-far))
                case "softplus":
                    slope = 1 / (1 + np.exp(-activation.beta * x64.astype(np.longdouble)))
                case "hard_swish":
                    slope = np.where(x <= -3, 0, np.where(x >= 3, 1, (x + 1.5) / 3))
                case "sigmoid":
                    slope = 1 / ((1 + np.exp(-far)) * (1 + np.exp(far)))
                case "tanh":
                    slope = np.cosh(far) ** -2
                case _:
                    slope = np.where(x > 0, 1, activation.beta * np.exp(np.minimum(far, 0)))
            return (dy * slope.astype(np.float64)).astype(dy.dtype)


def _normal_cdf(x: Array) -> Array:
    """The standard normal distribution function of x in long doubles."""
    z = -np.clip(x, -FAR, FAR) * np.sqrt(np.longdouble(0.5))
    near = z.astype(np.float64)  # the second term below corrects for this rounding
    return 0.5 * np.vectorize(erfc, otypes=[np.float64])(near) - np.exp(-z * z) * (z - near) / sqrt(pi)
