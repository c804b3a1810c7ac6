"""Which samples an epoch takes, and in which order: samplers, and what the loaders share."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from gpunet import random
from gpunet.data.datasets import Dataset, Subset, checked_seed
from gpunet.distributed.ranks import checksum
from gpunet.geometry import checked_int, positive_int

__all__ = ["ShuffleBuffer", "WeightedRandomSampler", "balanced_weights"]

SHARDS, SLOTS, REST = 1, 2, 3
"""The calls of the streams of `ShuffleBuffer`; the loaders' own orders have 0."""


class Sampler(Protocol):
    """The protocol of ``sampler=`` in loaders; its length is the number of samples of one epoch."""

    def __len__(self) -> int: ...

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The positions that one epoch takes, in their order: integers (len(self),)."""
        ...


class WeightedRandomSampler:
    """Takes samples at random, each with a probability in proportion to its weight.

    Epoch e draws from the stream ``Stream(seed, PURPOSES["sample"], epoch=e)``, so an epoch can be
    drawn again. With replacement, a uniform number u takes the first sample whose cumulative share
    of the weights exceeds u. Without replacement, samples come in the order of -log(1 - u) / weight
    (Efraimidis & Spirakis 2006, "Weighted random sampling with a reservoir"). A sample that an
    epoch takes twice is augmented in the same way both times, since augmentation depends on
    position and epoch.

    Args:
        weights: (N,), one for each sample of the data set, not negative; they need not add up to 1.
            See `balanced_weights`.
        num_samples: how many samples an epoch takes; N if None.
        replacement: whether an epoch may take a sample more than once.
    Raises:
        ValueError: weights that are negative, not finite or all 0; without replacement, fewer
            positive weights than `num_samples`.
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
                f"WeightedRandomSampler: num_samples must be at most {positive} without replacement, got {self.num_samples}"
            )

    def __len__(self) -> int:
        return self.num_samples

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The positions that one epoch takes, in their order: int64 (num_samples,)."""
        stream = random.Stream(seed, random.PURPOSES["sample"], epoch=epoch)
        if self.replacement:
            ends = np.cumsum(self.weights)
            chosen = np.searchsorted(ends, random.uniform(stream, self.num_samples) * ends[-1], side="right")
            # u * total may be rounded up to the total, which is beyond the last sample.
            return np.minimum(chosen, np.flatnonzero(self.weights)[-1])
        with np.errstate(divide="ignore"):
            times = np.log(-np.log1p(-random.uniform(stream, len(self.weights)))) - np.log(self.weights)
        return np.argsort(times, kind="stable")[: self.num_samples]


class ShuffleBuffer:
    """Shuffles the samples of shards so that neighbours in a file are taken at nearly the same time.

    The shards come in a random order. Their samples go through a buffer: it is filled with the
    first `size` samples; then each further sample takes the place of a random one, which comes out;
    at the end the rest comes out in random order. So a sample waits in the buffer while `size`
    others arrive, on average, and comes fewer than `size` places earlier than without a buffer.
    With a size of 1, samples keep their order within a shard; with that of the data set, any order
    is equally likely.

    The buffer holds positions, not images: it costs 8 bytes for each, and a loader that goes on
    within an epoch takes the very batches that were left. Epoch e draws from the streams
    ``Stream(seed, PURPOSES["shuffle"], call=c, epoch=e)`` with c = 1 for the order of the shards, 2
    for the places in the buffer and 3 for the rest.

    Args:
        dataset: an `ImageShards`, or a `Subset` of one, also of a `Subset`.
        size: samples in the buffer, at least 1.
    Raises:
        ValueError: a size out of range.
        TypeError: a size that is no integer, or a data set without shards.
    """

    def __init__(self, dataset: Dataset, size: int = 10_000) -> None:
        self.size = positive_int("ShuffleBuffer", "size", size)
        self._shards = _shard_of_each(dataset)

    def __len__(self) -> int:
        return len(self._shards)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The positions that one epoch takes, in their order: int64 (len(self),)."""
        shards, slots, rest = (
            random.Stream(seed, random.PURPOSES["shuffle"], call=call, epoch=epoch) for call in (SHARDS, SLOTS, REST)
        )
        rank = np.argsort(random.permutation(shards, int(self._shards.max()) + 1))
        arriving = np.argsort(rank[self._shards], kind="stable")
        size = min(self.size, len(self))
        drawn = (random.uniform(slots, len(self) - size) * size).astype(np.int64)
        # The place in the buffer that each sample takes. It comes out when the next one takes that place.
        places = np.concatenate([np.arange(size), drawn])
        by_place = np.argsort(places, kind="stable")
        last = np.append(np.diff(places[by_place]) > 0, True)
        out = np.empty(len(self), np.int64)
        pushed, pushing = by_place[:-1][~last[:-1]], by_place[1:][~last[:-1]]
        out[pushing - size] = arriving[pushed]
        left = by_place[last]
        out[len(self) - size :] = arriving[left[random.permutation(rest, size)]]
        return out


def _shard_of_each(dataset: Dataset) -> np.ndarray:
    """The number of the shard that each sample lies in, int64 (N,)."""
    if isinstance(dataset, Subset):
        return _shard_of_each(dataset.dataset)[dataset.indices]
    counts = getattr(dataset, "samples_per_shard", None)
    if counts is None:
        raise TypeError(
            f"ShuffleBuffer: dataset must be an ImageShards or a Subset of one, got {type(dataset).__name__}"
        )
    return np.repeat(np.arange(len(counts)), counts)


def balanced_weights(labels: Any) -> np.ndarray:
    """Weights for `WeightedRandomSampler` that make it take every class equally often.

    Args:
        labels: (N,) integers of K different classes, such as `ImageFolder.labels`.
    Returns:
        float64 (N,): N / (K * number of samples of the sample's class). Their mean is 1.
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
    """The weights as float64, divided by the largest so that no sum of them is infinite."""
    given = np.asarray(weights)
    if given.dtype.kind not in "biuf" or given.ndim != 1:
        raise TypeError(f"WeightedRandomSampler: weights must be numbers (N,), got {given.dtype} {given.shape}")
    wide = given.astype(np.float64)
    if not (np.isfinite(wide).all() and (wide >= 0).all() and wide.any()):
        raise ValueError("WeightedRandomSampler: weights must be finite and not negative, and one of them above 0")
    return wide / wide.max()


class BatchOrder:
    """What the loaders share: batch size, order of the samples, and number of the next epoch.

    Args:
        total: samples of the data set.
        batch_size, shuffle, drop_last, seed, sampler: as for `DataLoader`.
    Raises:
        ValueError, TypeError: as `DataLoader` documents; messages begin with the subclass's name.
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
        self.batch_size = positive_int(self._name, "batch_size", batch_size)
        checked_seed(self._name, seed)
        self.seed = seed
        self.epoch = 0
        if total == 0:
            raise ValueError(f"{self._name}: dataset is empty but must have at least 1 sample")
        if sampler is not None:
            self._check_sampler(sampler)
        if drop_last and batch_size > samples:
            raise ValueError(f"{self._name}: drop_last leaves no batch of {batch_size} from {samples} samples")

    @property
    def epoch(self) -> int:
        """The epoch of the next iteration, from 0."""
        return self._epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._epoch = checked_int(self._name, "epoch", value, least=0)

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.samples // self.batch_size if self.drop_last else -(-self.samples // self.batch_size)

    def _fingerprint(self, order: np.ndarray, samples: int) -> dict[str, int]:
        """See `DataLoader.fingerprint`.

        Args:
            order: of the next epoch.
            samples: the checksum of the samples.
        """
        drawn = self.shuffle or self.sampler is not None
        return {
            "number of batches": len(self),
            "batch size": self.batch_size,
            **({"seed": self._seed(), "epoch": self.epoch} if drawn else {}),
            "checksum of the order of the samples": checksum(order),
            "checksum of the samples": samples,
        }

    def _begin(self) -> tuple[int, int]:
        """(epoch, seed) of an iteration that begins now, which counts even if it ends early."""
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
            raise ValueError(f"{self._name}: sampler gave {order.min()} to {order.max()}, not 0 to {self.total - 1}")
        return order.astype(np.int64)


def shuffle_stream(seed: int, epoch: int) -> random.Stream:
    """The stream whose permutation is the shuffled order of one epoch."""
    return random.Stream(seed, random.PURPOSES["shuffle"], epoch=epoch)
