"""Batches of a data set in an order that only seed and epoch decide, made ahead by a thread."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from gpunet import random
from gpunet.autograd import Tensor
from gpunet.data.datasets import Dataset, samples_checksum
from gpunet.data.sampling import BatchOrder, Sampler, shuffle_stream
from gpunet.data.transforms import Batch, Transform, flattened
from gpunet.distributed.share import Share, share_of, taken
from gpunet.dlpack import HOST_MEMORY, device_of
from gpunet.geometry import checked_int

__all__ = ["DataLoader"]

T = TypeVar("T")


class DataLoader(BatchOrder):
    """Iterates over a data set in batches: tuples of host arrays with `batch_size` rows each.

    Each iteration is one epoch; its last batch may have fewer rows. The shuffled order of epoch e
    is ``random.permutation(stream, n)`` with the stream ``Stream(seed, PURPOSES["shuffle"],
    epoch=e)``. ``iter(loader)`` reads epoch and seed, and adds 1 to `epoch`. So an iteration that
    ends early, by ``break`` or by an error, counts as an epoch, and the next one has another order.
    Set `epoch` between iterations to repeat an epoch. For images that fit into a GPU's memory,
    `DeviceLoader` makes the same batches on the GPU.

    Args:
        dataset: has a length, and gives a tuple of arrays for int64 indices (B,).
        batch_size: samples per batch.
        shuffle: whether each epoch has an order of its own; if not, samples come in the data set's
            order.
        drop_last: whether to leave out a last batch that has fewer samples.
        transform: called with each batch, see `transforms.Transform`.
        seed: decides orders and augmentation; the seed that `gpunet.seed` last set if None.
        sampler: decides which samples an epoch takes and in which order, such as
            `WeightedRandomSampler`; `shuffle` must then be False.
        prefetch: how many batches a background thread makes ahead; with 0, each batch is made when
            asked for, without a thread. The batches are the same. A transform that makes arrays on
            a GPU needs 0: the thread has a CUDA stream of its own, and nothing would keep the
            consumer's stream from reading the arrays too early, or their memory from being reused.
    Attributes:
        first_batch: how many batches the next iteration leaves out at its start, to go on within an
            epoch; 0 again after it.
    Raises:
        ValueError: an argument out of range, an empty data set, or one smaller than a batch with
            `drop_last`; while iterating, a data set or a transform that does not give one row for
            each index.
        TypeError: an argument of the wrong kind; while iterating with `prefetch`, arrays on a
            device.
    Errors of the data set or the transform come out of the iteration with their own traceback.
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
        self.first_batch = 0
        self._compared: tuple[int, np.ndarray] | None = None
        super().__init__(len(dataset), batch_size, shuffle, drop_last, seed, sampler)

    def order(self, epoch: int | None = None) -> np.ndarray:
        """The indices of one epoch, (n,) int64, in the order they are taken.

        Args:
            epoch: the next epoch if None.
        """
        return self._order(self.epoch if epoch is None else epoch, self._seed())

    def __iter__(self) -> Iterator[Batch]:
        return self._made(self._batch)

    def fingerprint(self) -> dict[str, int]:
        """What tells the next epoch from others, by name: several ranks compare it before they take shares.

        No sample is read: of a data set without `labels`, only the samples of an `ArrayDataset` are told apart.
        """
        order = self.order()
        self._compared = self.epoch, order  # which a sampler need not make again
        return self._fingerprint(order, samples_checksum(self.dataset, order))

    def shares(self, rank: int, size: int) -> Iterator[Share]:
        """The shares that one of `size` ranks takes of the batches of the next epoch.

        Only these rows are read from the data set and transformed, unless a transform has an
        attribute `mixes_rows`: that gets the whole batch.
        """
        mixes = any(getattr(transform, "mixes_rows", False) for transform in flattened(self.transform))

        def make(indices: np.ndarray, epoch: int, seed: int) -> Share:
            if mixes:
                return share_of(self._batch(indices, epoch, seed), rank, size)
            rows, first, count = taken(len(indices), rank, size)
            return Share(self._batch(indices[rows], epoch, seed), first, count, len(indices))

        return self._made(make)

    def _order(self, epoch: int, seed: int) -> np.ndarray:
        compared, self._compared = self._compared, None
        if compared is not None and compared[0] == epoch:
            return compared[1]
        if self.sampler is not None:
            return self._sampled(self.sampler, seed, epoch)
        if not self.shuffle:
            return np.arange(self.samples)
        return random.permutation(shuffle_stream(seed, epoch), self.samples)

    def _made(self, make: Callable[[np.ndarray, int, int], T]) -> Iterator[T]:
        """What `make` makes of the indices of each batch, the epoch and the seed."""
        first, self.first_batch = self.first_batch, 0
        return self._epoch_of(make, *self._begin(), first)

    def _epoch_of(self, make: Callable[[np.ndarray, int, int], T], epoch: int, seed: int, first: int) -> Iterator[T]:
        order, count, size = self._order(epoch, seed), len(self), self.batch_size
        pieces = (order[i * size : (i + 1) * size] for i in range(first, count))
        made = (make(indices, epoch, seed) for indices in pieces)
        yield from _ahead(made, self.prefetch) if self.prefetch else made

    def _batch(self, indices: np.ndarray, epoch: int, seed: int) -> Batch:
        batch = self.dataset[indices]
        _check_rows("dataset", batch, len(indices))
        if self.transform is not None:
            batch = self.transform(batch, indices=indices, epoch=epoch, seed=seed)
            _check_rows("transform", batch, len(indices))
        return _check_on_host(batch) if self.prefetch else batch


def _ahead(batches: Iterator[T], depth: int) -> Iterator[T]:
    """The same batches, up to `depth` of them made ahead by a thread.

    The thread ends before the generator does. It holds no reference to the generator. So a
    generator that the consumer drops is closed, and its `finally` block ends the thread.
    """
    ready: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
    # A queue, since Ctrl-C inside a Semaphore or an Event can leave its lock taken for good.
    room: SimpleQueue[None] = SimpleQueue()
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
        error = None  # whose traceback refers to this frame
        stopped = True
        room.put(None)
        # The garbage collector may run this in any thread, and also at the interpreter's exit, when
        # no other thread runs any more.
        if thread.is_alive() and thread is not threading.current_thread() and not sys.is_finalizing():
            thread.join()


def _check_on_host(batch: Batch) -> Batch:
    """The batch, if its arrays are on the host, so that the thread that made it may hand it over.

    Raises:
        TypeError: an array on a device.
    """
    for i, part in enumerate(batch):
        array = part.data if isinstance(part, Tensor) else part
        if device_of(array)[0] not in HOST_MEMORY:
            raise TypeError(
                f"DataLoader: array {i} of a batch is on a device ({type(array).__name__}), where the thread that makes "
                "batches ahead is not synchronised with the one that uses them: pass prefetch=0, or use a DeviceLoader"
            )
    return batch


def _check_rows(source: str, batch: Any, rows: int) -> None:
    """Raises an error unless the batch is a tuple of arrays with `rows` rows each."""
    if not isinstance(batch, tuple):
        raise TypeError(f"DataLoader: {source} must give a tuple of arrays for an array of indices, got {type(batch)}")
    shapes = [getattr(part, "shape", None) for part in batch]  # np.shape fails on a device's array
    shapes = [np.shape(part) if shape is None else shape for part, shape in zip(batch, shapes, strict=True)]
    lengths = [shape[0] if shape else "no axis" for shape in shapes]
    if any(length != rows for length in lengths):
        got = ", ".join(map(str, lengths))
        raise ValueError(f"DataLoader: {source} must give arrays of {rows} rows for {rows} indices, got {got}")
