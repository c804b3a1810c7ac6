"""Activations, and softmax over the last axis.

`backends.contract.activation` states the formula of each activation and of its gradient.
"""

from __future__ import annotations

from math import inf
from typing import Any

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract import ACTIVATIONS, INPUT_ACTIVATIONS, Activation, Array, InputActivation, real_array
from gpunet.functional.arithmetic import unbroadcast

__all__ = [
    "elu", "gelu", "hard_sigmoid", "hard_swish", "hard_tanh", "leaky_relu", "log_softmax", "prelu", "relu", "relu6",
    "sigmoid", "silu", "softmax", "softplus", "tanh",
]  # fmt: skip

_RELU = Activation("relu")
_BELOW = Activation("hard_tanh", min_val=-inf, max_val=0.0)  # min(x, 0)


class _Activate(Function, name="activation", fresh=True):
    def forward(self, x: Array, *, activation: Activation) -> Array:
        self.y = self.backend.activation_forward(x, activation)
        self.activation = activation
        return self.y

    def backward(self, dy: Array) -> Any:
        return self.backend.activation_backward(dy, self.y, self.activation)


class _InputActivate(Function, name="input_activation", fresh=True):
    def forward(self, x: Array, *, activation: InputActivation) -> Array:
        self.save(x)
        self.activation = activation
        return self.backend.input_activation_forward(x, activation)

    def backward(self, dy: Array) -> Any:
        (x,) = self.saved
        return self.backend.input_activation_backward(dy, x, self.activation)


class _PReLU(Function, name="prelu"):
    """y = max(x, 0) + w min(x, 0), made of other primitives.

    The backward pass takes six of them, which is acceptable for a rarely used layer.
    """

    def forward(self, x: Array, weight: Array) -> Array:
        self.save(x, weight)
        above = self.backend.activation_forward(x, _RELU)
        return self.backend.binary("add", above, self._times(weight, self._below(x)))

    def backward(self, dy: Array) -> Any:
        (x, w), apply = self.saved, self.backend.binary
        dx = dw = None
        if self.needs(0):  # dy above 0, w dy elsewhere
            above = self.backend.activation_backward(dy, x, _RELU)  # it looks at signs alone, and x has those of y
            dx = apply("add", above, self._times(w, apply("subtract", dy, above)))
        if self.needs(1):
            dw = unbroadcast(self.backend, apply("multiply", dy, self._below(x)), tuple(w.shape))
        return dx, dw

    def _below(self, x: Array) -> Array:
        return self.backend.activation_forward(x, _BELOW)

    def _times(self, w: Array, a: Array) -> Array:
        return self.backend.binary("multiply", w, a)


class _Softmax(Function, name="softmax", fresh=True):
    def forward(self, x: Array, *, log: bool) -> Array:
        self.log = log
        self.y = self.backend.softmax_forward(x, log=log)
        return self.y

    def backward(self, dy: Array) -> Any:
        return self.backend.softmax_backward(dy, self.y, log=self.log)


def activation_of(operation: str, activation: str | Activation | None) -> Activation | None:
    """The activation that an argument names, or ValueError."""
    if activation is None or isinstance(activation, Activation):
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(f"{operation}: activation is {activation!r} but takes one of {', '.join(ACTIVATIONS)} or None")
    return Activation(activation)


def activate(x: Tensor, activation: Activation | InputActivation) -> Tensor:
    """Apply an activation to x, of any shape and float dtype.

    Sigmoid, tanh and ELU tend to a limit, near which the output has lost the digits of the
    gradient: 1 - y of a sigmoid that has rounded to 1 is 0. Here their gradient is computed from x.
    Where they are fused into the operation before, it is computed from y.
    """
    if activation.name in INPUT_ACTIVATIONS and isinstance(activation, Activation):
        activation = InputActivation(activation.name, activation.alpha)
    if isinstance(activation, InputActivation):
        return _InputActivate.apply(x, activation=activation)
    return _Activate.apply(x, activation=activation)


def relu(x: Tensor) -> Tensor:
    """The larger of x and 0, elementwise (Nair & Hinton 2010); NaN stays NaN, and the gradient at 0 is 0."""
    return activate(x, _RELU)


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x where it is positive, `negative_slope` times x elsewhere (Maas et al. 2013).

    Args:
        x: any shape and float dtype.
        negative_slope: positive, because the gradient is told from the sign of the output;
            otherwise a ValueError.
    """
    return activate(x, Activation("leaky_relu", negative_slope))


def prelu(x: Tensor, weight: Any) -> Tensor:
    """x where it is positive, a learned slope times x elsewhere (He et al. 2015, equation 1).

    Args:
        x: (…, C), any float dtype.
        weight: (C,), one slope per channel, or (1,), one slope for all; of any sign.
    Returns:
        (…, C).
    Raises:
        ValueError: shapes that do not fit.
    The gradient of x at 0 is the slope. That of the slope is the sum of dy min(x, 0) over the
    elements that share it.
    """
    weight = weight if isinstance(weight, Tensor) else real_array("prelu: weight", weight)
    shape = tuple(weight.shape)
    if expect_tensor("prelu", "x", x).ndim == 0 or shape not in ((1,), x.shape[-1:]):
        raise ValueError(f"prelu: weight has shape {shape} but x {x.shape} takes (1,) or one slope per channel")
    return _PReLU.apply(x, weight)


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Exponential linear unit: x where it is positive, a curve that tends to -alpha elsewhere.

    The curve is alpha (exp(x) - 1) (Clevert et al. 2016, section 3).

    Args:
        x: any shape and float dtype.
        alpha: positive, because the gradient is told from the output; otherwise a ValueError. The
            gradient at 0 is alpha.
    """
    return activate(x, Activation("elu", alpha=alpha))


def sigmoid(x: Tensor) -> Tensor:
    """The logistic function 1 / (1 + exp(-x)), elementwise."""
    return activate(x, Activation("sigmoid"))


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent, elementwise."""
    return activate(x, Activation("tanh"))


def relu6(x: Tensor) -> Tensor:
    """x limited to 0 … 6 (Krizhevsky 2010); the gradient at 0 and at 6 is 0."""
    return activate(x, Activation("relu6"))


def hard_tanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """x limited to min_val … max_val.

    Args:
        x: any shape and float dtype.
        min_val, max_val: the limits, min_val < max_val, or a ValueError; the gradient is 1 between
            them and 0 at them.
    """
    return activate(x, Activation("hard_tanh", min_val=min_val, max_val=max_val))


def hard_sigmoid(x: Tensor) -> Tensor:
    """x / 6 + 1/2, limited to 0 … 1, in place of the sigmoid; the gradient at the limits is 0.

    This is PyTorch's and Keras 3's line; Keras 2 and Chainer have x / 5 + 1/2.
    """
    return activate(x, Activation("hard_sigmoid"))


def gelu(x: Tensor) -> Tensor:
    """Gaussian error linear unit, with the exact normal distribution (Hendrycks & Gimpel 2016).

    It cannot be fused by `activation=`, because its gradient needs the input; the same holds for
    `silu`, `softplus` and `hard_swish`.
    """
    return activate(x, InputActivation("gelu"))


def silu(x: Tensor) -> Tensor:
    """x times its sigmoid, also called swish (Ramachandran et al. 2017)."""
    return activate(x, InputActivation("silu"))


def softplus(x: Tensor, beta: float = 1.0) -> Tensor:
    """A smooth `relu`, log(1 + exp(beta x)) / beta (Dugas et al. 2001).

    It is computed without overflow, so that it needs no threshold as PyTorch's does.

    Args:
        x: any shape and float dtype.
        beta: positive, or a ValueError; the larger it is, the closer the result is to `relu`.
    """
    return activate(x, InputActivation("softplus", beta))


def hard_swish(x: Tensor) -> Tensor:
    """x times its `hard_sigmoid` (Howard et al. 2019, section 5.2).

    The gradient at -3 is 0, at 3 it is 1.
    """
    return activate(x, InputActivation("hard_swish"))


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis; see `backends.contract.loss`.

    Args:
        x: (…, K), any float dtype.
    Returns:
        (…, K), from 0 to 1, of sum 1 over the last axis.
    Raises:
        ValueError: x without axes, or without elements on the last one.
    """
    return _Softmax.apply(_with_classes(x, "softmax"), log=False)


def log_softmax(x: Tensor) -> Tensor:
    """The logarithm of `softmax` of x (…, K), computed without overflow; errors are those of `softmax`."""
    return _Softmax.apply(_with_classes(x, "log_softmax"), log=True)


def _with_classes(x: Tensor, operation: str) -> Tensor:
    """x, or ValueError if its last axis has no elements."""
    if expect_tensor(operation, "x", x).ndim == 0:
        raise ValueError(f"{operation}: x has no axes but takes at least one, the classes")
    if x.shape[-1] == 0:
        raise ValueError(f"{operation}: x {x.shape} has no classes")
    return x
