"""Activations of `NumpyBackend` whose gradient takes the input, in passes over blocks that stay in the cache.

NumPy has no error function, so GELU's is here.
"""

from __future__ import annotations

from math import pi, sqrt

import numpy as np

from gpunet.backends.contract.activation import Activation, InputActivation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.numpy.output_activation import activate

BLOCK = 1 << 16
"""Elements of a block, of which there are many intermediate results. See `threads` on the length of calls."""
CHEBYSHEV = (
    -0.65132685989085472, 0.64196979235649026, 1.9476473204185836e-2, -9.5615147868086316e-3, -9.4659534448203687e-4,
    3.6683949785276145e-4, 4.2523324806907772e-5, -2.0278578112534243e-5, -1.6242900046470255e-6, 1.3036558355805232e-6,
    1.5626441722066143e-8, -8.5238095914926543e-8, 6.5290544390988515e-9, 5.0593434955514689e-9, -9.9136415649303309e-10,
    -2.2736512229318359e-10, 9.6467911020155268e-11, 2.3940380830391147e-12, -6.8860275264975534e-12,
    8.9448792730907257e-13, 3.1309213993429581e-13, -1.1270822361367252e-13, 3.8109052551892321e-16,
    7.106097613609237e-15, -1.5230282014571043e-15,
)  # fmt: skip
"""Chebyshev coefficients of log(erfc(z) exp(z^2) / t) over 2 t - 1, t = 2 / (2 + z), for all z >= 0: the form of Press et al.
2007, "Numerical Recipes", section 6.2.2; the coefficients are the cosine sums of 60 values computed to 40 digits."""
TERMS = {"float32": 12, "float64": len(CHEBYSHEV)}
"""How many of them leave nothing to see: errors of 1e-8 and 3e-15."""
MASKS = {"float32": (np.int32, np.int32(-(1 << 12))), "float64": (np.int64, np.int64(-(1 << 27)))}
"""The integers that see a float's bits, and those that leave the first half of its digits."""
FAR, FARTHER = 40, 2000
"""Where the tails of Phi and of the logistic function are 0 in every dtype: an infinite x would make that NaN, not 0."""


def forward(x: Array, y: Array, activation: InputActivation) -> None:
    """Write y (count,) of x."""
    for i in range(0, x.size, BLOCK):
        _value(x[i : i + BLOCK], y[i : i + BLOCK], activation)


def backward(dy: Array, x: Array, dx: Array, activation: InputActivation) -> None:
    """Write dx (count,) of dy and x."""
    for i in range(0, x.size, BLOCK):
        np.multiply(dy[i : i + BLOCK], _slope(x[i : i + BLOCK], activation), out=dx[i : i + BLOCK])


def _value(x: Array, y: Array, activation: InputActivation) -> None:
    match activation.name:
        case "gelu":
            np.multiply(np.maximum(x, -FAR), normal_cdf(x), out=y)
        case "silu":
            x = np.maximum(x, -FARTHER)
            above, _, total = _logistic(x)
            x *= above
            above /= total
            np.multiply(x, above, out=y)
        case "softplus":  # max(z, 0) + log(1 + exp(-|z|)) overflows nowhere
            z = x * activation.beta
            tail = np.abs(z)
            np.negative(tail, out=tail)
            np.exp(tail, out=tail)
            np.log1p(tail, out=tail)
            np.maximum(z, 0, out=z)
            z += tail
            np.divide(z, activation.beta, out=y)
        case "sigmoid" | "tanh" | "elu":
            activate(x, Activation(activation.name, alpha=activation.beta), out=y)
        case _:
            share = x + 3
            share *= x
            share /= 6
            np.copyto(share, 0, where=x <= -3)
            np.copyto(share, x, where=x >= 3)
            y[...] = share


def _slope(x: Array, activation: InputActivation) -> Array:
    match activation.name:
        case "gelu":  # Phi(x) + x phi(x), with Phi's derivative phi(x) = exp(-x^2 / 2) / sqrt(2 pi)
            x = np.clip(x, -FAR, FAR)
            bell = _gaussian(x)
            slope = normal_cdf(x, bell)
            bell *= 1 / sqrt(2 * pi)
            bell *= x
            slope += bell
            return slope
        case "silu":
            x = np.clip(x, -FARTHER, FARTHER)
            above, below, total = _logistic(x)
            below *= below
            below /= total
            x *= below
            x += 1
            x *= above
            above /= total
            x *= above
            return x
        case "softplus":
            slope = x * -activation.beta
            np.exp(slope, out=slope)
            slope += 1
            return np.reciprocal(slope, out=slope)
        case "elu":
            slope = np.minimum(x, 0)
            np.exp(slope, out=slope)
            slope *= activation.beta
            np.copyto(slope, 1, where=x > 0)
            return slope
        case "sigmoid" | "tanh":  # s(x) s(-x), and 1 / cosh(x)^2, which is 4 s(2 x) s(-2 x)
            tail = np.abs(x)
            tail *= -2 if activation.name == "tanh" else -1
            np.exp(tail, out=tail)
            total = 1 + tail
            tail /= total
            tail /= total
            if activation.name == "tanh":
                tail *= 4
            return tail
        case _:
            slope = x + 1.5
            slope /= 3
            np.copyto(slope, 0, where=x <= -3)
            np.copyto(slope, 1, where=x >= 3)
            return slope


def _logistic(x: Array) -> tuple[Array, Array, Array]:
    """(a, b, total) with s(x) = a^2 / total and s(-x) = b^2 / total: squares of what does not underflow as they do."""
    above, below = np.minimum(x, 0), np.maximum(x, 0)
    above *= 0.5
    below *= -0.5
    np.exp(above, out=above)
    np.exp(below, out=below)  # one of them is 1; np.where would take longer than an exponent
    total = above * below
    total *= total
    total += 1
    return above, below, total


def _gaussian(x: Array) -> Array:
    """exp(-x^2 / 2), exact in the tails: a rounded square would be wrong by x^2 / 2 units there."""
    word, bits = MASKS[x.dtype.name]
    high = (x.view(word) & bits).view(x.dtype)  # half of the digits, so that its square is exact
    low = x - high
    low *= high + x
    low *= -0.5
    np.exp(low, out=low)
    high *= high
    high *= -0.5
    np.exp(high, out=high)
    high *= low
    return high


def normal_cdf(x: Array, gaussian: Array | None = None) -> Array:
    """Phi(x) = erfc(-x / sqrt(2)) / 2 of the standard normal distribution, elementwise; exact in the tails too.

    Args:
        gaussian: exp(-x^2 / 2), if the caller has it already.
    """
    x = np.clip(x, -FAR, FAR)
    bell = _gaussian(x) if gaussian is None else gaussian
    z = np.abs(x)
    z *= sqrt(0.5)
    t = z + 2
    np.divide(2, t, out=t)
    u = 4 * t
    u -= 2  # twice the argument of the series
    first, *rest = CHEBYSHEV[: TERMS[x.dtype.name]]
    ahead, behind = np.zeros_like(x), np.zeros_like(x)
    for c in reversed(rest):  # Clenshaw's recurrence
        term = u * ahead
        term -= behind
        term += c
        ahead, behind = term, ahead
    u *= 0.5
    u *= ahead
    u -= behind
    u += first
    tail = np.exp(u, out=u)
    tail *= bell
    tail *= t
    tail *= 0.5
    return np.where(x < 0, tail, 1 - tail)
