"""Losses: each a tensor of no axes, the mean over the batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.autograd import Function, Tensor, expect_tensor, tensor
from gpunet.backends.base import COUNTS, Activation, Array, is_float
from gpunet.backends.real import real_array
from gpunet.functional.activation import log_softmax, relu
from gpunet.functional.arithmetic import absolute, cast

MOST_GAIN = 1 << 15
"""A row's gradient is at most 1, so this much of it is finite in float16."""
ROUNDING = 0.01
"""How far from 1 soft labels may sum: more than 16 bits round."""


class _FusedLoss(Function):
    """A loss whose forward pass computes the gradient of its first input as well."""

    seeds = True
    dx: Array
    gain = 1.0
    """What dx is multiplied by."""

    def backward(self, dy: Array | None) -> Any:
        return self.dx if dy is None and self.gain == 1 else self.backend.scale(self.dx, dy, 1 / self.gain)


class _SoftmaxCrossEntropy(_FusedLoss):
    name = "softmax_cross_entropy"

    def forward(
        self, logits: Array, *, labels: Array, weight: Array | None, smoothing: float, ignore_index: int | None
    ) -> Array:
        rows = logits.reshape(-1, logits.shape[-1])
        if logits.dtype == np.float16 and self.backend.narrow:
            # a row's share of the mean would fall below the smallest numbers, and a loss scale comes too late for it
            self.gain = float(min(1 << (rows.shape[0] - 1).bit_length(), MOST_GAIN))
        loss, dlogits, self.correct = self.backend.softmax_cross_entropy(
            rows, labels, weight=weight, smoothing=smoothing, ignore_index=ignore_index, gain=self.gain
        )
        self.dx = dlogits.reshape(logits.shape)
        self.counts_all = ignore_index is None
        return loss


class _BinaryCrossEntropy(_FusedLoss):
    name = "binary_cross_entropy_with_logits"

    def forward(self, logits: Array, *, targets: Array) -> Array:
        loss, self.dx = self.backend.sigmoid_cross_entropy(logits, targets)
        return loss


class _Weighed(Function):
    """t a, elementwise, and 0 where t is 0, whatever a is: t is at least 0."""

    name = "weighed"

    def forward(self, a: Array, *, t: Array) -> Array:
        self.t = t
        kept = self.backend.activation_backward(a, t, Activation("relu"))  # a where t is above 0 (or NaN), else 0
        return self.backend.binary("multiply", t, kept)

    def backward(self, dy: Array) -> Any:
        return self.backend.binary("multiply", dy, self.t)


def softmax_cross_entropy(
    logits: Tensor,
    labels: Any,
    *,
    label_smoothing: float = 0.0,
    weight: Any = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Mean of -log softmax(logits)[label]; per pixel where logits are an image's.

    Args:
        logits: (…, K), any float dtype.
        labels: (…), integers from 0 to K - 1, or `ignore_index`: a NumPy array, lists or the backend's own array. Host
            arrays are checked; an array on a device is taken as it is, for reading it would wait for the device, and a label
            in it that is no class makes the loss NaN. Or soft ones, a tensor, lists or an array of floats (…, K), at least 0,
            that sum to 1, as `data.Mixup` makes them: then the mean of -sum(label log softmax(logits)), with 0 log 0 = 0,
            without `weight` and `ignore_index`.
        label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016, section 7), 0 to 1.
        weight: (K,), each class's weight; the mean is then weighted by the labels' weights.
        ignore_index: a label that counts neither in the loss nor in the mean.
    Returns:
        The mean, a tensor of no axes.
    """
    name = "softmax_cross_entropy"
    if expect_tensor(name, "logits", logits).ndim < 1:
        raise ValueError(f"{name}: logits have shape {logits.shape} but take (…, K)")
    if 0 in logits.shape:
        raise ValueError(f"{name}: logits {logits.shape} hold no rows or no classes")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{name}: label_smoothing is {label_smoothing} but must be from 0 to 1")
    backend, classes = logits.backend, logits.shape[-1]
    labels = labels.data if isinstance(labels, Tensor) and labels.dtype.name in COUNTS else labels
    given = labels if isinstance(labels, Tensor) else real_array(f"{name}: labels", labels)
    shape = tuple(given.shape)
    if is_float(given.dtype) and shape == logits.shape:
        if weight is not None or ignore_index is not None:
            raise ValueError(f"{name}: weight and ignore_index take integer labels, not soft ones")
        return _soft_cross_entropy(logits, given, label_smoothing)
    if isinstance(given, Tensor) or np.dtype(given.dtype).kind not in "iu":
        got = f"{'a tensor of ' if isinstance(given, Tensor) else ''}{given.dtype} {shape}"
        raise TypeError(
            f"{name}: labels are {got} but take an array of integers {logits.shape[:-1]}, or floats {logits.shape}"
        )
    if shape != logits.shape[:-1]:
        raise ValueError(f"{name}: labels have shape {shape} but logits {logits.shape} take {logits.shape[:-1]}")
    if isinstance(given, np.ndarray):
        _check_labels(given, classes, ignore_index)
    if weight is not None:
        dtype = np.float32 if logits.dtype.name in backend.narrow else logits.dtype
        weight = backend.asarray(weight.data if isinstance(weight, Tensor) else weight, dtype)
        if tuple(weight.shape) != (classes,):
            raise ValueError(f"{name}: weight has shape {tuple(weight.shape)} but there are {classes} classes")
        if isinstance(weight, np.ndarray) and not (np.isfinite(weight) & (weight >= 0)).all():
            raise ValueError(f"{name}: weights must be finite and not negative, got {weight.tolist()}")
    return _SoftmaxCrossEntropy.apply(
        logits,
        labels=backend.asarray(given.reshape(-1), np.int32),
        weight=weight,
        smoothing=label_smoothing,
        ignore_index=ignore_index,
    )


def _soft_cross_entropy(logits: Tensor, labels: Any, smoothing: float) -> Tensor:
    array = labels.data if isinstance(labels, Tensor) else labels
    if isinstance(array, np.ndarray):
        _check_soft_labels(array)
    logits = wide(logits)
    if isinstance(labels, Tensor):
        target = cast(labels.detach(), logits.dtype)
    else:
        target = tensor(labels, dtype=logits.dtype, backend=logits.backend)
    target = target * (1 - smoothing) + smoothing / logits.shape[-1]
    return -expected_log(target, log_softmax(logits)).mean()


def expected_log(target: Tensor, log_p: Tensor) -> Tensor:
    """sum(target log p) over the last axis, with 0 log 0 = 0, for a class that is masked by a logit of -inf takes no part.

    Args:
        target: (…, K), at least 0, no gradient.
        log_p: (…, K), its dtype and backend.
    """
    return _Weighed.apply(log_p, t=target.data).sum(axis=-1)


def correct_count(loss: Tensor) -> Array | None:
    """How many labels have the first largest logit, int32 on the backend, of a loss that `softmax_cross_entropy` gave.

    None of another loss, of one whose backward has run, and of one that leaves labels out.
    """
    function = loss._function
    if isinstance(function, _SoftmaxCrossEntropy) and not function._freed and function.counts_all:
        return function.correct
    return None


def binary_cross_entropy_with_logits(logits: Tensor, targets: Any) -> Tensor:
    """Mean over all elements of -t log s(z) - (1 - t) log(1 - s(z)), with s the sigmoid, computed without overflow.

    Args:
        logits: any shape and float dtype.
        targets: the same shape, from 0 to 1, no gradient.
    """
    name = "binary_cross_entropy_with_logits"
    logits = wide(expect_tensor(name, "logits", logits))
    return _BinaryCrossEntropy.apply(logits, targets=binary_targets(name, logits, targets))


def mean_squared_error(x: Tensor, target: Any) -> Tensor:
    """Mean over all elements of (x - target)^2; both of one shape, and both get a gradient."""
    difference = _difference("mean_squared_error", x, target)
    return (difference * difference).mean()


def huber_loss(x: Tensor, target: Any, *, delta: float = 1.0) -> Tensor:
    """Mean over all elements of d^2 / 2 up to |d| = delta, delta (|d| - delta / 2) beyond, with d = x - target (Huber 1964).

    A wild target pulls with delta, however far it is. With a delta of 1 it is the smooth L1 loss (Girshick 2015, equation 3).

    Args:
        x: any shape and float dtype.
        target: the same shape, no gradient.
        delta: where the square ends, above 0.
    """
    if not delta > 0:
        raise ValueError(f"huber_loss: delta is {delta} but must be positive")
    distance = absolute(_difference("huber_loss", x, target.detach() if isinstance(target, Tensor) else target))
    beyond = relu(distance - delta)
    near = distance - beyond  # min(|d|, delta)
    return (near * (beyond + near * 0.5)).mean()


def wide(x: Tensor) -> Tensor:
    """x in float32 where 16 bits are only stored: a loss is a sum."""
    return cast(x, np.float32) if x.dtype.name in x.backend.narrow else x


def _difference(operation: str, x: Tensor, target: Any) -> Tensor:
    """x - target, both of one shape."""
    shape = tuple(target.shape if hasattr(target, "shape") else np.shape(target))
    if shape != expect_tensor(operation, "x", x).shape:
        raise ValueError(f"{operation}: target has shape {shape} but x {x.shape}")
    return wide(x - target)


def binary_targets(operation: str, logits: Tensor, targets: Any) -> Array:
    """Targets from 0 to 1 as an array of the logits' backend, dtype and shape."""
    if isinstance(targets, Tensor):
        targets = targets.data
    array = logits.backend.asarray(targets, logits.dtype)
    if tuple(array.shape) != logits.shape:
        raise ValueError(f"{operation}: targets have shape {tuple(array.shape)} but logits {logits.shape}")
    if array.size == 0:
        raise ValueError(f"{operation}: logits {logits.shape} hold no elements")
    if isinstance(array, np.ndarray) and not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"{operation}: targets must be from 0 to 1, got {array.min()} to {array.max()}")
    return array


def _check_labels(labels: np.ndarray, classes: int, ignore_index: int | None) -> None:
    wrong = (labels < 0) | (labels >= classes)
    if ignore_index is not None:
        wrong &= labels != ignore_index
    if wrong.any():
        raise ValueError(
            f"softmax_cross_entropy: labels must be from 0 to {classes - 1}, got {labels[wrong][0]}"
            f" at {tuple(int(i) for i in np.argwhere(wrong)[0])}"
        )


def _check_soft_labels(labels: np.ndarray) -> None:
    sums = labels.sum(axis=-1, dtype=np.float64)
    if not ((labels >= 0).all() and (np.abs(sums - 1) <= ROUNDING).all()):
        raise ValueError(
            "softmax_cross_entropy: soft labels must be at least 0 and sum to 1,"
            f" got {labels.min()} to {labels.max()} and sums from {sums.min():g} to {sums.max():g}"
        )
