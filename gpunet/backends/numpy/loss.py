"""Softmax and losses of `NumpyBackend`, in forms that keep the digits of small numbers."""

from __future__ import annotations

import numpy as np

from gpunet.backends.contract import UNWEIGHTED, Array, CrossEntropy, LossParts
from gpunet.backends.host.arrays import QUIET, HostArrays


class NumpyLoss(HostArrays):
    """Softmax and the losses that need it."""

    @QUIET
    def softmax_forward(self, x: Array, *, log: bool = False) -> Array:
        shifted, others = self._around_the_largest(x)
        return shifted - np.log1p(others) if log else np.exp(shifted) / (1 + others)

    @QUIET
    def softmax_backward(self, dy: Array, y: Array, *, log: bool = False) -> Array:
        if log:
            return -dy * np.expm1(y) - np.exp(y) * (_row_sums(dy) - dy)
        # Subtracting a constant from dy changes nothing, for the y sum to 1. Subtracting dy of the
        # largest y, which may be almost 1, leaves the sum of the small terms, which it would have
        # hidden.
        dy = dy - np.take_along_axis(dy, y.argmax(axis=-1)[..., None], axis=-1)
        return y * (dy - _row_sums(dy * y))

    @staticmethod
    def _around_the_largest(x: Array) -> tuple[Array, Array]:
        """(x - max, the sum of exp(x - max) over all but the first largest), over the last axis.

        The sum over all would be 1 + others, which rounds away how sure a softmax is.
        """
        if not x.size:
            return x, np.zeros((*x.shape[:-1], 1), x.dtype)
        first = x.argmax(axis=-1)[..., None]  # NumPy's argmax finds a NaN before anything else
        shifted = x - np.take_along_axis(x, first, axis=-1)
        grown = np.exp(shifted)
        np.put_along_axis(grown, first, shifted.max(axis=-1, keepdims=True), axis=-1)  # 0, or NaN
        return shifted, _row_sums(grown)

    @QUIET
    def softmax_cross_entropy(self, logits: Array, labels: Array, options: CrossEntropy = UNWEIGHTED) -> LossParts:
        rows, classes = logits.shape
        kept = np.ones(rows, bool) if options.ignore_index is None else labels != options.ignore_index
        labels = np.where(kept, labels, 0)
        target = np.full_like(logits, options.smoothing / classes)
        target[np.arange(rows), labels] += 1 - options.smoothing
        weights = np.ones(classes, logits.dtype) if options.weight is None else options.weight
        target *= weights * kept[:, None]
        if options.normalized:
            log_p, dlogits = logits, -target
        else:
            log_p = self.softmax_forward(logits, log=True)
            dlogits = _logit_gradient(logits, log_p, target)
        terms = np.multiply(target, -log_p, out=np.zeros_like(target), where=target != 0)  # 0 log 0 is 0
        correct = np.asarray(((logits.argmax(axis=1) == labels) & kept).sum(), np.int32)
        if options.reduction == "none":
            return terms.sum(axis=1), dlogits, correct
        share = 1.0
        if options.reduction == "mean":
            total = float((weights[labels] * kept).sum(dtype=np.float64))
            share = 0.0 if total <= 0 else 1 / total  # without any weight there is no loss
        loss = np.asarray(terms.sum(dtype=np.float64) * share, logits.dtype)
        return loss, dlogits * (share * options.gain), correct

    def label_weight(self, labels: Array, classes: int, options: CrossEntropy = UNWEIGHTED) -> Array:
        kept = labels if options.ignore_index is None else labels[labels != options.ignore_index]
        if options.weight is None:
            return np.asarray(kept.size, np.float32)
        return np.asarray(options.weight[kept].sum(dtype=np.float64), options.weight.dtype)

    @QUIET
    def sigmoid_cross_entropy(self, logits: Array, target: Array) -> tuple[Array, Array]:
        # -log s(z) = max(-z, 0) + log(1 + exp(-|z|)), which overflows nowhere. For z above 0 the
        # gradient s(z) - t is (1 - t) - s(-z), because s(z) rounds to 1.
        above, tail = logits >= 0, np.exp(-np.abs(logits))
        share = np.where(above, 1 - target, -target)
        losses = np.multiply(logits, share, out=np.zeros_like(logits), where=share != 0) + np.log1p(tail)
        small = tail / (1 + tail)
        dlogits = np.where(above, share - small, share + small)
        return np.asarray(losses.mean(dtype=np.float64), logits.dtype), dlogits / float(logits.size)


def _logit_gradient(logits: Array, log_p: Array, target: Array) -> Array:
    """p mass - target, where mass is the sum of the target.

    For the largest p it is computed from 1 - p, which p itself has rounded away.
    """
    mass = _row_sums(target)
    dlogits = np.exp(log_p) * mass - target
    first = np.arange(len(logits)), logits.argmax(axis=1)
    dlogits[first] = (mass[:, 0] - target[first]) + np.expm1(log_p[first]) * mass[:, 0]
    return dlogits


def _row_sums(a: Array) -> Array:
    """Sums over the last axis, (…, 1), in a contiguous array: there NumPy adds in pairs."""
    return np.ascontiguousarray(a).sum(axis=-1, keepdims=True)
