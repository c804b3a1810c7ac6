"""Batches of a data set, in an order that only the seed and the epoch decide, made ahead by a thread."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import numpy as np

from gpunet import random
from gpunet.autograd import Tensor
from gpunet.data.datasets import Dataset, checked_seed
from gpunet.data.sampling import Sampler
from gpunet.data.transforms import Batch, Transform
from gpunet.geometry import checked_int

HOST_MEMORY = (1, 3)
"""DLPack's kDLCPU, and kDLCUDAHost: page-locked."""


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
        self.batch_size = checked_int(self._name, "batch_size", batch_size, least=1)
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
        self._epoch = checked_int(self._name, "epoch", value, least=0)

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


def shuffle_stream(seed: int, epoch: int) -> random.Stream:
    """The stream whose permutation is the shuffled order of one epoch."""
    return random.Stream(seed, random.PURPOSES["shuffle"], epoch=epoch)


class DataLoader(BatchOrder):
    """Iterates over a data set in batches: tuples of host arrays of `batch_size` rows each, fewer in the last.

    Each iteration is one epoch. The shuffled order of epoch e is ``random.permutation(stream, n)`` with the stream
    ``Stream(seed, PURPOSES["shuffle"], epoch=e)``. Epoch and seed are read when ``iter(loader)`` is called, and `epoch` counts
    on there: an iteration that is left by ``break``, or by an error, counts, and the next has another order. It may be set
    between iterations, to take an epoch again. For images that fit into the memory
    of a GPU, `DeviceLoader` gives the same batches without the host.

    Args:
        dataset: what has a length, and gives a tuple of arrays for int64 indices (B,).
        batch_size: samples a batch.
        shuffle: whether each epoch has an order of its own; if not, the data set's.
        drop_last: whether to leave out a last batch of fewer samples.
        transform: called with each batch, see `transforms.Transform`.
        seed: decides orders and augmentation; what `gpunet.seed` last set if None.
        sampler: decides which samples an epoch takes and in which order, such as `WeightedSampler`; `shuffle` is then False.
        prefetch: how many batches a background thread makes ahead; 0 makes each when it is asked for, without a thread.
            The batches are the same. A transform that makes arrays on a GPU takes 0: the thread has a stream of its own, and
            nothing would keep the consumer's from reading them too early, nor the memory of a read batch from being reused.
    Raises:
        ValueError: an argument out of range, an empty data set, or one smaller than a batch with `drop_last`; while
            iterating, a data set or a transform that does not give a row for each index.
        TypeError: an argument of the wrong kind; while iterating with `prefetch`, arrays on a device.
    What the data set or the transform raises comes out of the iteration, with its own traceback.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        transform: Transform | None = None,
        seed: int | None = None,
        sampler: Sampler | None = None,
        prefetch: int = 2,
    ) -> None:
        if transform is not None and not callable(transform):
            raise TypeError(f"DataLoader: transform must be callable, got {transform!r}")
        self.dataset, self.transform = dataset, transform
        self.prefetch = checked_int(self._name, "prefetch", prefetch, least=0)
        super().__init__(len(dataset), batch_size, shuffle, drop_last, seed, sampler)

    def order(self, epoch: int | None = None) -> np.ndarray:
        """The indices of one epoch, (n,) int64, in the order they are taken; of the next epoch if None."""
        return self._order(self.epoch if epoch is None else epoch, self._seed())

    def __iter__(self) -> Iterator[Batch]:
        return self._epoch_batches(*self._begin())

    def _order(self, epoch: int, seed: int) -> np.ndarray:
        if self.sampler is not None:
            return self._sampled(self.sampler, seed, epoch)
        if not self.shuffle:
            return np.arange(self.samples)
        return random.permutation(shuffle_stream(seed, epoch), self.samples)

    def _epoch_batches(self, epoch: int, seed: int) -> Iterator[Batch]:
        order, count, size = self._order(epoch, seed), len(self), self.batch_size
        pieces = (order[i * size : (i + 1) * size] for i in range(count))
        batches = (self._batch(indices, epoch, seed) for indices in pieces)
        yield from _ahead(map(_check_on_host, batches), self.prefetch) if self.prefetch else batches

    def _batch(self, indices: np.ndarray, epoch: int, seed: int) -> Batch:
        batch = self.dataset[indices]
        _check_rows("dataset", batch, len(indices))
        if self.transform is not None:
            batch = self.transform(batch, indices=indices, epoch=epoch, seed=seed)
            _check_rows("transform", batch, len(indices))
        return batch


def _ahead(batches: Iterator[Batch], depth: int) -> Iterator[Batch]:
    """The same batches, up to `depth` of them made ahead by a thread, which ends before this generator does.

    The thread knows nothing of the generator: when the consumer drops it, it is closed, and `finally` ends the thread.
    """
    ready: SimpleQueue[tuple[Batch | None, BaseException | None]] = SimpleQueue()
    room: SimpleQueue[None] = SimpleQueue()  # Ctrl-C in a Semaphore or an Event can leave its lock taken for good
    for _ in range(depth):
        room.put(None)
    stopped = False

    def work() -> None:
        try:
            while room.get() is None and not stopped:
                batch = next(batches, None)
                ready.put((batch, None))
                if batch is None:
                    return
        except BaseException as error:
            ready.put((None, error))

    thread = threading.Thread(target=work, name="gpunet-prefetch", daemon=True)
    try:
        thread.start()
        while True:
            batch, error = ready.get()
            if error is not None:
                raise error
            if batch is None:
                return
            room.put(None)
            yield batch
    finally:
        error = None  # its traceback holds this frame
        stopped = True
        room.put(None)
        # The garbage collector may run in any thread, and at interpreter exit too, when no other thread runs any more.
        if thread.is_alive() and thread is not threading.current_thread() and not sys.is_finalizing():
            thread.join()


def _check_on_host(batch: Batch) -> Batch:
    """The batch, if the thread that makes it may hand it to another one.

    Raises:
        TypeError: an array on a device.
    """
    for i, part in enumerate(batch):
        array = part.data if isinstance(part, Tensor) else part
        where = getattr(array, "__dlpack_device__", None)
        if where is not None and where()[0] not in HOST_MEMORY:
            raise TypeError(
                f"DataLoader: array {i} of a batch is on a device ({type(array).__name__}), where the thread that makes "
                "batches ahead is not ordered with the one that takes them: pass prefetch=0, or take a DeviceLoader"
            )
    return batch


def _check_rows(source: str, batch: Any, rows: int) -> None:
    if not isinstance(batch, tuple):
        raise TypeError(f"DataLoader: {source} must give a tuple of arrays for an array of indices, got {type(batch)}")
    shapes = [getattr(part, "shape", None) for part in batch]  # which NumPy would not read of a device's array
    shapes = [np.shape(part) if shape is None else shape for part, shape in zip(batch, shapes, strict=True)]
    lengths = [shape[0] if shape else "no axis" for shape in shapes]
    if any(length != rows for length in lengths):
        got = ", ".join(map(str, lengths))
        raise ValueError(f"DataLoader: {source} must give arrays of {rows} rows for {rows} indices, got {got}")
