"""Activations of `NumpyBackend`.

Those whose gradient is computed from the input run in passes over blocks that stay in the cache.
NumPy has no error function, so the normal distribution of GELU is computed here.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt

import numpy as np

from gpunet.backends.contract import Activation, Array, InputActivation
from gpunet.backends.host import memory
from gpunet.backends.numpy.output_activation import activate, open_activation
from gpunet.backends.numpy.threads import BLOCK, NumpyThreads

ACTIVATION_BLOCK = 1 << 16
"""Elements of a block, small because a block has many intermediate results. See `threads` on the
length of calls."""
CHEBYSHEV = (
    -0.65132685989085472, 0.64196979235649026, 1.9476473204185836e-2, -9.5615147868086316e-3, -9.4659534448203687e-4,
    3.6683949785276145e-4, 4.2523324806907772e-5, -2.0278578112534243e-5, -1.6242900046470255e-6, 1.3036558355805232e-6,
    1.5626441722066143e-8, -8.5238095914926543e-8, 6.5290544390988515e-9, 5.0593434955514689e-9, -9.9136415649303309e-10,
    -2.2736512229318359e-10, 9.6467911020155268e-11, 2.3940380830391147e-12, -6.8860275264975534e-12,
    8.9448792730907257e-13, 3.1309213993429581e-13, -1.1270822361367252e-13, 3.8109052551892321e-16,
    7.106097613609237e-15, -1.5230282014571043e-15,
)  # fmt: skip
"""Chebyshev coefficients of log(erfc(z) exp(z^2) / t) as a function of 2 t - 1, where t = 2 / (2 +
z), for all z >= 0. The form is that of Press et al. 2007, "Numerical Recipes", section 6.2.2; the
coefficients are cosine sums of 60 values with 40 digits."""
TERMS = {"float32": 12, "float64": len(CHEBYSHEV)}
"""How many of the coefficients each dtype needs: the errors are then 1e-8 and 3e-15."""
MASKS = {"float32": (np.int32, np.int32(-(1 << 12))), "float64": (np.int64, np.int64(-(1 << 27)))}
"""The integers that a float is viewed as, and the mask that keeps the first half of its digits."""
FAR, FARTHER = 40, 2000
"""Limits of x beyond which the tails of Phi and of the logistic function are 0 in every dtype. x is
clipped to them, because 0 times an infinite x would be NaN."""


class NumpyActivation(NumpyThreads):
    """Elementwise functions and their gradients."""

    def activation_forward(self, x: Array, activation: Activation) -> Array:
        return self._mapped(lambda x, y: activate(x, activation, out=y), max(x.size, 1), 1, x)

    def activation_backward(self, dy: Array, y: Array, activation: Activation) -> Array:
        return self._mapped(lambda dy, y, dx: np.copyto(dx, open_activation(dy, y, activation)), BLOCK, 1, dy, y)

    def input_activation_forward(self, x: Array, activation: InputActivation) -> Array:
        return self._mapped(lambda x, y: _value(x, y, activation), ACTIVATION_BLOCK, 8, x)

    def input_activation_backward(self, dy: Array, x: Array, activation: InputActivation) -> Array:
        return self._mapped(
            lambda dy, x, dx: np.multiply(dy, _slope(x, activation), out=dx), ACTIVATION_BLOCK, 8, dy, x
        )

    def _mapped(self, work: Callable[..., object], block: int, each: int, *given: Array) -> Array:
        """Call work(*inputs, output) for blocks of flat arrays of one shape -> the output.

        Args:
            block: elements of a block.
            each: elements of work that one element stands for.
        """
        y = memory.empty(given[0].shape, given[0].dtype)
        flat = [a.reshape(-1) for a in (*given, y)]

        def run(start: int, stop: int) -> None:
            for i in range(start, stop, block):
                part = slice(i, min(i + block, stop))
                work(*(a[part] for a in flat))

        self._parallel(run, y.size, each)
        return y


def _value(x: Array, y: Array, activation: InputActivation) -> None:
    """Write f(x) of a block to y."""
    match activation.name:
        case "gelu":
            np.multiply(np.maximum(x, -FAR), normal_cdf(x), out=y)
        case "silu":
            x = np.maximum(x, -FARTHER)
            above, _, total = _logistic(x)
            x *= above
            above /= total
            np.multiply(x, above, out=y)
        case "softplus":  # with z = beta x, max(z, 0) + log(1 + exp(-|z|)) overflows nowhere
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
    """f'(x) of a block."""
    match activation.name:
        case "gelu":
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
        case "sigmoid" | "tanh":  # 1 / cosh(x)^2 is 4 s(2 x) s(-2 x)
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
    """(a, b, total) with s(x) = a^2 / total and s(-x) = b^2 / total.

    A product with s(x) is taken with a twice, because a^2 may underflow where the product does not.
    """
    above, below = np.minimum(x, 0), np.maximum(x, 0)
    above *= 0.5
    below *= -0.5
    np.exp(above, out=above)
    np.exp(below, out=below)  # one of the two is 1; choosing by np.where would take longer than the exponential
    total = above * below
    total *= total
    total += 1
    return above, below, total


def _gaussian(x: Array) -> Array:
    """exp(-x^2 / 2), exact in the tails too, where a rounding of x^2 would be magnified."""
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
    """The standard normal distribution function, erfc(-x / sqrt(2)) / 2, exact in the tails too.

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
