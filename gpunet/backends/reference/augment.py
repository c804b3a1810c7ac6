"""Batches of a data set of `ReferenceBackend`: one image, and one step, after another."""

import numpy as np

from gpunet.augmentation import Augmentation
from gpunet.backends.contract import Array, BatchRequest, Gathered, Samples
from gpunet.backends.host.arrays import HostArrays, deliver


class ReferenceAugment(HostArrays):
    """Batches of a data set, augmented."""

    def gather_augment(self, samples: Samples, batch: BatchRequest, out: Gathered | None = None) -> Gathered:
        rows, *shape = samples.output_shape(batch)
        start, epoch, last = batch.start, batch.epoch, len(samples.order) - 1
        if batch.clock is not None:
            step, epoch = (int(counter) for counter in batch.clock.counters)
            start = step % batch.clock.steps * batch.clock.stride
        normalises = bool(samples.augmentation.mean)
        x = np.zeros((rows, *shape), np.float32 if normalises else np.uint8)
        positions = [int(samples.order[min(start + n, last)]) for n in range(rows)]
        for n, position in enumerate(positions):
            x[n] = _augmented(samples.images[position], position, samples.augmentation, seed=batch.seed, epoch=epoch)
        if normalises:
            x = self.cast(x, batch.dtype or np.float32)
        out_x, out_y = out or (None, None)
        y = None if samples.labels is None else deliver(samples.labels[positions], out_y, accumulate=False)
        return deliver(x, out_x, accumulate=False), y


def _augmented(image: Array, position: int, a: Augmentation, *, seed: int, epoch: int) -> Array:
    """One image (H, W, C), padded, cropped, mirrored, cut out and normalised -> (h, w, C)."""
    h, w, channels = a.output_shape("gather_augment", image.shape)
    chosen = a.choices(np.array([position]), image.shape, seed=seed, epoch=epoch)
    top, left, mirrored, upended, hole_row, hole_column = (choice[0] for choice in chosen)
    around = ((a.padding, a.padding), (a.padding, a.padding), (0, 0))
    y = np.pad(image, around, mode="reflect") if a.border == "reflect" else np.pad(image, around)
    y = y[top : top + h, left : left + w].copy()
    if mirrored:
        y = y[:, ::-1].copy()
    if upended:
        y = y[::-1].copy()
    rows, columns = (slice(max(first, 0), max(first + a.cutout, 0)) for first in (int(hole_row), int(hole_column)))
    if not a.cutout_last:
        y[rows, columns] = 0
    if a.mean:
        scale, shift = a.factors(channels, 255.0)
        y = np.float32(y) * scale + shift
    if a.cutout_last:
        y[rows, columns] = 0
    return y
