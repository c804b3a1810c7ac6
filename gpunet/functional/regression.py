"""Losses of numbers that should come close to a target: functions of the difference."""

from __future__ import annotations

from typing import Any

from gpunet.autograd import Function, Tensor
from gpunet.backends.contract import Activation, Array
from gpunet.functional.arithmetic import abs
from gpunet.functional.terms import difference, reduced

__all__ = ["huber_loss", "l1_loss", "mse_loss", "smooth_l1_loss"]


class _Huber(Function, name="huber"):
    """The Huber loss of differences d, divided by a scale.

    With c = min(max(d, -delta), delta) it is c (d - c / 2) / scale, and the gradient is c / scale.
    In this form no difference of large numbers stands for a small one.
    """

    def forward(self, d: Array, *, delta: float, scale: float) -> Array:
        backend = self.backend
        clamped = backend.activation_forward(d, Activation("hard_tanh", min_val=-delta, max_val=delta))
        self.slope = clamped
        if scale != 1:
            self.slope = backend.binary("divide", clamped, backend.full((), scale, d.dtype))
        return backend.binary("multiply", self.slope, backend.binary("subtract", d, backend.scale(clamped, None, 0.5)))

    def backward(self, dy: Array) -> Any:
        return self.backend.binary("multiply", dy, self.slope)


def mse_loss(x: Tensor, target: Any, *, reduction: str = "mean") -> Tensor:
    """(x - target)^2, elementwise; both arguments get a gradient.

    Args:
        x: the prediction, of any shape and float dtype.
        target: of the same shape.
        reduction: "mean" over all elements, "sum", or "none" for the elements themselves.
    Returns:
        A tensor of no axes, or of x's shape.
    Raises:
        ValueError: a target of another shape (nothing is broadcast), an unknown reduction, or the
            mean of no elements.
    """
    away = difference("mse_loss", x, target)
    return reduced("mse_loss", away * away, reduction)


def l1_loss(x: Tensor, target: Any, *, reduction: str = "mean") -> Tensor:
    """|x - target|, elementwise, with a gradient of 0 at 0; arguments and errors as for `mse_loss`."""
    return reduced("l1_loss", abs(difference("l1_loss", x, target)), reduction)


def huber_loss(x: Tensor, target: Any, *, delta: float = 1.0, reduction: str = "mean") -> Tensor:
    """d^2 / 2 up to |d| = delta, delta (|d| - delta / 2) beyond, with d = x - target, elementwise.

    Huber 1964. The gradient of an outlier is at most delta, however far it is.

    Args:
        x, target, reduction: as for `mse_loss`, but the target gets no gradient.
        delta: the difference at which the square ends, above 0.
    """
    if not delta > 0:
        raise ValueError(f"huber_loss: delta is {delta} but must be positive")
    away = difference("huber_loss", x, target.detach() if isinstance(target, Tensor) else target)
    terms = _Huber.apply(away, delta=delta, scale=1.0)
    return reduced("huber_loss", terms, reduction)


def smooth_l1_loss(x: Tensor, target: Any, *, beta: float = 1.0, reduction: str = "mean") -> Tensor:
    """d^2 / (2 beta) up to |d| = beta, |d| - beta / 2 beyond, with d = x - target, elementwise.

    Girshick 2015, equation 3. It is `huber_loss` with a delta of beta, divided by beta, and
    `l1_loss` if beta is 0.

    Args:
        x, target, reduction: as for `mse_loss`.
        beta: the difference at which the square ends, at least 0.
    """
    if not beta >= 0:
        raise ValueError(f"smooth_l1_loss: beta is {beta} but must be at least 0")
    away = difference("smooth_l1_loss", x, target)
    terms = abs(away) if beta == 0 else _Huber.apply(away, delta=beta, scale=beta)
    return reduced("smooth_l1_loss", terms, reduction)
