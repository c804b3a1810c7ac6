"""Softmax and losses by their formulas, in float64.

The p[k] of a sure softmax rounds to 1, so that 1 - p[k] and log p[k] would be 0. Here both come
from the other classes, with e[j] = exp(x[j] - max): 1 - p[k] is the sum of the other p[j], and log
p[k] is -log(1 + (sum of the other e[j]) / e[k]).
"""

from __future__ import annotations

import numpy as np

from gpunet.backends.contract import UNWEIGHTED, Array, CrossEntropy, LossParts
from gpunet.backends.host.arrays import QUIET, HostArrays


class ReferenceLoss(HostArrays):
    """Softmax and the losses that need it."""

    @QUIET
    def softmax_forward(self, x: Array, *, log: bool = False) -> Array:
        log_p = _log_softmax(x)
        return (log_p if log else np.exp(log_p)).astype(x.dtype)

    @QUIET
    def softmax_backward(self, dy: Array, y: Array, *, log: bool = False) -> Array:
        g, p = dy.astype(np.float64), y.astype(np.float64)
        if log:
            return _log_softmax_gradient(g, p).astype(dy.dtype)
        return (p * (g * _sum_of_others(p) - _sum_of_others(g * p))).astype(dy.dtype)

    @QUIET
    def softmax_cross_entropy(self, logits: Array, labels: Array, options: CrossEntropy = UNWEIGHTED) -> LossParts:
        rows, classes = logits.shape
        weight = np.ones(classes) if options.weight is None else options.weight.astype(np.float64)
        counted = _counted(labels, options)
        one_hot = np.zeros((rows, classes), np.float64)
        one_hot[counted, labels[counted]] = 1
        target = weight * ((1 - options.smoothing) * one_hot + options.smoothing / classes) * counted[:, None]
        log_p = logits.astype(np.float64) if options.normalized else _log_softmax(logits)
        dlogits = -target if options.normalized else _log_softmax_gradient(-target, log_p)
        losses = -np.where(target == 0, 0, target * log_p).sum(axis=1)  # 0 log 0 is 0
        correct = np.asarray((counted & (logits.argmax(axis=1) == labels)).sum(), np.int32)
        if options.reduction == "none":
            return losses.astype(logits.dtype), dlogits.astype(logits.dtype), correct
        total = weight[labels[counted]].sum() if options.reduction == "mean" else 1.0
        share = 0.0 if total <= 0 else 1 / total
        loss = np.asarray(losses.sum() * share, logits.dtype)
        return loss, (dlogits * share * options.gain).astype(logits.dtype), correct

    def label_weight(self, labels: Array, classes: int, options: CrossEntropy = UNWEIGHTED) -> Array:
        weight = np.ones(classes, np.float32) if options.weight is None else options.weight
        return np.asarray(weight[labels[_counted(labels, options)]].sum(dtype=np.float64), weight.dtype)

    @QUIET
    def sigmoid_cross_entropy(self, logits: Array, target: Array) -> tuple[Array, Array]:
        z, t = logits.astype(np.float64), target.astype(np.float64)
        log_s, log_rest = -np.logaddexp(0, -z), -np.logaddexp(0, z)  # log s(z), and log(1 - s(z)) = log s(-z)
        losses = -np.where(t == 0, 0, t * log_s) - np.where(t == 1, 0, (1 - t) * log_rest)
        dlogits = (1 - t) * np.exp(log_s) - t * np.exp(log_rest)  # s(z) - t
        return np.asarray(losses.mean(), logits.dtype), (dlogits / logits.size).astype(logits.dtype)


def _counted(labels: Array, options: CrossEntropy) -> Array:
    """Which labels are not `ignore_index`."""
    return np.ones(labels.shape, bool) if options.ignore_index is None else labels != options.ignore_index


def _log_softmax(x: Array) -> Array:
    """log p of x (…, K), in float64."""
    x = x.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True, initial=-np.inf)
    return -np.logaddexp(0, np.log(_sum_of_others(np.exp(x))) - x)


def _log_softmax_gradient(dy: Array, log_p: Array) -> Array:
    """dx[k] = dy[k] (1 - p[k]) - p[k] sum over the other j of dy[j]."""
    p = np.exp(log_p)
    return dy * _sum_of_others(p) - p * _sum_of_others(dy)


def _sum_of_others(a: Array) -> Array:
    """For each k the sum over j != k of a[…, j], added from both ends, without subtractions."""
    zero = np.zeros_like(a[..., :1])
    before = np.cumsum(np.concatenate([zero, a[..., :-1]], axis=-1), axis=-1)
    after = np.cumsum(np.concatenate([zero, a[..., :0:-1]], axis=-1), axis=-1)
    return before + after[..., ::-1]
