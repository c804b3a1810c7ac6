"""Metrics, which add up over batches.

A batch counts by its rows, so a smaller last batch counts for less.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np

from gpunet.geometry import positive_int

__all__ = ["F1", "Accuracy", "ConfusionMatrix", "Measures", "Metric", "Precision", "Recall", "TopK"]


class Metric(Protocol):
    """What a Trainer takes as a metric; one whose value is an array gets no column in a history."""

    name: str

    def reset(self) -> None:
        """Forget all batches."""

    def update(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Add a batch on the host: logits (…, K), integer labels (…)."""

    @property
    def value(self) -> Any:
        """A number or an array, over all batches since `reset`.

        A metric may also have

        - `state_dict`, what it has added up as JSON can hold it, and `load_state_dict`: a checkpoint
          within an epoch then keeps it;
        - `measure` and `add`, see `Measures`: several ranks then add up what each has measured of
          its share of a batch. Without these they gather the logits.
        """


@runtime_checkable
class Measures(Protocol):
    """A metric whose `update` measures a batch, and adds that."""

    def measure(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Numbers of one shape for all batches; those of a batch are the sums of those of its parts."""

    def add(self, measured: np.ndarray) -> None:
        """Add what has been measured of a batch; whole numbers may have become float64."""


def takes_measures(metric: Metric) -> TypeGuard[Measures]:
    """Whether a metric's `measure` and `add` do what its `update` does: no class overrides that alone."""
    if not isinstance(metric, Measures):
        return False
    classes = type(metric).__mro__
    update, measure = (next((i for i, c in enumerate(classes) if name in vars(c)), 0) for name in ("update", "measure"))
    return measure <= update


class Mean:
    """A weighted mean of numbers; NaN before the first number."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self.total, self.weight = 0.0, 0.0

    def update(self, value: float, weight: float) -> None:
        """Add a value that counts `weight` times."""
        self.add(value * weight, weight)

    def add(self, total: float, weight: float) -> None:
        """Add the sum of so many values."""
        self.total += total
        self.weight += weight

    def state_dict(self) -> dict[str, Any]:
        """What has been added up."""
        return {"total": self.total, "weight": self.weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.total, self.weight = state["total"], state["weight"]

    @property
    def value(self) -> float:
        """The mean."""
        return self.total / self.weight if self.weight else float("nan")


class _Share:
    """The share of labels that are hit, of images or of pixels."""

    name: str

    def __init__(self, ignore_index: int | None) -> None:
        self.ignore_index = ignore_index
        self._mean = Mean()

    def reset(self) -> None:
        """Forget all batches."""
        self._mean.reset()

    def update(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Add a batch: logits (…, K), integer labels (…)."""
        self.add(self.measure(logits, labels))

    def measure(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(hits, labels) of a batch."""
        rows, flat = _rows(self.name, logits, labels, self.ignore_index)
        return np.array([self.hits(rows, flat).sum() if len(flat) else 0, len(flat)])

    def add(self, measured: np.ndarray) -> None:
        """Add what `measure` has found."""
        self._mean.add(*measured.tolist())

    def state_dict(self) -> dict[str, Any]:
        """What has been added up."""
        return self._mean.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._mean.load_state_dict(state)

    def hits(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Which of the labels (R,) the logits (R, K) hit, bool (R,)."""
        raise NotImplementedError

    @property
    def value(self) -> float:
        """From 0 to 1; NaN before the first label."""
        return self._mean.value


class Accuracy(_Share):
    """The share of labels whose logit is the first largest.

    It counts pixels for logits (N, H, W, K) and labels (N, H, W).

    Args:
        ignore_index: a label that does not count.
    """

    name = "accuracy"

    def __init__(self, ignore_index: int | None = None) -> None:
        super().__init__(ignore_index)

    def hits(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Whether the first largest logit is the label's; never where a logit is NaN."""
        return (logits.argmax(axis=-1) == labels) & ~np.isnan(logits).any(axis=-1)


class TopK(_Share):
    """The share of labels among the `k` largest logits; of equal ones the first counts as larger.

    Args:
        k: how many guesses are allowed.
        ignore_index: a label that does not count.
    """

    def __init__(self, k: int, ignore_index: int | None = None) -> None:
        self.k, self.name = positive_int("TopK", "k", k), f"top{k}"
        super().__init__(ignore_index)

    def hits(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Whether fewer than k logits are larger than the label's; never where that is NaN."""
        classes = logits.shape[-1]
        if self.k > classes:
            raise ValueError(f"{self.name}: logits have only {classes} classes")
        own = logits[np.arange(len(labels)), labels][:, None]
        before = (logits > own) | ((logits == own) & (np.arange(classes) < labels[:, None]))
        return (before.sum(axis=-1) < self.k) & ~np.isnan(own[:, 0])


class ConfusionMatrix:
    """How often each class was taken for each: value[label, guess], int64 (K, K).

    Args:
        num_classes: K; taken from the first logits if None.
        ignore_index: a label that does not count.
    """

    name = "confusion"

    def __init__(self, num_classes: int | None = None, ignore_index: int | None = None) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self.matrix = np.zeros((self.num_classes or 0,) * 2, np.int64)

    def state_dict(self) -> dict[str, Any]:
        """The matrix, as lists."""
        return {"matrix": self.matrix.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        count = len(state["matrix"])
        self.matrix = np.array(state["matrix"], np.int64).reshape(count, count)

    @property
    def value(self) -> Any:
        """The matrix."""
        return self.matrix

    def update(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Add a batch: logits (…, K), integer labels (…)."""
        self.add(self.measure(logits, labels))

    def measure(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The matrix of a batch."""
        rows, flat = _rows(self.name, logits, labels, self.ignore_index)
        classes = rows.shape[-1]
        pairs = flat.astype(np.int64) * classes + rows.argmax(axis=-1)
        return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def add(self, measured: np.ndarray) -> None:
        """Add what `measure` has found."""
        classes = len(measured)
        if not self.matrix.size:
            self.matrix = np.zeros((classes, classes), np.int64)
        if self.matrix.shape != (classes, classes):
            raise ValueError(f"{self.name}: logits have {classes} classes, not {len(self.matrix)}")
        self.matrix += np.rint(measured).astype(np.int64)


class ByClass(ConfusionMatrix):
    """A number for each class, computed from the confusion matrix, and averages of these numbers.

    A share of nothing is 0, such as the precision of a class that was never guessed (scikit-learn's
    zero_division=0). Before the first label the averages are NaN.

    Args:
        average: "macro" for the mean over the classes that occur among the labels or the guesses;
            "micro" for one number from the counts of all classes together, which is the accuracy
            where each label has one guess; None for an array with one number for each class.
        num_classes, ignore_index: as for `ConfusionMatrix`.
    Raises:
        ValueError: another average.
    """

    _word = ""

    def __init__(
        self, average: str | None = "macro", num_classes: int | None = None, ignore_index: int | None = None
    ) -> None:
        if average not in ("macro", "micro", None):
            raise ValueError(f"{type(self).__name__}: average is {average!r} but takes 'macro', 'micro' or None")
        self.average = average
        self.name = self._word + {"macro": "", "micro": "_micro", None: "_by_class"}[average]
        super().__init__(num_classes, ignore_index)

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
        """The number of each class, from how often it was hit, was the label, and was guessed."""
        raise NotImplementedError


class Precision(ByClass):
    """The share of a class's guesses that are right: hits / guesses; see `ByClass`."""

    _word = "precision"

    def _shares(self, hits: Any, labels: Any, guesses: Any) -> Any:
        return hits / np.maximum(guesses, 1)


class Recall(ByClass):
    """The share of a class's labels that are found: hits / labels; see `ByClass`."""

    _word = "recall"

    def _shares(self, hits: Any, labels: Any, guesses: Any) -> Any:
        return hits / np.maximum(labels, 1)


class F1(ByClass):
    """The harmonic mean of precision and recall: 2 hits / (labels + guesses), see `ByClass`."""

    _word = "f1"

    def _shares(self, hits: Any, labels: Any, guesses: Any) -> Any:
        return 2 * hits / np.maximum(labels + guesses, 1)


def make_metrics(metrics: Sequence[str | Metric] | None, logits: bool = True) -> list[Metric]:
    """Make metrics from names; objects are taken as they are.

    If None, accuracy; nothing if there are no logits, which metrics take.

    The names are "accuracy", "confusion" and "top5", with any number; and "precision", "recall" and
    "f1" for means over classes, each also with "_micro" for all classes together and with
    "_by_class" for an array.
    """
    if metrics and not logits:
        raise ValueError("Trainer: metrics take logits, which a loss_step= does not give; pass metrics=[]")
    if metrics is None:
        metrics = ("accuracy",) if logits else ()
    if isinstance(metrics, str):
        raise TypeError(f"Trainer: metrics takes a list, got the name {metrics!r}; write [{metrics!r}]")
    return [_make_metric(metric) for metric in metrics if metric != "loss"]  # it is always measured


def _make_metric(metric: str | Metric) -> Metric:
    if not isinstance(metric, str):
        missing = [name for name in ("name", "reset", "update") if not hasattr(metric, name)]
        # without asking for the value, which may raise before the first `reset`
        if "value" not in dir(metric) and not hasattr(type(metric), "__getattr__"):
            missing.append("value")
        if missing:
            raise TypeError(f"Trainer: metric {metric!r} has no {', '.join(missing)}; see train.Metric")
        if callable(getattr(type(metric), "value", None)):
            raise TypeError(f"Trainer: metric {metric!r} has a method value, which must be a property")
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
        f"Trainer: metric is {metric!r} but takes loss, accuracy, top5, confusion, precision, recall, f1 or an object"
    )


def _rows(name: str, logits: np.ndarray, labels: np.ndarray, ignore_index: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Flatten logits (…, K) and labels (…) to (R, K) and (R,), and leave out the labels to ignore.

    Of soft labels (…, K) the largest is taken.
    """
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
