"""Samplers: which samples an epoch takes, where that is not each of them once."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Protocol

import numpy as np

from gpunet import random
from gpunet.data.datasets import checked_seed
from gpunet.geometry import positive_int


class Sampler(Protocol):
    """What loaders take as ``sampler=``; its length is the number of samples of one epoch."""

    def __len__(self) -> int: ...

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The positions in the data set that one epoch takes, in their order, integers (len(self),)."""
        ...


class WeightedRandomSampler:
    """Takes samples at random, each with a likelihood in proportion to its weight.

    Epoch e draws from the stream ``Stream(seed, PURPOSES["sample"], epoch=e)``, so that it can be drawn again. With
    replacement, u from 0 to 1 takes the first sample whose cumulative share of the weights exceeds u. Without, samples come
    in the order of -log(1 - u) / weight (Efraimidis & Spirakis 2006, "Weighted random sampling with a reservoir").
    A sample that is taken twice in an epoch is augmented in the same way both times: augmentation goes by position and epoch.

    Args:
        weights: (N,) one per sample of the data set, not negative; they need not add up to 1. See `balanced_weights`.
        num_samples: how many an epoch takes; N if None.
        replacement: whether a sample may be taken more than once in an epoch.
    Raises:
        ValueError: weights that are negative, not finite or all 0; without replacement, fewer positive ones than `num_samples`.
        TypeError: weights that are not numbers on one axis, `num_samples` that is not an integer.
    """

    def __init__(self, weights: Any, num_samples: int | None = None, *, replacement: bool = True) -> None:
        self.weights = _checked_weights(weights)
        self.replacement = bool(replacement)
        self.num_samples = positive_int(
            "WeightedRandomSampler", "num_samples", len(self.weights) if num_samples is None else num_samples
        )
        positive = int(np.count_nonzero(self.weights))
        if not replacement and self.num_samples > positive:
            raise ValueError(
                f"WeightedRandomSampler: num_samples must be at most {positive}, the number of positive weights, without "
                f"replacement, got {self.num_samples}"
            )

    def __len__(self) -> int:
        return self.num_samples

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """int64 (num_samples,): the positions in the data set that one epoch takes, in their order."""
        stream = random.Stream(seed, random.PURPOSES["sample"], epoch=epoch)
        if self.replacement:
            ends = np.cumsum(self.weights)
            chosen = np.searchsorted(ends, random.uniform(stream, self.num_samples) * ends[-1], side="right")
            return np.minimum(chosen, np.flatnonzero(self.weights)[-1])  # a product may be rounded up to the whole
        with np.errstate(divide="ignore"):
            times = np.log(-np.log1p(-random.uniform(stream, len(self.weights)))) - np.log(self.weights)
        return np.argsort(times, kind="stable")[: self.num_samples]


def balanced_weights(labels: Any) -> np.ndarray:
    """Weights for `WeightedRandomSampler` with which every class is taken equally often.

    float64 (N,): N / (K * its class's number).

    Args:
        labels: (N,) integers, such as `ImageFolder.labels`, of K different classes. The weights' mean is 1.
    Raises:
        ValueError: no labels.
        TypeError: labels that are not integers on one axis.
    """
    given = np.asarray(labels)
    if given.dtype.kind not in "iu" or given.ndim != 1:
        raise TypeError(f"balanced_weights: labels must be integers (N,), got {given.dtype} {given.shape}")
    if not len(given):
        raise ValueError("balanced_weights: labels are empty but at least 1 is needed")
    _, inverse, counts = np.unique(given, return_inverse=True, return_counts=True)
    weights: np.ndarray = len(given) / (len(counts) * counts[inverse])
    return weights


def _checked_weights(weights: Any) -> np.ndarray:
    """The weights as float64, of which the largest is 1, so that no sum of them is infinite."""
    given = np.asarray(weights)
    if given.dtype.kind not in "biuf" or given.ndim != 1:
        raise TypeError(f"WeightedRandomSampler: weights must be numbers (N,), got {given.dtype} {given.shape}")
    wide = given.astype(np.float64)
    if not (np.isfinite(wide).all() and (wide >= 0).all() and wide.any()):
        raise ValueError("WeightedRandomSampler: weights must be finite and not negative, and one of them above 0")
    return wide / wide.max()


class BatchOrder:
    """What loaders share: how many samples a batch has, in which order they come, and which epoch is next.

    Args:
        total: samples of the data set.
        batch_size, shuffle, drop_last, seed, sampler: as for `DataLoader`.
    Raises:
        ValueError, TypeError: in the name of the class that inherits this.
    """

    def __init__(
        self,
        total: int,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        seed: int | None,
        sampler: Sampler | None = None,
    ) -> None:
        self.total, self.shuffle, self.drop_last, self.sampler = total, shuffle, drop_last, sampler
        self.samples = samples = total if sampler is None else len(sampler)
        self.batch_size = self._integer("batch_size", batch_size, least=1)
        checked_seed(self._name, seed)
        self.seed = seed
        self.epoch = 0
        if total == 0:
            raise ValueError(f"{self._name}: dataset is empty but must have at least 1 sample")
        if sampler is not None:
            self._check_sampler(sampler)
        if drop_last and batch_size > samples:
            raise ValueError(
                f"{self._name}: batch_size is {batch_size} but {'dataset' if sampler is None else 'sampler'} has "
                f"{samples} samples, "
                "so that drop_last leaves no batch"
            )

    @property
    def epoch(self) -> int:
        """The epoch of the next iteration, from 0."""
        return self._epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._epoch = self._integer("epoch", value, least=0)

    def __len__(self) -> int:
        """Batches of one epoch."""
        return self.samples // self.batch_size if self.drop_last else -(-self.samples // self.batch_size)

    def _begin(self) -> tuple[int, int]:
        """(epoch, seed) of an iteration that begins here, and is counted, however far it will come."""
        epoch, seed = self.epoch, self._seed()
        self.epoch = epoch + 1
        return epoch, seed

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _seed(self) -> int:
        return checked_seed(self._name, self.seed)

    def _check_sampler(self, sampler: Sampler) -> None:
        if self.shuffle:
            raise ValueError(f"{self._name}: sampler decides the order, so shuffle must be False")
        weights = getattr(sampler, "weights", None)
        if weights is not None and len(weights) != self.total:
            raise ValueError(f"{self._name}: sampler has {len(weights)} weights but dataset has {self.total} samples")

    def _sampled(self, sampler: Sampler, seed: int, epoch: int) -> np.ndarray:
        """The sampler's order of one epoch, int64 (samples,)."""
        order = np.asarray(sampler.order(seed, epoch))
        if order.dtype.kind not in "iu" or order.shape != (self.samples,):
            raise TypeError(f"{self._name}: sampler must give {self.samples} integers, got {order.dtype} {order.shape}")
        if order.size and not 0 <= order.min() <= order.max() < self.total:
            raise ValueError(
                f"{self._name}: sampler must give positions from 0 to {self.total - 1}, got {order.min()} to {order.max()}"
            )
        return order.astype(np.int64)

    def _integer(self, argument: str, value: Any, *, least: int) -> int:
        if not isinstance(value, Integral):
            raise TypeError(f"{self._name}: {argument} must be an integer, got {value!r}")
        if value < least:
            raise ValueError(f"{self._name}: {argument} must be at least {least}, got {value}")
        return int(value)


def shuffle_stream(seed: int, epoch: int) -> random.Stream:
    """The stream whose permutation is the shuffled order of one epoch."""
    return random.Stream(seed, random.PURPOSES["shuffle"], epoch=epoch)
