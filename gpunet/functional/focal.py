"""Focal losses: cross entropies in which what is right already counts little (Lin et al. 2017)."""

from __future__ import annotations

from typing import Any

from gpunet.autograd import Tensor, expect_tensor
from gpunet.backends.real import real_array
from gpunet.functional.activation import log_softmax, sigmoid, softplus
from gpunet.functional.arithmetic import exp, power
from gpunet.functional.labels import one_hot
from gpunet.functional.loss import binary_targets, expected_log, wide


def focal_loss(logits: Tensor, labels: Any, *, gamma: float = 2.0, alpha: Any = None) -> Tensor:
    """Mean of -alpha (1 - p)^gamma log p, with p = softmax(logits)[label] (Lin et al. 2017, equation 5, of many classes).

    Args:
        logits: (…, K), any float dtype.
        labels: (…), integers from 0 to K - 1: lists, a host array, which is checked, or the backend's int32,
            where any other number makes the loss NaN.
        gamma: 0, the cross entropy, or at least 1.
        alpha: (K,), each class's weight; None for 1.
    """
    logits = wide(expect_tensor("focal_loss", "logits", logits))
    _check_gamma("focal_loss", gamma)
    labels = real_array("focal_loss: labels", labels)
    if logits.ndim < 1 or tuple(labels.shape) != logits.shape[:-1]:
        raise ValueError(f"focal_loss: labels have shape {tuple(labels.shape)} but logits {logits.shape}")
    target = one_hot(labels, logits.shape[-1], backend=logits.backend, dtype=logits.dtype)
    log_p = expected_log(target, log_softmax(logits))
    loss = _modulated(-log_p, 1 - exp(log_p), gamma)
    return (loss if alpha is None else loss * (target * _weights(alpha, logits)).sum(axis=-1)).mean()


def sigmoid_focal_loss(logits: Tensor, targets: Any, *, gamma: float = 2.0, alpha: float | None = 0.25) -> Tensor:
    """Mean over all elements of -alpha_t (1 - p)^gamma log p, where p is s(z) for a target of 1 and 1 - s(z) for one of 0, and
    alpha_t likewise alpha and 1 - alpha; s is the sigmoid (Lin et al. 2017, equation 5).

    Args:
        logits: any shape and float dtype.
        targets: the same shape, 0 or 1, no gradient.
        gamma: 0, the cross entropy, or at least 1.
        alpha: from 0 to 1; None for no weights.
    """
    name = "sigmoid_focal_loss"
    logits = wide(expect_tensor(name, "logits", logits))
    _check_gamma(name, gamma)
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"{name}: alpha is {alpha} but must be from 0 to 1")
    target = Tensor(binary_targets(name, logits, targets), logits.backend)
    z = logits * (2 * target - 1)  # p = s(z)
    loss = _modulated(softplus(-z), sigmoid(-z), gamma)
    return (loss if alpha is None else loss * (alpha * target + (1 - alpha) * (1 - target))).mean()


def _modulated(loss: Tensor, wrong: Tensor, gamma: float) -> Tensor:
    """loss wrong^gamma; the slope of the power at 0 is finite."""
    if gamma == 0:
        return loss
    return loss * (wrong if gamma == 1 else power(wrong, gamma))


def _weights(alpha: Any, logits: Tensor) -> Tensor:
    weights = logits.backend.asarray(alpha.data if isinstance(alpha, Tensor) else alpha, logits.dtype)
    if tuple(weights.shape) != logits.shape[-1:]:
        raise ValueError(f"focal_loss: alpha has shape {tuple(weights.shape)} but there are {logits.shape[-1]} classes")
    return Tensor(weights, logits.backend)


def _check_gamma(operation: str, gamma: float) -> None:
    if gamma != 0 and not gamma >= 1:
        raise ValueError(f"{operation}: gamma is {gamma} but must be 0 or at least 1")
