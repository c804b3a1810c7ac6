"""Metrics: small accumulators, weighted by rows, so that a smaller last batch counts for less."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from gpunet.geometry import positive_int


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
        self.k, self.name = positive_int("TopK", "k", k), f"top{k}"
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
        self.matrix = np.zeros((self.classes or 0,) * 2, np.int64)

    @property
    def value(self) -> Any:
        """The matrix."""
        return self.matrix

    def update(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Take up a batch: logits (…, K), integer labels (…)."""
        rows, flat = _rows(self.name, logits, labels, self.ignore_index)
        classes = rows.shape[-1]
        if not self.matrix.size:
            self.matrix = np.zeros((classes, classes), np.int64)
        if self.matrix.shape != (classes, classes):
            raise ValueError(f"{self.name}: logits have {classes} classes, not {len(self.matrix)}")
        pairs = flat.astype(np.int64) * classes + rows.argmax(axis=-1)
        self.matrix += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


class ByClass(ConfusionMatrix):
    """A number for each class, from the confusion matrix.

    Args:
        average: "macro", the mean over the classes that occur among the labels or the guesses; "micro", of all classes' counts
            together, which where each label has one guess is the accuracy; None for an array, one number for each class.
        classes, ignore_index: as for `ConfusionMatrix`.
    A share of nothing is 0, such as the precision of a class that was never guessed (scikit-learn's zero_division=0). Before
    the first label the averages are NaN.
    Raises:
        ValueError: another average.
    """

    _word = ""

    def __init__(
        self, average: str | None = "macro", classes: int | None = None, ignore_index: int | None = None
    ) -> None:
        if average not in ("macro", "micro", None):
            raise ValueError(f"{type(self).__name__}: average is {average!r} but takes 'macro', 'micro' or None")
        self.average = average
        suffix = {"macro": "", "micro": "_micro"}.get(average or "", "_by_class")
        self.name = self._word + suffix
        super().__init__(classes, ignore_index)

    @property
    def value(self) -> Any:
        """The average, a float; or float64 (K,)."""
        hits, labels, guesses = self.matrix.diagonal(), self.matrix.sum(axis=1), self.matrix.sum(axis=0)
        if self.average is None:
            return self._shares(hits, labels, guesses)
        if not labels.any():
            return float("nan")
        if self.average == "micro":
            return float(self._shares(hits.sum(), labels.sum(), guesses.sum()))
        return float(self._shares(hits, labels, guesses)[labels + guesses > 0].mean())

    def _shares(self, hits: Any, labels: Any, guesses: Any) -> Any:
        """From how often a class was hit, was the label and was guessed."""
        raise NotImplementedError


class Precision(ByClass):
    """Share of the guesses of a class that are right: hits / guesses. Arguments as for `ByClass`."""

    _word = "precision"

    def _shares(self, hits: Any, labels: Any, guesses: Any) -> Any:
        return hits / np.maximum(guesses, 1)


class Recall(ByClass):
    """Share of the labels of a class that are found: hits / labels. Arguments as for `ByClass`."""

    _word = "recall"

    def _shares(self, hits: Any, labels: Any, guesses: Any) -> Any:
        return hits / np.maximum(labels, 1)


class F1(ByClass):
    """Harmonic mean of precision and recall: 2 hits / (labels + guesses). Arguments as for `ByClass`."""

    _word = "f1"

    def _shares(self, hits: Any, labels: Any, guesses: Any) -> Any:
        return 2 * hits / np.maximum(labels + guesses, 1)


def make_metrics(metrics: Sequence[str | Metric]) -> list[Metric]:
    """Metrics of names and of objects, which are taken as they are.

    Names are "accuracy", "top5" for any number, "confusion"; "precision", "recall" and "f1" for the mean over classes, each
    also with "_micro" for all classes together and "_by_class" for an array.
    """
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
    if found := re.fullmatch("(precision|recall|f1)(|_micro|_by_class)", metric):
        kind = {"precision": Precision, "recall": Recall, "f1": F1}[found[1]]
        return kind({"": "macro", "_micro": "micro", "_by_class": None}[found[2]])
    raise ValueError(
        f'Trainer: metric is {metric!r} but takes "loss", "accuracy", "top5", "confusion", "precision", "recall", "f1" '
        "or an object"
    )


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
