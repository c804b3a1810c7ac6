"""`gather_augment` on the host, and the check of its arguments on every backend."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpunet.augmentation import Augmentation, Choices


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


def augment(
    images: np.ndarray, index: np.ndarray, augmentation: Augmentation, *, seed: int, epoch: int, operation: str
) -> np.ndarray:
    """Images (N, H, W, C), those at the positions `index` (N,) of their data set, augmented -> (N, h, w, C).

    Args:
        images: of any dtype, which is kept; uint8 or floats where they are normalised, which gives float32.
        operation: whose errors these are.
    Returns:
        New arrays.
    """
    a = augmentation
    if images.ndim != 4:
        raise ValueError(f"{operation}: images have shape {images.shape} but take 4 axes (N, H, W, C)")
    if np.shape(index) != (len(images),):
        raise ValueError(
            f"{operation}: indices must have one entry for each of {len(images)} images, got shape {np.shape(index)}"
        )
    if a.mean and images.dtype != np.uint8 and images.dtype.kind != "f":
        raise TypeError(f"{operation}: images are {images.dtype} but must be uint8 or float")
    shape = a.output_shape(operation, images.shape[1:])
    if (a.size, a.padding, a.flip, a.vertical, a.cutout) == (None, 0, "none", False, 0):  # nothing is drawn
        return _normalized(images, a) if a.mean else images.copy()
    chosen = a.choices(index, images.shape[1:], seed=seed, epoch=epoch)
    y = images.copy() if a.size is None and not a.padding else _cropped(images, a, chosen, shape)
    for which, axis in ((chosen.mirrored, 2), (chosen.upended, 1)):
        turned = np.flatnonzero(which)
        if turned.size:
            y[turned] = y[turned].take(np.arange(y.shape[axis])[::-1], axis=axis)  # twice as fast as a step of -1
    if a.cutout and not a.cutout_last:
        y[_hole(a, chosen, shape)] = 0
    if a.mean:
        y = _normalized(y, a)
    if a.cutout and a.cutout_last:
        y[_hole(a, chosen, shape)] = 0
    return y


def _cropped(images: np.ndarray, a: Augmentation, chosen: Choices, shape: tuple[int, int, int]) -> np.ndarray:
    n, height, width, c = images.shape
    (h, w, _), p = shape, a.padding
    padded = images
    if p:
        around = ((0, 0), (p, p), (p, p), (0, 0))
        padded = np.pad(images, around, mode="reflect") if a.border == "reflect" else np.pad(images, around)
    # one axis of columns and channels, so that a window's rows are copied whole
    rows = np.ascontiguousarray(padded).reshape(n, height + 2 * p, (width + 2 * p) * c)
    windows = np.lib.stride_tricks.sliding_window_view(rows, (h, w * c), axis=(1, 2))
    return windows[np.arange(n), chosen.row, chosen.column * c].reshape(n, h, w, c)


def _hole(a: Augmentation, chosen: Choices, shape: tuple[int, int, int]) -> np.ndarray:
    """Where the images are cut out, bool (N, h, w)."""
    i, j = (
        np.arange(extent) - first[:, None]
        for extent, first in zip(shape, (chosen.hole_row, chosen.hole_column), strict=False)
    )
    return ((i >= 0) & (i < a.cutout))[:, :, None] & ((j >= 0) & (j < a.cutout))[:, None, :]


def _normalized(images: np.ndarray, a: Augmentation) -> np.ndarray:
    n, h, w, c = images.shape
    scale, shift = a.factors(c, 255.0 if images.dtype == np.uint8 else 1.0)
    if len(a.mean) > 1:  # one row of pixels: loops over the few channels of one pixel would be slow
        scale, shift = np.tile(scale, w), np.tile(shift, w)
    else:
        scale, shift = scale[:1], shift[:1]
    y = np.multiply(images.reshape(n, h, w * c), scale, dtype=np.float32, casting="same_kind")
    y += shift
    return y.reshape(n, h, w, c)
