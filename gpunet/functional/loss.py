"""Losses of probabilities: cross entropies, of one class among many and binary, and divergences."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from gpunet.autograd import Function, Tensor, expect_tensor, tensor
from gpunet.backends.contract import COUNTS, Array, CrossEntropy, LossParts, is_float, real_array
from gpunet.functional.activation import log_softmax, softplus
from gpunet.functional.arithmetic import cast, exp, log
from gpunet.functional.conv import cross_entropy_of_linear
from gpunet.functional.terms import REDUCTIONS, Weighed, check_reduction, given_array, reduced, wide

__all__ = ["binary_cross_entropy_with_logits", "cross_entropy", "kl_div", "nll_loss"]

MOST_GAIN = 1 << 15
"""The largest gain. The gradient of a row is at most 1, so that times this it is finite in
float16."""
ROUNDING = 0.01
"""How far from 1 the sum of soft labels may be: more than the rounding of 16 bits."""


class _FusedLoss(Function, seeds=True):
    """A loss whose forward pass also computes the gradient of its first input."""

    dx: Array
    gain = 1.0
    """The factor by which dx has been multiplied."""

    def backward(self, dy: Array | None) -> Any:
        return self.dx if dy is None and self.gain == 1 else self.backend.scale(self.dx, dy, 1 / self.gain)


class _CrossEntropy(_FusedLoss, name="cross_entropy"):
    """The cross entropy of rows with their labels."""

    def forward(self, logits: Array, *, labels: Array, options: CrossEntropy, parts: LossParts | None = None) -> Array:
        """The loss, from `parts` where these have been computed with the logits."""
        if parts is None:
            parts = self.backend.softmax_cross_entropy(logits.reshape(-1, logits.shape[-1]), labels, options)
        loss, dlogits, self.correct = parts
        self.dx, self.gain = dlogits if logits.ndim == 2 else dlogits.reshape(logits.shape), options.gain
        self.counts_all, self.by_rows = options.ignore_index is None, options.reduction == "none"
        return loss.reshape(logits.shape[:-1]) if self.by_rows else loss

    def backward(self, dy: Array | None) -> Any:
        if dy is None or not self.by_rows:
            return super().backward(dy)
        dx = self.dx if self.dx.dtype == dy.dtype else self.backend.cast(self.dx, dy.dtype)
        return self.backend.binary("multiply", dx, dy.reshape(*dy.shape, 1))


class _NegativeLogLikelihood(_CrossEntropy, name="nll_loss"):
    """The same of logarithms of probabilities."""


class _BinaryCrossEntropy(_FusedLoss, name="binary_cross_entropy_with_logits"):
    def forward(self, logits: Array, *, target: Array) -> Array:
        loss, self.dx = self.backend.sigmoid_cross_entropy(logits, target)
        return loss


def cross_entropy(
    logits: Tensor,
    labels: Any,
    weight: Any = None,
    *,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """-log softmax(logits)[label] of each row; per pixel where the logits are those of an image.

    Args:
        logits: (…, K), any float dtype.
        labels: (…), integers from 0 to K - 1, or `ignore_index`: a NumPy array, lists or the
            backend's own array. Host arrays are checked. An array on a device is taken as it is,
            because reading it would wait for the device; a label in it that is no class makes the
            loss NaN. Or soft labels, as `data.Mixup` makes them: a tensor, lists or an array of
            floats (…, K), at least 0, that sum to 1. Then, with p = softmax(logits), the loss is
            -sum(weight label log p), with 0 log 0 = 0, and takes no `ignore_index`.
        weight: (K,), the weight of each class. The mean is then weighted by the labels' weights,
            but that of soft labels is over the rows, as in PyTorch.
        ignore_index: a label that counts neither in the loss nor in the mean; its rows have a loss
            of 0.
        label_smoothing: the share of the target that is spread over all classes (Szegedy et al.
            2016, section 7), 0 to 1.
        reduction: "mean", "sum", or "none" for the losses of the rows, (…).
    Returns:
        A tensor of no axes, or (…).
    Raises:
        TypeError, ValueError: labels, weights or options other than these.
    """
    name = "cross_entropy"
    check_logits(name, "logits", expect_tensor(name, "logits", logits), reduction)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{name}: label_smoothing is {label_smoothing} but must be from 0 to 1")
    labels = _given(name, labels)
    if is_float(labels.dtype) and tuple(labels.shape) == logits.shape:
        if ignore_index is not None:
            raise ValueError(f"{name}: ignore_index takes integer labels, not soft ones")
        return _soft_cross_entropy(logits, labels, label_smoothing, weight, reduction)
    takes = f"an array of integers {logits.shape[:-1]}, or floats {logits.shape}"
    check_labels(name, logits, labels, ignore_index, takes)
    return _hard_cross_entropy(name, logits, labels, CrossEntropy(weight, label_smoothing, ignore_index, reduction))


def nll_loss(
    log_probabilities: Tensor,
    labels: Any,
    weight: Any = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """-log_probabilities[label] of each row: the cross entropy of the results of `log_softmax`.

    Args:
        log_probabilities: (…, K), any float dtype.
        labels: (…), integers, as for `cross_entropy`.
        weight, ignore_index, reduction: as for `cross_entropy`.
    """
    name = "nll_loss"
    check_logits(name, "log_probabilities", expect_tensor(name, "log_probabilities", log_probabilities), reduction)
    labels = _given(name, labels)
    takes = f"an array of integers {log_probabilities.shape[:-1]}"
    check_labels(name, log_probabilities, labels, ignore_index, takes)
    options = CrossEntropy(weight, 0.0, ignore_index, reduction, normalized=True)
    return _hard_cross_entropy(name, log_probabilities, labels, options)


def _hard_cross_entropy(name: str, logits: Tensor, labels: Any, options: CrossEntropy) -> Tensor:
    """The cross entropy with integer labels."""
    if not logits.size:  # the sum of nothing; a mean has been refused
        return reduced(name, logits.sum(axis=-1), options.reduction)
    backend = logits.backend
    if options.weight is not None:
        options = options._replace(weight=_class_weights(name, options.weight, logits))
    rows = backend.asarray(labels.reshape(-1), np.int32)
    if options.reduction == "mean" and logits.dtype == np.float16 and backend.narrow:
        # The share of a row in the mean would fall below the smallest numbers before a loss scale
        # could multiply it.
        options = options._replace(gain=float(min(1 << (rows.shape[0] - 1).bit_length(), MOST_GAIN)))
    kind = _NegativeLogLikelihood if options.normalized else _CrossEntropy
    parts = None if options.normalized else cross_entropy_of_linear(logits, rows, options)
    loss = kind.apply(logits, labels=rows, options=options, parts=parts)
    if options.reduction == "mean" and (options.weight is not None or options.ignore_index is not None):
        loss._divisor = partial(backend.label_weight, rows, logits.shape[-1], options)
    return loss


def _soft_cross_entropy(logits: Tensor, labels: Any, smoothing: float, weight: Any, reduction: str) -> Tensor:
    """The cross entropy with probabilities of the classes as labels."""
    array = labels.data if isinstance(labels, Tensor) else labels
    if isinstance(array, np.ndarray):
        _check_soft_labels(array)
    logits = wide(logits)
    if isinstance(labels, Tensor):
        target = cast(labels.detach(), logits.dtype)
    else:
        target = tensor(labels, dtype=logits.dtype, backend=logits.backend)
    target = target * (1 - smoothing) + smoothing / logits.shape[-1]
    if weight is not None:
        target = target * _class_weights("cross_entropy", weight, logits)
    return reduced("cross_entropy", -expected_log(target, log_softmax(logits)), reduction)


def expected_log(target: Tensor, log_p: Tensor) -> Tensor:
    """sum(target log p) over the last axis, with 0 log 0 = 0.

    So a class that is masked by a logit of -inf takes no part.

    Args:
        target: (…, K), at least 0, no gradient.
        log_p: (…, K), of the target's dtype and backend.
    """
    return Weighed.apply(log_p, t=target.data).sum(axis=-1)


def correct_count(loss: Tensor) -> Array | None:
    """The number of rows whose first largest logit is that of the label, of a `cross_entropy`.

    An int32 array on the backend. None for any other loss, for one whose backward pass has run, and
    for one that leaves labels out.
    """
    function = loss.creator
    if isinstance(function, _CrossEntropy) and not function._freed and function.counts_all:
        return function.correct
    return None


def label_weight(loss: Tensor) -> Array | None:
    """The divisor of a mean that is weighted by labels, a float of shape () on the backend.

    None for a mean over all rows, and for whatever is computed from a loss. The losses of the parts
    of a batch, each times its divisor, add up to the loss of the batch times the sum of the
    divisors.
    """
    return None if loss._divisor is None else loss._divisor()


def binary_cross_entropy_with_logits(logits: Tensor, target: Any, *, reduction: str = "mean") -> Tensor:
    """-t log s(z) - (1 - t) log(1 - s(z)), elementwise, with the sigmoid s, without overflow.

    Args:
        logits: any shape and float dtype.
        target: of the same shape, from 0 to 1, no gradient.
        reduction: "mean" over all elements, "sum", or "none" for the elements themselves.
    Returns:
        A tensor of no axes, or of the logits' shape.
    """
    name = "binary_cross_entropy_with_logits"
    check_reduction(name, reduction)
    logits = wide(expect_tensor(name, "logits", logits))
    t = binary_target(name, logits, target, reduction)
    if reduction == "mean":
        return _BinaryCrossEntropy.apply(logits, target=t)
    return reduced(name, binary_terms(logits, t), reduction)


def binary_terms(logits: Tensor, target: Array) -> Tensor:
    """The elements of `binary_cross_entropy_with_logits`, as sums of two positive terms."""
    missed = (1 - Tensor(target, logits.backend)).data
    return Weighed.apply(softplus(-logits), t=target) + Weighed.apply(softplus(logits), t=missed)


def kl_div(log_q: Tensor, target: Any, *, log_target: bool = False, reduction: str = "mean") -> Tensor:
    """p (log p - log q), elementwise, with 0 log 0 = 0.

    The sum is the divergence of q from p (Kullback & Leibler 1951).

    Args:
        log_q: logarithms of probabilities, such as the results of `log_softmax`: any shape and
            float dtype.
        target: p, at least 0, of the same shape, no gradient.
        log_target: whether the target is log p.
        reduction: "batchmean", the sum over the length of the first axis, which is the mean
            divergence of a batch; "mean" over all elements, PyTorch's default; "sum"; or "none" for
            the elements themselves.
    Returns:
        A tensor of no axes, or of log_q's shape.
    """
    check_reduction("kl_div", reduction, (*REDUCTIONS, "batchmean"))
    log_q = wide(expect_tensor("kl_div", "log_q", log_q))
    p, on_host = given_array(log_q.backend, target, log_q.dtype)
    if tuple(p.shape) != log_q.shape:
        raise ValueError(f"kl_div: target has shape {tuple(p.shape)} but log_q {log_q.shape}")
    if not log_target and on_host is not None and (on_host < 0).any():
        raise ValueError(f"kl_div: target must be at least 0, got {on_host.min()}; pass log_target=True for logarithms")
    given = Tensor(p, log_q.backend)
    log_p, p = (given, exp(given).data) if log_target else (log(given), p)
    terms = Weighed.apply(log_p - log_q, t=p)
    if reduction != "batchmean":
        return reduced("kl_div", terms, reduction)
    if not log_q.shape or not log_q.shape[0]:
        raise ValueError(f"kl_div: log_q has shape {log_q.shape} but batchmean takes a batch of at least one")
    return terms.sum() * (1 / log_q.shape[0])


def binary_target(operation: str, logits: Tensor, target: Any, reduction: str) -> Array:
    """A target from 0 to 1 as an array of the logits' backend, dtype and shape."""
    array, on_host = given_array(logits.backend, target, logits.dtype)
    if tuple(array.shape) != logits.shape:
        raise ValueError(f"{operation}: target has shape {tuple(array.shape)} but logits {logits.shape}")
    if array.size == 0 and reduction == "mean":
        raise ValueError(f"{operation}: logits {logits.shape} hold no elements")
    if on_host is not None and not ((on_host >= 0) & (on_host <= 1)).all():
        raise ValueError(f"{operation}: target must be from 0 to 1, got {on_host.min()} to {on_host.max()}")
    return array


def _given(name: str, labels: Any) -> Any:
    """Labels as an array; a tensor of floats stays one."""
    if isinstance(labels, Tensor):
        return labels.data if labels.dtype.name in COUNTS else labels
    return real_array(f"{name}: labels", labels)


def check_logits(name: str, argument: str, logits: Any, reduction: str) -> None:
    """Raise unless the reduction is known and the logits (…, K) have rows for a mean."""
    check_reduction(name, reduction)
    if logits.ndim < 1:
        raise ValueError(f"{name}: {argument} have shape {logits.shape} but take (…, K)")
    if not logits.shape[-1] or (reduction == "mean" and not logits.size):
        raise ValueError(f"{name}: {argument} {logits.shape} hold no rows or no classes")


def check_labels(name: str, logits: Any, labels: Any, ignore_index: int | None, takes: str) -> None:
    """Raise unless labels are integers (…), and those of a host array classes or `ignore_index`."""
    shape, classes = tuple(labels.shape), logits.shape[-1]
    are_integers = np.dtype(labels.dtype).kind in "iu" or (not labels.size and shape == logits.shape[:-1])
    if isinstance(labels, Tensor) or not are_integers:
        got = f"{'a tensor of ' if isinstance(labels, Tensor) else ''}{labels.dtype} {shape}"
        raise TypeError(f"{name}: labels are {got} but take {takes}")
    if shape != logits.shape[:-1]:
        raise ValueError(f"{name}: labels have shape {shape} but logits {logits.shape} take {logits.shape[:-1]}")
    if not isinstance(labels, np.ndarray):
        return
    wrong = (labels < 0) | (labels >= classes)
    if ignore_index is not None:
        wrong &= labels != ignore_index
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0].tolist())
        raise ValueError(f"{name}: labels must be from 0 to {classes - 1}, got {labels[place]} at {place}")


def _class_weights(name: str, weight: Any, logits: Tensor) -> Array:
    """Weights of the classes, (K,), on the logits' backend."""
    backend, classes = logits.backend, logits.shape[-1]
    dtype = np.float32 if logits.dtype.name in backend.narrow else logits.dtype
    weights, on_host = given_array(backend, weight, dtype)
    if tuple(weights.shape) != (classes,):
        raise ValueError(f"{name}: weight has shape {tuple(weights.shape)} but there are {classes} classes")
    if on_host is not None and not (np.isfinite(on_host) & (on_host >= 0)).all():
        raise ValueError(f"{name}: weights must be finite and not negative, got {on_host.tolist()}")
    return weights


def _check_soft_labels(labels: np.ndarray) -> None:
    """Raise ValueError unless each row holds probabilities."""
    sums = labels.sum(axis=-1, dtype=np.float64)
    if not ((labels >= 0).all() and (np.abs(sums - 1) <= ROUNDING).all()):
        got = f"{labels.min()} to {labels.max()} and sums from {sums.min():g} to {sums.max():g}"
        raise ValueError(f"cross_entropy: soft labels must be at least 0 and sum to 1, got {got}")
