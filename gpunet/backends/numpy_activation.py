"""Activations of `NumpyBackend`, and the gate that takes a gradient back through them."""

from __future__ import annotations

import numpy as np

from gpunet.backends import host_memory, numpy_pool
from gpunet.backends.base import Activation, Array, Gate


def activate(x: Array, activation: Activation, *, out: Array) -> None:
    """Write the activation of x to out, which may be x."""
    match activation.name:
        case "relu":
            np.maximum(x, 0, out=out)
        case "leaky_relu":
            low = np.minimum(x, 0)
            low *= activation.slope
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
    """dy taken back through the activation whose output is y."""
    match activation.name:
        case "relu":
            return _passed(dy, y <= 0)
        case "leaky_relu":
            slopes = np.array([1, activation.slope], dy.dtype)
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
    """dy, and 0 where it is stopped: its bits, as integers, times 0 or 1, for 0 times NaN is NaN. NaN in y stops nothing."""
    np.logical_not(stopped, out=stopped)
    bits = np.dtype(f"i{dy.dtype.itemsize}")
    return np.multiply(dy.view(bits), stopped, out=host_memory.empty(dy.shape, bits)).view(dy.dtype)


def opened(dy: Array, gate: Gate | None) -> Array:
    """dy (n, …) taken back through the gate's activation, then its pool."""
    if gate is None:
        return dy
    if gate.activation is not None:
        dy = open_activation(dy, gate.y, gate.activation)
    if gate.mask is None or gate.pool is None:
        return dy
    dx = host_memory.empty((len(dy), *gate.pool.x_shape[1:]), dy.dtype)
    dx[...] = 0
    numpy_pool.max_backward(dy, gate.mask, dx, gate.pool)
    return dx


def part(gate: Gate | None, first: int, last: int) -> Gate | None:
    """The gate of images first … last - 1."""
    if gate is None:
        return None
    y, mask = (None if array is None else array[first:last] for array in (gate.y, gate.mask))
    return gate._replace(y=y, mask=mask)
