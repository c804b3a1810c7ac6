"""The contract of batches of a data set: gathered, augmented and normalised in one pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from gpunet.augmentation import Augmentation
from gpunet.backends.contract.arrays import Array

__all__ = ["BatchRequest", "Clock", "Gathered", "Samples"]

Gathered = tuple[Array, Array | None]
"""(x, y): the images of a batch (rows, h, w, C), and their labels int32 (rows,), None where there
are no labels."""


class Clock(NamedTuple):
    """Counters on the device that tell a launch, which is recorded only once, which batch to make.

    The batch is number ``counters[0] % steps`` of epoch ``counters[1]``, and begins `stride`
    samples after the one before it.
    """

    counters: Any
    """uint64 (2,), (step, epoch), an array of the backend."""
    steps: int
    """Batches of an epoch."""
    stride: int
    """Samples from the beginning of one batch to the beginning of the next."""


class BatchRequest(NamedTuple):
    """Which batch of an epoch to make, from which random numbers, and in which dtype."""

    seed: int
    epoch: int = 0
    start: int = 0
    """The batch is ``order[start : start + rows]``."""
    rows: int | None = None
    """Samples of the batch; None for all from `start` to the end of the order."""
    clock: Clock | None = None
    """Takes the place of `epoch` and `start`, and is read when the kernel runs. A batch that then
    reaches beyond the end of the order repeats the last position."""
    dtype: Any = None
    """Dtype of normalised images: float32 if None, or another one of the backend, to which they are
    rounded."""


class Samples(NamedTuple):
    """A data set on the backend, the order in which it is taken, and what is done to each image."""

    images: Array
    """uint8 (M, H, W, C)."""
    labels: Array | None
    """int32 (M,)."""
    order: Array
    """int32, positions in the data set; the backend does not check that they are from 0 to
    M - 1."""
    augmentation: Augmentation

    def output_shape(self, batch: BatchRequest) -> tuple[int, int, int, int]:
        """(rows, h, w, C) of the images of a batch.

        Raises:
            TypeError: an array of another dtype or number of axes.
            ValueError: labels of another length, a batch beyond the end of the order, a clock that
                counts no steps, or images that the augmentation does not fit.
        """
        clock, length = batch.clock, self.order.shape[0]
        for argument, array, dtype, axes in (
            ("images", self.images, "uint8", 4), ("labels", self.labels, "int32", 1), ("order", self.order, "int32", 1),
            ("clock", clock and clock.counters, "uint64", 1),
        ):  # fmt: skip
            if array is not None and (array.dtype != dtype or array.ndim != axes):
                got = f"{array.dtype} of shape {tuple(array.shape)}"
                raise TypeError(f"gather_augment: {argument} must be {dtype} on {axes} axes, got {got}")
        count = self.images.shape[0]
        if self.labels is not None and self.labels.shape[0] != count:
            raise ValueError(f"gather_augment: labels must be {count}, one for each image, got {self.labels.shape[0]}")
        if clock is not None and (clock.counters.shape != (2,) or clock.steps < 1 or clock.stride < 0):
            takes = "(2,) counters, at least 1 step and a stride of at least 0"
            got = f"{tuple(clock.counters.shape)}, {clock.steps} and {clock.stride}"
            raise ValueError(f"gather_augment: a clock takes {takes}, got {got}")
        rows = length - batch.start if batch.rows is None else batch.rows
        if clock is None:
            start, least = batch.start, rows
        else:  # the last batch of an epoch need only begin within the order
            start, least = (clock.steps - 1) * clock.stride, 1
        if start < 0 or rows < 0 or start + least > length:
            raise ValueError(f"gather_augment: order has {length} positions but {least} from {start} on are asked for")
        return rows, *self.augmentation.output_shape("gather_augment", self.images.shape[1:])


class AugmentPrimitives(ABC):
    """Batches of a data set, augmented."""

    @abstractmethod
    def gather_augment(self, samples: Samples, batch: BatchRequest, out: Gathered | None = None) -> Gathered:
        """(x, y): a batch of a data set, augmented as `Augmentation` says, and its labels.

        Args:
            samples: the data set. What is done to an image is drawn from (seed, epoch, position in
                the data set).
            batch: which of the samples, and where their random numbers come from.
            out: where to write x and y; new arrays if None.
        Returns:
            x is of `BatchRequest.dtype` if the augmentation normalises, else uint8.
        """
