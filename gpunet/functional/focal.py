"""Focal losses (Lin et al. 2017): cross entropies in which what is already right counts little."""

from __future__ import annotations

from typing import Any

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract import Activation, Array, is_float, real_array
from gpunet.functional.activation import log_softmax
from gpunet.functional.loss import binary_target, binary_terms, expected_log
from gpunet.functional.terms import Weighed, check_reduction, given_array, one_hot, reduced, where_positive, wide

__all__ = ["focal_loss", "sigmoid_focal_loss"]

_SIGMOID, _EXPM1 = Activation("sigmoid"), Activation("elu")
TINY = 1e-37
"""Added to both parts of a ratio that both tend to 0, so that it is not 0 / 0."""


class _Focal(Function, name="focal"):
    """-(1 - p)^gamma log p from log p, elementwise.

    The slope at p = 1 is 0, even where (1 - p)^(gamma - 1) is infinite.
    """

    def forward(self, log_p: Array, *, gamma: float) -> Array:
        backend = self.backend
        self.save(log_p)
        self.gamma = backend.full((), gamma, log_p.dtype)
        # 1 - p = -expm1(log p), which is ELU's part for numbers up to 0
        self.wrong = backend.unary("negative", backend.activation_forward(log_p, _EXPM1))
        self.modulation = backend.binary("power", self.wrong, self.gamma)
        return backend.unary("negative", backend.binary("multiply", self.modulation, log_p))

    def backward(self, dy: Array) -> Any:
        """The slope is -(1 - p)^gamma (1 - gamma p log p / (1 - p)).

        log p / (1 - p) tends to -1 as p tends to 1.
        """
        (log_p,), backend, apply = self.saved, self.backend, self.backend.binary
        p, tiny = backend.unary("exp", log_p), backend.full((), TINY, dy.dtype)
        ratio = apply("divide", apply("subtract", log_p, tiny), apply("add", self.wrong, tiny))
        ratio = apply("multiply", p, where_positive(backend, p, ratio))
        slope = apply("subtract", apply("multiply", self.gamma, ratio), backend.full((), 1, dy.dtype))
        return apply("multiply", dy, apply("multiply", self.modulation, slope))


class _Modulation(Function, name="modulation"):
    """w^gamma, elementwise, where w = t s(-z) + (1 - t) s(z) is the share that is wrong.

    s is the sigmoid, and t gets no gradient.
    """

    def forward(self, z: Array, *, t: Array, gamma: float) -> Array:
        backend = self.backend
        self.save(z)
        self.t, self.gamma = t, gamma
        wrong = self._mixed(*(backend.activation_forward(a, _SIGMOID) for a in (backend.unary("negative", z), z)))
        self.y = backend.binary("power", wrong, backend.full((), gamma, z.dtype))
        return self.y

    def backward(self, dy: Array) -> Any:
        """The slope is gamma w^gamma (1 - 2 t) / (t / s(z) + (1 - t) / s(-z))."""
        (z,), backend, apply = self.saved, self.backend, self.backend.binary
        one = backend.full((), 1, z.dtype)
        inverse = (apply("add", one, backend.unary("exp", a)) for a in (backend.unary("negative", z), z))
        slope = apply("divide", apply("subtract", one, apply("add", self.t, self.t)), self._mixed(*inverse))
        return apply("multiply", dy, apply("multiply", backend.scale(self.y, None, self.gamma), slope))

    def _mixed(self, a: Array, b: Array) -> Array:
        """t a + (1 - t) b, in which 0 times infinity is 0."""
        backend, apply = self.backend, self.backend.binary
        rest = apply("subtract", backend.full((), 1, a.dtype), self.t)
        parts = (apply("multiply", share, where_positive(backend, share, of)) for share, of in ((self.t, a), (rest, b)))
        return apply("add", *parts)


def focal_loss(
    logits: Tensor, labels: Any, *, gamma: float = 2.0, alpha: Any = None, reduction: str = "mean"
) -> Tensor:
    """-alpha (1 - p)^gamma log p, with p = softmax(logits)[label].

    Lin et al. 2017, equation 5, for many classes.

    Args:
        logits: (…, K), any float dtype.
        labels: (…), integers from 0 to K - 1: lists, a host array, which is checked, or the
            backend's int32 array, in which any other number makes the loss NaN. Or soft labels,
            floats (…, K), at least 0: then the loss is the sum of the above over the classes, each
            times its label.
        gamma: at least 0; with 0 the loss is the cross entropy.
        alpha: (K,), the weight of each class; None for weights of 1.
        reduction: "mean" over the rows, "sum", or "none" for the losses of the rows, (…).
    Returns:
        A tensor of no axes, or (…).
    """
    check_reduction("focal_loss", reduction)
    logits = wide(expect_tensor("focal_loss", "logits", logits))
    _check_gamma("focal_loss", gamma)
    given = real_array("focal_loss: labels", labels.data if isinstance(labels, Tensor) else labels)
    soft = is_float(given.dtype) and tuple(given.shape) == logits.shape
    if logits.ndim < 1 or (not soft and tuple(given.shape) != logits.shape[:-1]):
        raise ValueError(f"focal_loss: labels have shape {tuple(given.shape)} but logits {logits.shape}")
    if soft:
        target = _soft_target(given, logits)
        weighted = target if alpha is None else target * _weights(alpha, logits)
        terms = Weighed.apply(_Focal.apply(log_softmax(logits), gamma=gamma), t=weighted.data).sum(axis=-1)
    else:
        target = one_hot(given, logits.shape[-1], backend=logits.backend, dtype=logits.dtype)
        terms = _Focal.apply(expected_log(target, log_softmax(logits)), gamma=gamma)
        terms = terms if alpha is None else terms * (target * _weights(alpha, logits)).sum(axis=-1)
    return reduced("focal_loss", terms, reduction)


def sigmoid_focal_loss(
    logits: Tensor, target: Any, *, gamma: float = 2.0, alpha: float | None = 0.25, reduction: str = "mean"
) -> Tensor:
    """alpha_t (1 - p_t)^gamma H, elementwise, with the binary cross entropy H.

    With the sigmoid s, p_t = t s(z) + (1 - t) (1 - s(z)) is the share that is right, and alpha_t =
    t alpha + (1 - t) (1 - alpha). For targets of 0 and 1 this is Lin et al. 2017, equation 5; for
    those between it is torchvision's extension.

    Args:
        logits: any shape and float dtype.
        target: of the same shape, from 0 to 1, no gradient.
        gamma: at least 0; with 0 the loss is the cross entropy.
        alpha: from 0 to 1; None for no weights.
        reduction: "mean" over all elements, "sum", or "none" for the elements themselves.
    Returns:
        A tensor of no axes, or of the logits' shape.
    """
    name = "sigmoid_focal_loss"
    check_reduction(name, reduction)
    logits = wide(expect_tensor(name, "logits", logits))
    _check_gamma(name, gamma)
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"{name}: alpha is {alpha} but must be from 0 to 1")
    t = binary_target(name, logits, target, reduction)
    terms = binary_terms(logits, t)
    if gamma != 0:
        terms = terms * _Modulation.apply(logits, t=t, gamma=gamma)
    if alpha is not None:
        share = Tensor(t, logits.backend)
        terms = terms * (alpha * share + (1 - alpha) * (1 - share))
    return reduced(name, terms, reduction)


def _soft_target(given: Array, logits: Tensor) -> Tensor:
    """Soft labels as a tensor of the logits' backend and dtype."""
    target, on_host = given_array(logits.backend, given, logits.dtype)
    if on_host is not None and not (on_host >= 0).all():
        raise ValueError(f"focal_loss: soft labels must be at least 0, got {on_host.min()}")
    return Tensor(target, logits.backend)


def _weights(alpha: Any, logits: Tensor) -> Tensor:
    """Weights of the classes, (K,), of the logits' backend and dtype."""
    weights = logits.backend.asarray(alpha.data if isinstance(alpha, Tensor) else alpha, logits.dtype)
    if tuple(weights.shape) != logits.shape[-1:]:
        raise ValueError(f"focal_loss: alpha has shape {tuple(weights.shape)} but there are {logits.shape[-1]} classes")
    return Tensor(weights, logits.backend)


def _check_gamma(operation: str, gamma: float) -> None:
    """Raise ValueError unless gamma is at least 0."""
    if not gamma >= 0:
        raise ValueError(f"{operation}: gamma is {gamma} but must be at least 0")
