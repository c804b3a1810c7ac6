"""Batches of a data set that lives on the device: one upload, then kernel launches only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpunet.autograd import Tensor
from gpunet.backends import get_backend
from gpunet.backends.contract import Array, Backend, BatchRequest, Clock, Samples
from gpunet.data.datasets import Dataset, check_labels
from gpunet.data.sampling import BatchOrder, Sampler, shuffle_stream
from gpunet.data.transforms import Transform, compiled, flattened
from gpunet.distributed.ranks import checksum
from gpunet.distributed.share import Share, taken

__all__ = ["DeviceLoader"]


class DeferredBatch:
    """One batch of a `DeviceLoader` that a kernel makes when asked: see
    `train.batches.DeviceBatch`.

    Attributes:
        key: equal for batches that differ only in their place in the order.
    """

    def __init__(self, loader: DeviceLoader, order: Array, start: int, rows: int, epoch: int, seed: int) -> None:
        self._loader = loader
        self._place = {"order": order, "start": start, "rows": rows, "epoch": epoch, "seed": seed}
        self.key = loader, rows, seed

    def make(self, clock: Array | None = None, dtype: Any = None) -> tuple[Any, Array]:
        """Make (x, y), the batch that the loader yields, but with x of `dtype`.

        Args:
            clock: step and epoch on the device, read when the kernel runs; see
                `DeviceLoader.launch`.
            dtype: of normalised images; float32 if None.
        """
        x, y = self._loader.launch(**self._place, clock=clock, dtype=dtype)
        return (Tensor(x, self._loader.backend) if self._loader.augmentation.mean else x), y


class DeviceLoader(BatchOrder):
    """Makes `DataLoader`'s batches where the model is, with the same samples and the same bits.

    Images and labels are uploaded once, when the loader is made; images take one byte per channel
    of a pixel. The order of an epoch is one sort on the device. Each batch is one kernel, which
    gathers, augments and normalises. It works on every backend.

    Args:
        dataset: gives (images, labels) for int64 indices (B,): uint8 (B, H, W, C), and integers
            (B,) from 0 on, below the number of the data set's `classes` if it has them.
        batch_size, shuffle, drop_last, seed, sampler: as for `DataLoader`; a sampler's order is
            drawn on the host and uploaded before each epoch.
        backend: as for `get_backend`; must be the Trainer's.
        transform: a transform of `gpunet.data`, or a `Compose` of several in the order of one pass:
            crop or shift, flips, then Cutout and Normalize. Models need normalised images.
    Yields:
        (x, y). x is a float32 tensor (B, h, w, C), or, without a Normalize, a uint8 array of the
        backend. y holds the labels, an int32 array (B,) of the backend; losses take it without
        reading its values back.
    Attributes:
        images, labels: the whole data set on the backend, uint8 (M, H, W, C) and int32 (M,).
        image_shape: (h, w, C) of the batches' images.
    Raises:
        ValueError: as for `DataLoader`; labels out of range; images that are too small for the
            transform; an order of transforms that needs more than one pass.
        TypeError: images that are not uint8, labels that are not integers, a transform that is not
            from `gpunet.data`.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        backend: str | Backend = "auto",
        shuffle: bool = False,
        drop_last: bool = False,
        transform: Transform | None = None,
        seed: int | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        super().__init__(len(dataset), batch_size, shuffle, drop_last, seed, sampler)
        self.transform, self.backend = transform, get_backend(backend)
        self.augmentation = compiled(flattened(transform), "DeviceLoader")
        images, labels = _checked(dataset)
        self.image_shape = self.augmentation.output_shape("DeviceLoader", images.shape[1:])
        self.images, self.labels = self.backend.asarray(images), self.backend.asarray(labels)
        self._positions: Array | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The state for copies and pickles, with the data set on the host."""
        host = self.backend.to_numpy
        return {**vars(self), "images": host(self.images), "labels": host(self.labels), "_positions": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.images, self.labels = self.backend.asarray(self.images), self.backend.asarray(self.labels)

    def order(self, epoch: int | None = None, *, out: Array | None = None) -> Array:
        """The positions of one epoch, in the order they are taken: int32 (M,) on the backend.

        M is the number of samples, or the number that a sampler takes.

        Args:
            epoch: the next epoch if None.
            out: array to write the positions to, such as the one that a captured step reads.
        """
        return self._order(self.epoch if epoch is None else epoch, self._seed(), out)

    def launch(
        self,
        order: Array,
        start: int = 0,
        *,
        rows: int | None = None,
        epoch: int | None = None,
        seed: int | None = None,
        clock: Array | None = None,
        dtype: Any = None,
        out: tuple[Array, Array] | None = None,
    ) -> tuple[Array, Array]:
        """Make one batch with one kernel and do nothing else, as a captured step needs it.

        Args:
            order: int32 positions on the backend, as `order` gives them.
            start: where the batch begins in the order.
            rows: samples of the batch; if None, `batch_size` or as many as are left of the order.
            epoch, seed: whose augmentation to apply; those of the next epoch if None.
            clock: uint64 (2,) on the backend, (step, epoch), read when the kernel runs, instead of
                `start` and `epoch`. The batch then begins at ``clock[0] % len(loader) *
                batch_size`` and has `batch_size` rows unless `rows` says otherwise. A batch that
                reaches beyond the end of the order repeats the last position.
            dtype: of normalised images: float32 or, on CUDA, a 16-bit dtype.
            out: arrays to write x and y to.
        Returns:
            Arrays x (rows, h, w, C), of `dtype` if normalised and else uint8, and y (rows,), int32.
        """
        if rows is None:
            rows = self.batch_size if clock is not None else min(self.batch_size, order.shape[0] - start)
        seed = self._seed() if seed is None else seed
        epoch = self.epoch if epoch is None else epoch
        samples = Samples(self.images, self.labels, order, self.augmentation)
        counted = None if clock is None else Clock(clock, len(self), self.batch_size)
        x, y = self.backend.gather_augment(samples, BatchRequest(seed, epoch, start, rows, counted, dtype), out)
        return x, y

    def __iter__(self) -> Iterator[tuple[Any, Array]]:
        return (batch.make() for batch in self._batches(None))

    def deferred(self) -> Iterator[DeferredBatch]:
        """The batches of the next epoch before they are made.

        The Trainer makes them inside a captured step. All of them read one array of positions,
        which the next epoch overwrites.
        """
        if self._positions is None:
            self._positions = self.backend.empty((self.samples,), np.int32)
        return self._batches(self._positions)

    def shares(self, rank: int, size: int) -> Iterator[Share]:
        """The shares that one of `size` ranks takes of the batches of the next epoch, not yet made."""
        epoch, seed = self._begin()
        order = self._order(epoch, seed)
        for start in self._starts():
            rows, first, count = taken(total := self._rows_from(start), rank, size)
            batch = DeferredBatch(self, order, start + first, rows.stop - rows.start, epoch, seed)
            yield Share(batch, first, count, total)

    def fingerprint(self) -> dict[str, int]:
        """See `DataLoader.fingerprint`."""
        order, labels = map(self.backend.to_numpy, (self.order(), self.labels))
        return self._fingerprint(order, checksum(labels[order]))

    def _batches(self, positions: Array | None) -> Iterator[DeferredBatch]:
        epoch, seed = self._begin()
        order = self._order(epoch, seed, positions)
        return (DeferredBatch(self, order, i, self._rows_from(i), epoch, seed) for i in self._starts())

    def _starts(self) -> range:
        """Where the batches begin in the order."""
        return range(0, len(self) * self.batch_size, self.batch_size)

    def _rows_from(self, start: int) -> int:
        return min(self.batch_size, self.samples - start)

    def _order(self, epoch: int, seed: int, out: Array | None = None) -> Array:
        if self.shuffle:
            return self.backend.permutation(shuffle_stream(seed, epoch), self.samples, out=out)
        drawn = np.arange(self.samples) if self.sampler is None else self._sampled(self.sampler, seed, epoch)
        order = self.backend.asarray(drawn.astype(np.int32))
        return order if out is None else self.backend.copy(order, out=out)


def _checked(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The images, uint8 (M, H, W, C), and labels, int32 (M,), of a whole data set."""
    whole = dataset[np.arange(len(dataset))]
    if not isinstance(whole, tuple) or len(whole) != 2:
        got = f"{len(whole)} arrays" if isinstance(whole, tuple) else type(whole).__name__
        raise TypeError(f"DeviceLoader: dataset must give (images, labels), got {got}")
    x, y = whole
    if x.dtype != np.uint8 or x.ndim != 4:
        raise TypeError(f"DeviceLoader: images must be uint8 (M, H, W, C), got {x.dtype} {x.shape}; use a DataLoader")
    if y.dtype.kind not in "iu" or y.shape != (len(x),):
        raise TypeError(f"DeviceLoader: labels must be integers ({len(x)},), got {y.dtype} {y.shape}; use a DataLoader")
    names = getattr(dataset, "classes", None)
    check_labels("DeviceLoader", y, 2**31 if names is None else len(names))
    return x, y.astype(np.int32)
