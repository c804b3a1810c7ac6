"""Activations of `NumpyBackend` whose gradient follows from their output, and that gradient.

`keep_where` makes zeros where a mask says so, though the values there may be NaN.
"""

from __future__ import annotations

import numpy as np

from gpunet.backends.contract import Activation, Array
from gpunet.backends.host import memory

_INTEGERS = {size: np.dtype(f"i{size}") for size in (2, 4, 8)}


def activate(x: Array, activation: Activation, *, out: Array) -> None:
    """Write the activation of x to `out`, which may be x."""
    match activation.name:
        case "relu":
            np.maximum(x, 0, out=out)
        case "leaky_relu":
            low = np.minimum(x, 0)
            low *= activation.negative_slope
            np.maximum(x, 0, out=out)
            out += low
        case "sigmoid":
            np.exp(-x, out=out)
            out += 1
            np.reciprocal(out, out=out)
        case "tanh":
            np.tanh(x, out=out)
        case "elu":
            low = np.minimum(x, 0)
            np.expm1(low, out=low)
            low *= activation.alpha
            np.maximum(x, 0, out=out)
            out += low
        case _:
            slope, shift, least, most = activation.line
            if (slope, shift) != (1, 0):
                x = np.add(x, shift, out=out)
                x *= slope
            np.clip(x, least, most, out=out)


def open_activation(dy: Array, y: Array, activation: Activation) -> Array:
    """dx of `activation_backward`."""
    match activation.name:
        case "relu":
            return _passed(dy, y <= 0)
        case "leaky_relu":
            slopes = np.array([1, activation.negative_slope], dy.dtype)
            factor = slopes[(y <= 0).view(np.uint8)]
            return np.multiply(dy, factor, out=factor)
        case "sigmoid":
            slope = 1 - y
            slope *= y
            return np.multiply(dy, slope, out=slope)
        case "tanh":
            slope = y * y
            np.subtract(1, slope, out=slope)
            return np.multiply(dy, slope, out=slope)
        case "elu":
            factor = np.minimum(y, 0)
            factor += activation.alpha
            np.copyto(factor, 1, where=~(y <= 0))
            return np.multiply(dy, factor, out=factor)
        case _:
            slope, _, low, high = activation.line
            stopped = y <= low
            stopped |= y >= high
            dx = _passed(dy, stopped)
            dx *= slope
            return dx


def _passed(dy: Array, stopped: Array) -> Array:
    """dy, and 0 where it is stopped; `stopped` is overwritten."""
    return keep_where(dy, np.logical_not(stopped, out=stopped))


def keep_where(values: Array, kept: Array, out: Array | None = None) -> Array:
    """`values` where the booleans `kept` are true, else 0.

    The bits of the floats are multiplied as integers, since 0 times NaN is NaN.

    Args:
        out: where to write the result, of the shape to which both broadcast; a new array of the
            values' shape if None.
    """
    bits = _INTEGERS[values.dtype.itemsize]
    if out is None:
        return np.multiply(values.view(bits), kept, out=memory.empty(values.shape, bits)).view(values.dtype)
    np.multiply(values.view(bits), kept, out=out.view(bits))
    return out
