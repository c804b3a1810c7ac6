"""Batches of a data set of `NumpyBackend`, and `augment`, which transforms run on the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.augmentation import Augmentation, Choices
from gpunet.backends.contract import Array, BatchRequest, Gathered, Samples
from gpunet.backends.host.arrays import HostArrays, deliver


class NumpyAugment(HostArrays):
    """Batches of a data set, augmented."""

    def gather_augment(self, samples: Samples, batch: BatchRequest, out: Gathered | None = None) -> Gathered:
        rows, *_ = samples.output_shape(batch)
        labels, order = samples.labels, samples.order
        start, epoch = batch.start, batch.epoch
        if batch.clock is not None:
            step, epoch = (int(counter) for counter in batch.clock.counters)
            start = step % batch.clock.steps * batch.clock.stride
        index = order[np.minimum(np.arange(start, start + rows), len(order) - 1)]
        x = self._gathered(samples, index, seed=batch.seed, epoch=epoch, dtype=batch.dtype or np.float32)
        out_x, out_y = out or (None, None)
        y = None if labels is None else deliver(labels[index], out_y, accumulate=False)
        return deliver(x, out_x, accumulate=False), y

    def _gathered(self, samples: Samples, index: Array, *, seed: int, epoch: int, dtype: Any) -> Array:
        """The images at positions `index` of a data set, augmented; in a dtype if they are normalised."""
        images, _, _, a = samples
        x = augment(images[index], index, a, seed=seed, epoch=epoch, operation="gather_augment")
        return self.cast(x, dtype) if a.mean else x


def augment(
    images: np.ndarray, index: np.ndarray, augmentation: Augmentation, *, seed: int, epoch: int, operation: str
) -> np.ndarray:
    """Augment images (N, H, W, C) from positions `index` (N,) of a data set -> (N, h, w, C), new.

    Args:
        images: any dtype, which is kept; uint8 or a float where the augmentation normalises, which
            returns float32.
        operation: the name that begins the messages of errors.
    """
    a = augmentation
    if images.ndim != 4:
        raise ValueError(f"{operation}: images have shape {images.shape} but take 4 axes (N, H, W, C)")
    if np.shape(index) != (len(images),):
        raise ValueError(f"{operation}: indices must have shape {(len(images),)}, got {np.shape(index)}")
    if a.mean and images.dtype != np.uint8 and images.dtype.kind != "f":
        raise TypeError(f"{operation}: images are {images.dtype} but must be uint8 or float")
    shape = a.output_shape(operation, images.shape[1:])
    if draws_nothing(a):
        return _normalized(images, a) if a.mean else images.copy()
    chosen = a.choices(index, images.shape[1:], seed=seed, epoch=epoch)
    y = images.copy() if a.size is None and not a.padding else _cropped(images, a, chosen, shape)
    for which, axis in ((chosen.mirrored, 2), (chosen.upended, 1)):
        turned = np.flatnonzero(which)
        if turned.size:
            y[turned] = y[turned].take(np.arange(y.shape[axis])[::-1], axis=axis)  # twice as fast as [::-1]
    if a.cutout and not a.cutout_last:
        y[_hole(a, chosen, shape)] = 0
    if a.mean:
        y = _normalized(y, a)
    if a.cutout and a.cutout_last:
        y[_hole(a, chosen, shape)] = 0
    return y


def draws_nothing(a: Augmentation) -> bool:
    """Whether images keep their pixels in their places."""
    return (a.size, a.padding, a.flip, a.vertical, a.cutout) == (None, 0, "none", False, 0)


def _cropped(images: np.ndarray, a: Augmentation, chosen: Choices, shape: tuple[int, int, int]) -> np.ndarray:
    n, height, width, c = images.shape
    (h, w, _), p = shape, a.padding
    padded = images
    if p:
        around = ((0, 0), (p, p), (p, p), (0, 0))
        padded = np.pad(images, around, mode="reflect") if a.border == "reflect" else np.pad(images, around)
    # columns and channels are joined into one axis, so that whole rows of a window are copied
    rows = np.ascontiguousarray(padded).reshape(n, height + 2 * p, (width + 2 * p) * c)
    windows = np.lib.stride_tricks.sliding_window_view(rows, (h, w * c), axis=(1, 2))
    return windows[np.arange(n), chosen.row, chosen.column * c].reshape(n, h, w, c)


def _hole(a: Augmentation, chosen: Choices, shape: tuple[int, int, int]) -> np.ndarray:
    """The pixels that are cut out, bool (N, h, w)."""
    i = np.arange(shape[0]) - chosen.hole_row[:, None]
    j = np.arange(shape[1]) - chosen.hole_column[:, None]
    return ((i >= 0) & (i < a.cutout))[:, :, None] & ((j >= 0) & (j < a.cutout))[:, None, :]


def _normalized(images: np.ndarray, a: Augmentation) -> np.ndarray:
    n, h, w, c = images.shape
    scale, shift = a.factors(c, 255.0 if images.dtype == np.uint8 else 1.0)
    if len(a.mean) > 1:
        # repeated along a row of pixels, since NumPy's loops over the channels of one pixel are slow
        scale, shift = np.tile(scale, w), np.tile(shift, w)
    else:
        scale, shift = scale[:1], shift[:1]
    y = np.multiply(images.reshape(n, h, w * c), scale, dtype=np.float32, casting="same_kind")
    y += shift
    return y.reshape(n, h, w, c)
