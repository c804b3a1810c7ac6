"""Batches for networks that compare images: pairs, triplets, and episodes of several classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpunet import random
from gpunet.data.datasets import ArrayDataset, checked_seed
from gpunet.data.transforms import Batch, Transform
from gpunet.geometry import positive_int

__all__ = ["Episodes", "Pairs", "Triplets"]


class _DrawnBatches:
    """Batches that are drawn anew for each epoch.

    A batch depends only on the seed, the epoch and the batch's number.
    """

    views, ways = 2, 2
    """How many images of a class, and how many classes of a group, a draw needs."""

    def __init__(
        self,
        dataset: ArrayDataset,
        batch_size: int,
        steps: int,
        *,
        groups: Any = None,
        transform: Transform | None = None,
        seed: int | None = None,
    ) -> None:
        self._name = type(self).__name__
        self.batch_size = positive_int(self._name, "batch_size", batch_size)
        self.steps = positive_int(self._name, "steps", steps)
        checked_seed(self._name, seed)
        self.dataset, self.transform, self.seed, self.epoch = dataset, transform, seed, 0
        labels = np.asarray(dataset[np.arange(len(dataset))][-1])
        order, counts = labels.argsort(kind="stable"), np.bincount(labels)
        self._members = np.split(order, counts.cumsum()[:-1])
        group = np.zeros(len(counts), np.int64) if groups is None else np.asarray(groups)
        if len(group) < len(counts):
            raise ValueError(f"{self._name}: groups are of {len(group)} classes but the labels of {len(counts)}")
        usable = np.flatnonzero(counts >= self.views)
        classes = [usable[group[usable] == g] for g in np.unique(group)]
        self._groups = [found for found in classes if len(found) >= self.ways]
        if not self._groups:
            raise ValueError(
                f"{self._name}: takes at least {self.ways} classes of a group with {self.views} images each, "
                f"got at most {max(map(len, classes))}"
            )

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        seed, epoch = checked_seed(self._name, self.seed), self.epoch
        self.epoch = epoch + 1
        return self._drawn(epoch, seed)

    def _drawn(self, epoch: int, seed: int) -> Iterator[Batch]:
        for step in range(self.steps):
            draw = _Draw(random.Stream(seed, random.PURPOSES["episode"], step=step, epoch=epoch))
            yield self._batch(draw, epoch * self.steps + step, seed)

    def _batch(self, draw: _Draw, number: int, seed: int) -> Batch:
        """One batch.

        Args:
            number: counts batches over all epochs; it replaces the epoch in augmentation.
        """
        raise NotImplementedError

    def _images(self, indices: np.ndarray, number: int, seed: int) -> np.ndarray:
        """The images at data-set indices (…) -> (…, H, W, C), transformed."""
        flat = indices.reshape(-1)
        pixels = self.dataset[flat][0]
        if self.transform is not None:
            (pixels,) = self.transform((pixels,), indices=flat, epoch=number, seed=seed)
        return pixels.reshape(*indices.shape, *pixels.shape[1:])

    def _classes(self, draw: _Draw, count: int) -> np.ndarray:
        """`count` classes of one group; larger groups are drawn more often, in proportion."""
        sizes = np.array([len(group) for group in self._groups])
        at = int(np.searchsorted(sizes.cumsum(), draw.uniform() * sizes.sum(), side="right"))
        return draw.choose(self._groups[at], count)


class Pairs(_DrawnBatches):
    """Pairs of images, of one class (same = 1) and of two classes (same = 0) by turns.

    Args:
        dataset: gives (images, labels (N,)).
        batch_size: B, pairs per batch.
        steps: batches per epoch.
        groups: (K,) integers, the group of each class, such as Omniglot's `alphabet`; the classes
            of one draw then come from one group. All classes form one group if None.
        transform: called with (images,) and their indices, as in `DataLoader`.
        seed: the seed that `gpunet.seed` last set if None.
    Attributes:
        epoch: the number of the next iteration, from 0; each iteration adds 1.
    Raises:
        ValueError: no group with two classes of two images each, or groups of fewer classes than
            the labels have.
    Yields:
        (a (B, H, W, C), b (B, H, W, C), same (B,) int64).
    """

    def _batch(self, draw: _Draw, number: int, seed: int) -> Batch:
        same = np.arange(self.batch_size) % 2
        drawn = np.empty((2, self.batch_size), np.int64)
        for i, alike in enumerate(same):
            first, second = self._classes(draw, 2)
            pair = draw.choose(self._members[first], 2)
            drawn[:, i] = pair if alike else (pair[0], draw.choose(self._members[second], 1)[0])
        return self._images(drawn[0], number, seed), self._images(drawn[1], number, seed), same


class Triplets(_DrawnBatches):
    """Triplets of images: two of one class and one of another; arguments as for `Pairs`.

    Yields:
        (anchor, positive, negative), each (B, H, W, C).
    """

    def _batch(self, draw: _Draw, number: int, seed: int) -> Batch:
        drawn = np.empty((3, self.batch_size), np.int64)
        for i in range(self.batch_size):
            first, second = self._classes(draw, 2)
            drawn[:2, i] = draw.choose(self._members[first], 2)
            drawn[2, i] = draw.choose(self._members[second], 1)[0]
        return tuple(self._images(row, number, seed) for row in drawn)


class Episodes(_DrawnBatches):
    """V images (views) of each of W classes (ways) of one group, for `functional.all_pairs_loss`.

    Args:
        ways: W, classes per batch. Groups of fewer classes are left out.
        views: V, images per class, at least 2.
        dataset, steps, groups, transform, seed: as for `Pairs`.
    Yields:
        (views (W, V, H, W, C),), where the last three extents are those of the images.
    """

    def __init__(
        self,
        dataset: ArrayDataset,
        ways: int,
        steps: int,
        *,
        views: int = 2,
        groups: Any = None,
        transform: Transform | None = None,
        seed: int | None = None,
    ) -> None:
        self.ways, self.views = positive_int("Episodes", "ways", ways), positive_int("Episodes", "views", views)
        if min(ways, views) < 2:
            raise ValueError(f"Episodes: ways and views must be at least 2, got {ways} and {views}")
        super().__init__(dataset, ways, steps, groups=groups, transform=transform, seed=seed)

    def _batch(self, draw: _Draw, number: int, seed: int) -> Batch:
        chosen = np.stack([draw.choose(self._members[k], self.views) for k in self._classes(draw, self.ways)])
        return (self._images(chosen, number, seed),)


class _Draw:
    """Uniform numbers of one stream, one after another."""

    FIRST_WORDS = 1024

    def __init__(self, stream: random.Stream) -> None:
        self.stream, self.taken, self.words = stream, 0, random.uniform(stream, self.FIRST_WORDS)

    def uniform(self, count: int | None = None) -> Any:
        """The next number in [0, 1), or the next `count` numbers."""
        start, self.taken = self.taken, self.taken + (1 if count is None else count)
        while self.taken > len(self.words):
            self.words = random.uniform(self.stream, 2 * len(self.words))
        return self.words[start] if count is None else self.words[start : self.taken]

    def choose(self, values: np.ndarray, count: int) -> np.ndarray:
        """`count` different elements of `values`, in a drawn order."""
        return values[np.argsort(self.uniform(len(values)), kind="stable")[:count]]
