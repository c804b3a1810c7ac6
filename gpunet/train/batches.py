"""Batches as a training step takes them: checked, made on the device, and grouped into updates."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gpunet.autograd import Tensor
from gpunet.backends.contract import Array, is_float
from gpunet.distributed import Alone, Ranks, Share, checksum, excerpt, expect_alike, share_of

ALONE = Alone()
Loader = Iterable[Any]
"""Gives batches, tuples of arrays with the images first: a `DataLoader`, or a list of batches."""


@runtime_checkable
class DeviceBatch(Protocol):
    """A batch that kernels make from a data set on the device, in place of arrays from the host."""

    key: Hashable
    """Batches with equal keys differ in their place alone, so one graph can make them all."""

    def make(self, clock: Array | None, dtype: Any) -> tuple[Array | Tensor, ...]:
        """Launch the kernels that make the arrays; the host may read and copy nothing.

        Args:
            clock: two uint64 on the device, (step, epoch): the place of the batch to make,
                whichever batch of this key is asked; None to make this batch.
            dtype: what the model computes in; kernels cast images of another float dtype to it.
        """


def batch_arrays(batch: Any, dtype: Any) -> Any:
    """Return the batch, or the arrays that its kernels make, of `dtype` if they are images."""
    return batch.make(None, dtype) if isinstance(batch, DeviceBatch) else batch


def check_batch(batch: Any) -> tuple[Any, ...]:
    """Return a batch as a tuple of arrays or tensors, all with the same number of rows.

    Raises:
        TypeError: it is no tuple or list, or holds something that is no array.
        ValueError: the numbers of rows differ, or are 0.
    """
    if not isinstance(batch, tuple | list) or not batch:
        raise TypeError(f"Trainer: a batch must be a tuple of arrays, got {type(batch).__name__}")
    for i, part in enumerate(batch):
        if not hasattr(part, "dtype") or not hasattr(part, "shape"):
            raise TypeError(f"Trainer: array {i} of a batch is {type(part).__name__} but must be an array")
    lengths = [part.shape[0] if part.shape else 0 for part in batch]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise ValueError(f"Trainer: the arrays of a batch must have equally many rows, at least 1; got {lengths}")
    return tuple(batch)


def check_images(x: Any) -> None:
    """Raise TypeError where the input of a model has no float dtype."""
    if not is_float(x.dtype):
        raise TypeError(f"Trainer: images are {x.dtype}, not floats: give a loader transform=data.Normalize(mean, std)")


def batch_signature(batch: Any) -> Hashable:
    """Return what decides which graph serves a batch: the kinds, shapes and dtypes of its arrays.

    A malformed batch has a signature too, so that `check_batch` can report it later.
    """
    if isinstance(batch, DeviceBatch):
        return batch.key
    if isinstance(batch, Share):  # of another place, or of a batch of another size, it counts otherwise
        return batch.first, batch.rows, batch.total, batch_signature(batch.batch)
    parts = batch if isinstance(batch, tuple | list) else (batch,)
    return tuple((type(p), getattr(p, "shape", None), str(getattr(p, "dtype", ""))) for p in parts)


def update_signature(batches: Sequence[Any]) -> Hashable:
    """The signatures of the batches of one update."""
    return tuple(map(batch_signature, batches))


def batch_groups(
    loader: Loader, max_batches: int, batches_per_update: int = 1, first: int = 0, ranks: Ranks = ALONE
) -> Generator[list[Any], None, None]:
    """Group neighbouring batches of a loader, for one call of `TrainingStep.run` each.

    A group has whole updates of equal signatures, at most `max_batches` batches. The last update of
    an epoch may have fewer batches, and is a group of its own. Where the loader raises, the batches
    that it gave before come first, as they would one by one. A loader with a method `deferred`
    gives batches that kernels make.

    Args:
        loader: gives the batches of an epoch.
        max_batches, batches_per_update: see above.
        first: how many batches to leave out at the start. A loader with an attribute `first_batch`
            does not make them.
        ranks: that share the batches.
    """
    if first and hasattr(loader, "first_batch"):
        loader.first_batch, first = first, 0
    group: list[Any] = []
    update: list[Any] = []
    try:
        with open_batches(loader, ranks, deferred=True) as batches:
            for batch in islice(batches, first, None):
                update.append(batch)
                if len(update) < batches_per_update:
                    continue
                if group and update_signature(update) != update_signature(group[:batches_per_update]):
                    yield group
                    group = []
                group, update = group + update, []
                if len(group) == max_batches:
                    yield group
                    group = []
    except Exception:
        yield from filter(None, (group, update))
        raise
    yield from filter(None, (group, update))


@contextmanager
def open_batches(loader: Loader, ranks: Ranks = ALONE, *, deferred: bool = False) -> Iterator[Iterator[Any]]:
    """Iterate over a loader's batches, and close a generator at the end.

    Otherwise the generator's finaliser would close it: it may wait for a thread, and Python drops
    what a signal raises in it.

    Args:
        ranks: where there are several, the iterator gives the `Share` of this rank of each batch. A
            loader with a method `shares` makes no more than these.
        deferred: whether batches may come from the loader's method `deferred`, which does not make
            them.
    """
    if ranks.size > 1:
        iterator = _shares(loader, ranks)
    else:
        iterator = loader.deferred() if deferred and hasattr(loader, "deferred") else iter(loader)
    try:
        yield iterator
    finally:
        if isinstance(iterator, Generator) and iterator is not loader:
            iterator.close()


def _shares(loader: Any, ranks: Ranks) -> Iterator[Share]:
    origins = [next((c for c in type(loader).__mro__ if name in vars(c)), None) for name in ("shares", "__iter__")]
    if origins[0] is not None and issubclass(origins[0], origins[1] or object):  # no subclass has batches of its own
        if hasattr(loader, "fingerprint"):
            _expect_alike(ranks, loader, loader.fingerprint())
        made: Iterator[Share] = loader.shares(ranks.rank, ranks.size)
        return made
    return _shares_of_whole_batches(loader, ranks)


def _shares_of_whole_batches(loader: Any, ranks: Ranks) -> Iterator[Share]:
    _expect_alike(ranks, loader, {"number of batches": len(loader) if isinstance(loader, Sized) else None})
    for i, batch in enumerate(loader):
        if i == 0:
            _expect_alike(ranks, loader, {"checksum of the first batch": _batch_checksum(batch)})
        yield share_of(batch, ranks.rank, ranks.size)


def _batch_checksum(batch: Any) -> int:
    """The checksum of an excerpt of those of its arrays that are on the host."""
    parts = batch if isinstance(batch, tuple | list) else ()
    arrays = [part.data if isinstance(part, Tensor) else part for part in parts]
    return checksum(*(excerpt(array) for array in arrays if isinstance(array, np.ndarray)))


def _expect_alike(ranks: Ranks, loader: Any, values: Mapping[str, Any]) -> None:
    """Raise RuntimeError, on all ranks, unless a loader gives all of them the same whole batches."""
    for what, value in values.items():
        expect_alike(
            ranks, f"Trainer: the {what} of a {type(loader).__name__}", value,
            "all ranks must be given the same samples in the same order, of which each takes its share",
        )  # fmt: skip


def set_epoch(loader: Loader | None, epoch: int) -> None:
    """Tell a loader that counts epochs which one comes next."""
    if loader is not None and hasattr(loader, "epoch"):
        loader.epoch = epoch
