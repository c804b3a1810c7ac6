"""Data sets: objects with a length that give a tuple of arrays for an array of positions."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Protocol

import numpy as np

from gpunet import random
from gpunet.backends.contract import real_array
from gpunet.distributed.ranks import checksum, excerpt

__all__ = ["ArrayDataset", "Dataset", "Subset", "random_split"]


EXCERPT = 64
"""Samples of arrays that a checksum takes."""


class Dataset(Protocol):
    """The protocol of data sets; `classes`, the labels' names, is optional.

    It has a length, and gives a sample for an integer, and a tuple of arrays of B rows each for
    int64 indices (B,).
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        """One sample for an integer; a tuple of arrays of B rows each for int64 indices (B,)."""
        ...


class ArrayDataset:
    """Arrays whose rows belong together, such as images (N, H, W, C) and labels (N,).

    Args:
        arrays: arrays of N rows each, of integers, booleans or floats; they are kept, not copied.
        classes: names of the labels. If given, the last array holds labels: integers (N, …) from 0
            to len(classes) - 1.
    Raises:
        ValueError: no rows, different numbers of rows, NaN or infinity, or a label out of range.
        TypeError: arrays that are not on the host or do not hold numbers; labels that are not
            integers.
    """

    def __init__(self, *arrays: Any, classes: Sequence[str] | None = None) -> None:
        if not arrays:
            raise ValueError("ArrayDataset: got no arrays but takes at least one")
        self.arrays = tuple(_host_array(position, array) for position, array in enumerate(arrays))
        rows = [len(array) for array in self.arrays]
        if len(set(rows)) > 1:
            raise ValueError(f"ArrayDataset: arrays must have equally many rows, got {', '.join(map(str, rows))}")
        if rows[0] == 0:
            raise ValueError("ArrayDataset: arrays have 0 rows but at least 1 is needed")
        self.classes = None if classes is None else tuple(classes)
        if self.classes is not None:
            if self.arrays[-1].dtype.kind not in "iu":
                raise TypeError(
                    f"ArrayDataset: labels, the last array, are {self.arrays[-1].dtype} but must be integers"
                )
            check_labels("ArrayDataset", self.arrays[-1], len(self.classes))

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        """The rows of every array, for an integer, a slice, or an array of indices."""
        return tuple(array[index] for array in self.arrays)

    def __repr__(self) -> str:
        return f"ArrayDataset({', '.join(f'{array.dtype} {array.shape}' for array in self.arrays)})"


class Subset:
    """Some samples of another data set, in the order of `indices`.

    Args:
        dataset: the whole data set.
        indices: (M,) integers from 0 to len(dataset) - 1.
    Raises:
        ValueError: no indices, or one out of range.
        TypeError: indices that are not integers on one axis.
    """

    def __init__(self, dataset: Dataset, indices: Any) -> None:
        given = np.asarray(indices)
        if given.size == 0:
            raise ValueError("Subset: indices are empty but at least 1 is needed")
        if given.ndim != 1 or given.dtype.kind not in "iu":
            raise TypeError(f"Subset: indices must be integers on one axis, got {given.dtype} {given.shape}")
        if given.min() < 0 or given.max() >= len(dataset):
            raise ValueError(
                f"Subset: indices must be from 0 to {len(dataset) - 1}, got {given.min()} to {given.max()}"
            )
        self.dataset, self.indices = dataset, given.astype(np.int64)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the labels of the whole data set; None if it has none."""
        return getattr(self.dataset, "classes", None)

    @property
    def labels(self) -> np.ndarray:
        """Labels of the samples, for data sets that have `labels`; no image is read."""
        labels: np.ndarray = self.dataset.labels[self.indices]  # type: ignore[attr-defined]
        return labels

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        return self.dataset[self.indices[index]]


def random_split(dataset: Dataset, lengths: Sequence[float], seed: int | None = None) -> tuple[Subset, ...]:
    """Disjoint random subsets that together are the data set; each keeps the data set's order.

    Args:
        dataset: a data set of N samples.
        lengths: the number of samples of each subset: integers that add up to N, or fractions that
            add up to 1.
        seed: decides the split; the seed that `gpunet.seed` last set if None.
    Raises:
        ValueError: lengths that do not add up, or that leave a subset without samples.
        TypeError: lengths that are not numbers.
    """
    total = len(dataset)
    if not all(isinstance(length, Real) for length in lengths):
        raise TypeError(f"random_split: lengths must be numbers, got {lengths!r}")
    if all(isinstance(length, Integral) for length in lengths):
        if sum(lengths) != total:
            raise ValueError(f"random_split: lengths must add up to {total}, the data set's length, got {sum(lengths)}")
        ends = [int(end) for end in np.cumsum(lengths)]
    else:
        if abs(sum(lengths) - 1) > 1e-6:
            raise ValueError(f"random_split: fractions must add up to 1, got {sum(lengths)}")
        ends = [round(end * total) for end in np.cumsum(lengths)]
    starts = [0, *ends[:-1]]
    if any(end <= start for start, end in zip(starts, ends, strict=True)):
        raise ValueError(f"random_split: lengths {list(lengths)} leave a subset of {total} samples without any")
    stream = random.Stream(checked_seed("random_split", seed), random.PURPOSES["split"])
    order = random.permutation(stream, total)
    return tuple(Subset(dataset, np.sort(order[start:end])) for start, end in zip(starts, ends, strict=True))


def checked_seed(operation: str, seed: int | None) -> int:
    """The seed as a Python integer; the seed that `gpunet.seed` last set if None."""
    return random.current_seed() if seed is None else random.checked_seed(f"{operation}: seed", seed)


def _host_array(position: int, value: Any) -> np.ndarray:
    """`value` as a NumPy array with at least one axis, without NaN and infinity.

    Raises:
        TypeError: an array on a device.
        ValueError: a number without axes, or NaN or infinity, of which the first is named.
    """
    if hasattr(value, "__cuda_array_interface__"):
        raise TypeError(f"ArrayDataset: array {position} is on a device but must be on the host")
    array = real_array(f"ArrayDataset: array {position}", value)
    if array.ndim == 0:
        raise ValueError(f"ArrayDataset: array {position} has no axes but takes (N, …)")
    if array.dtype.kind == "f":
        wrong = ~np.isfinite(array)
        if wrong.any():
            first = _first(wrong)
            raise ValueError(f"ArrayDataset: array {position} must be finite, got {array[first]} at index {first}")
    return array


def samples_checksum(dataset: Dataset, indices: np.ndarray) -> int:
    """The checksum of what a data set tells of samples without reading files; 0 if that is nothing.

    Of arrays it is an excerpt of the first samples; of a data set with `labels`, those of all of them.
    """
    if isinstance(dataset, Subset):
        return samples_checksum(dataset.dataset, dataset.indices[indices])
    if isinstance(dataset, ArrayDataset):
        return checksum(*(excerpt(part) for part in dataset[indices[:EXCERPT]]))
    labels = getattr(dataset, "labels", None)
    if not isinstance(labels, np.ndarray) or labels.shape[:1] != (len(dataset),):
        return 0
    return checksum(labels[indices])


def check_labels(owner: str, labels: np.ndarray, count: int) -> None:
    """Raise a ValueError that names the first label that is not from 0 to count - 1."""
    wrong = (labels < 0) | (labels >= count)
    if wrong.any():
        first = _first(wrong)
        raise ValueError(f"{owner}: labels must be from 0 to {count - 1}, got {labels[first]} at index {first}")


def _first(wrong: np.ndarray) -> tuple[int, ...]:
    """The index of the first True."""
    return tuple(int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape))
