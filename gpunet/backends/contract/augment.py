"""The contract of batches of a data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from gpunet.augmentation import Augmentation
from gpunet.backends.contract.arrays import Array


class Clock(NamedTuple):
    """Where launches that are recorded once and replayed often find their place: the batch is number
    ``counters[0] % steps`` of epoch ``counters[1]``, and begins `stride` samples after the one before it."""

    counters: Any
    """uint64 (2,), (step, epoch), an array of the backend."""
    steps: int
    """Batches of an epoch."""
    stride: int
    """Samples from one batch's beginning to the next one's."""


def check_gather(
    images: Any, labels: Any, order: Any, augmentation: Augmentation, start: int, rows: int, clock: Clock | None
) -> tuple[int, int, int]:
    """(h, w, C) of the gathered images; ValueError or TypeError where the arguments of `gather_augment` do not fit."""
    name = "gather_augment"
    for argument, array, dtype, axes in (
        ("images", images, "uint8", 4), ("labels", labels, "int32", 1), ("order", order, "int32", 1),
        ("clock", clock and clock.counters, "uint64", 1),
    ):  # fmt: skip
        if array is not None and (array.dtype != dtype or array.ndim != axes):
            raise TypeError(
                f"{name}: {argument} must be {dtype} on {axes} axes, got {array.dtype} of shape {tuple(array.shape)}"
            )
    if labels is not None and len(labels.shape) and labels.shape[0] != images.shape[0]:
        raise ValueError(f"{name}: labels must be {images.shape[0]}, one an image, got {labels.shape[0]}")
    if clock is not None and (clock.counters.shape != (2,) or clock.steps < 1 or clock.stride < 0):
        raise ValueError(
            f"{name}: a clock takes (2,) counters, at least 1 step and a stride, got "
            f"{tuple(clock.counters.shape)}, {clock.steps} and {clock.stride}"
        )
    if clock is not None:  # beyond the end, the last position is repeated
        start, least = (clock.steps - 1) * clock.stride, 1
    else:
        least = rows
    if start < 0 or rows < 0 or start + least > order.shape[0]:
        raise ValueError(f"{name}: order has {order.shape[0]} positions but {least} from {start} on are asked for")
    return augmentation.output_shape(name, images.shape[1:])


class AugmentPrimitives(ABC):
    """Batches of a data set, augmented."""

    @abstractmethod
    def gather_augment(
        self,
        images: Array,
        labels: Array | None,
        order: Array,
        augmentation: Augmentation,
        *,
        seed: int,
        epoch: int = 0,
        start: int = 0,
        rows: int | None = None,
        clock: Clock | None = None,
        dtype: Any = None,
        out: tuple[Array, Array | None] | None = None,
    ) -> tuple[Array, Array | None]:
        """(x, y): a batch of a data set, augmented, and its labels.

        Args:
            images, labels: the whole data set, uint8 (M, H, W, C) and int32 (M,).
            order: int32, positions in the data set, not checked to be from 0 to M - 1.
            augmentation: what is done to each image, drawn from (seed, epoch, position).
            start, rows: the batch is ``order[start : start + rows]``; to the end of the order if `rows` is None.
            clock: takes the place of `epoch` and `start`, read when the kernel runs; a batch that then reaches beyond the
                end of the order repeats the last position.
            dtype: of normalised images: float32, or one of the backend's to which they are rounded.
            out: where to write x and y.
        Returns:
            x (rows, h, w, C), of `dtype` if it is normalised, else uint8; y int32 (rows,), None without labels.
        """
