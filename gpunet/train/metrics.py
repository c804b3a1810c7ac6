"""Metrics: small accumulators, weighted by rows, so that a smaller last batch counts for less."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Metric(Protocol):
    """What a Trainer takes as a metric. A metric whose value is an array is left out of the history's columns."""

    name: str

    def reset(self) -> None:
        """Start anew."""

    def update(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Take up a batch on the host: logits (…, K), integer labels (…)."""

    @property
    def value(self) -> Any:
        """A number, or an array, over all batches since `reset`."""


class Mean:
    """A weighted mean of numbers; NaN before the first."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self.total, self.weight = 0.0, 0.0

    def update(self, value: float, weight: float) -> None:
        """Take up a value that stands for `weight` rows."""
        self.total += value * weight
        self.weight += weight

    @property
    def value(self) -> float:
        """The mean."""
        return self.total / self.weight if self.weight else float("nan")


class _Share:
    """Share of the labels that are hit, whatever the logits' leading axes: images, or pixels of images."""

    name: str

    def __init__(self, ignore_index: int | None) -> None:
        self.ignore_index = ignore_index
        self._mean = Mean()

    def reset(self) -> None:
        """Start anew."""
        self._mean.reset()

    def update(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Take up a batch: logits (…, K), integer labels (…)."""
        rows, flat = _rows(self.name, logits, labels, self.ignore_index)
        if len(flat):
            self._mean.update(float(self.hits(rows, flat).mean()), len(flat))

    def hits(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Which of labels (R,) are hit by logits (R, K), bool (R,)."""
        raise NotImplementedError

    @property
    def value(self) -> float:
        """From 0 to 1; NaN before the first label."""
        return self._mean.value


class Accuracy(_Share):
    """Share of labels whose logit is the first largest; of pixels for logits (N, H, W, K) and labels (N, H, W).

    Args:
        ignore_index: a label that does not count.
    """

    name = "accuracy"

    def __init__(self, ignore_index: int | None = None) -> None:
        super().__init__(ignore_index)

    def count(self, correct: int, labels: int) -> None:
        """Take up a batch that has been counted: how many labels were hit, of how many."""
        self._mean.update(correct / labels, labels)

    def hits(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Whether the first largest logit is the label's; never where one is NaN."""
        return (logits.argmax(axis=-1) == labels) & ~np.isnan(logits).any(axis=-1)


class TopK(_Share):
    """Share of labels among the `k` largest logits; of equal logits the first counts as larger.

    Args:
        k: how many guesses are allowed.
        ignore_index: a label that does not count.
    """

    def __init__(self, k: int, ignore_index: int | None = None) -> None:
        if not isinstance(k, int | np.integer) or k < 1:
            raise ValueError(f"TopK: k is {k!r} but must be an integer of at least 1")
        self.k, self.name = int(k), f"top{k}"
        super().__init__(ignore_index)

    def hits(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Whether fewer than k logits stand before the label's; never where the label's is NaN."""
        classes = logits.shape[-1]
        if self.k > classes:
            raise ValueError(f"{self.name}: logits have only {classes} classes")
        own = logits[np.arange(len(labels)), labels][:, None]
        before = (logits > own) | ((logits == own) & (np.arange(classes) < labels[:, None]))
        return (before.sum(axis=-1) < self.k) & ~np.isnan(own[:, 0])


class ConfusionMatrix:
    """How often each class was taken for each: value[label, guess], int64 (K, K).

    Args:
        classes: K; that of the first logits if None.
        ignore_index: a label that does not count.
    """

    name = "confusion"

    def __init__(self, classes: int | None = None, ignore_index: int | None = None) -> None:
        self.classes, self.ignore_index = classes, ignore_index
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self.value = np.zeros((self.classes or 0,) * 2, np.int64)

    def update(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Take up a batch: logits (…, K), integer labels (…)."""
        rows, flat = _rows(self.name, logits, labels, self.ignore_index)
        classes = rows.shape[-1]
        if not self.value.size:
            self.value = np.zeros((classes, classes), np.int64)
        if self.value.shape != (classes, classes):
            raise ValueError(f"confusion: logits have {classes} classes, not {len(self.value)}")
        pairs = flat.astype(np.int64) * classes + rows.argmax(axis=-1)
        self.value += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def make_metrics(metrics: Sequence[str | Metric]) -> list[Metric]:
    """Metrics of names ("accuracy", "top5" for any number, "confusion") and of objects, which are taken as they are."""
    if isinstance(metrics, str):
        raise TypeError(f"Trainer: metrics takes a list, got the name {metrics!r}; write [{metrics!r}]")
    return [_made(metric) for metric in metrics if metric != "loss"]  # the loss is always measured


def _made(metric: str | Metric) -> Metric:
    if not isinstance(metric, str):
        missing = [name for name in ("name", "reset", "update", "value") if not hasattr(metric, name)]
        if missing:
            raise TypeError(f"Trainer: metric {metric!r} has no {', '.join(missing)}; see train.Metric")
        return metric
    if metric == "accuracy":
        return Accuracy()
    if metric == "confusion":
        return ConfusionMatrix()
    if found := re.fullmatch(r"top([1-9]\d*)", metric):
        return TopK(int(found[1]))
    raise ValueError(f'Trainer: metric is {metric!r} but takes "loss", "accuracy", "top5", "confusion" or an object')


def _rows(name: str, logits: np.ndarray, labels: np.ndarray, ignore_index: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Logits (R, K) and labels (R,) of logits (…, K) and labels (…), without the labels to ignore; of soft ones (…, K) the
    largest."""
    soft = labels.dtype.kind == "f" and labels.shape == logits.shape and logits.shape[-1] > 1
    if soft and np.allclose(labels.sum(axis=-1), 1):
        labels = labels.argmax(axis=-1)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{name}: takes integer labels, got {labels.dtype}; for another kind of target pass metrics=[]")
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"{name}: labels have shape {labels.shape} but logits {logits.shape} take {logits.shape[:-1]}")
    rows, flat = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    if ignore_index is not None:
        counted = flat != ignore_index
        rows, flat = rows[counted], flat[counted]
    if flat.size and not 0 <= flat.min() <= flat.max() < rows.shape[1]:
        raise ValueError(f"{name}: labels must be from 0 to {rows.shape[1] - 1}, got {flat.min()} to {flat.max()}")
    return rows, flat
