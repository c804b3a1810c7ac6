"""Batches of a data set on a CUDA device."""

from math import prod

import numpy as np

from gpunet.augmentation import BORDERS, FLIPS, Augmentation
from gpunet.backends.contract import Array, BatchRequest, Gathered, Samples
from gpunet.backends.cuda.device import MAX_BLOCKS, THREADS, CudaDevice
from gpunet.cuda.naming import ELEMENTS, instance
from gpunet.nvrtc.source import constant

MAX_CHANNELS = constant("gather_augment.cu", "MAX_CHANNELS")
"""Most channels of images that are normalised."""
SHARE = 16 * THREADS
"""Elements of an image that one block takes; larger images have several blocks."""


class CudaAugment(CudaDevice):
    """Primitives of kernels/gather_augment.cu."""

    def gather_augment(self, samples: Samples, batch: BatchRequest, out: Gathered | None = None) -> Gathered:
        rows, h, w, channels = samples.output_shape(batch)
        images, labels, order, augmentation = samples
        if augmentation.mean and channels > MAX_CHANNELS:
            raise ValueError(f"gather_augment: images have {channels} channels; CUDA normalises up to {MAX_CHANNELS}")
        if max(prod(images.shape[1:]), h * w * channels) >= 2**31:
            got = f"{images.shape[1:]} to {h, w, channels}"
            raise ValueError(f"gather_augment: CUDA takes images of fewer than 2^31 elements, got {got}")
        kind = np.dtype((batch.dtype or np.float32) if augmentation.mean else np.uint8)
        if augmentation.mean and kind.name not in ELEMENTS:
            raise TypeError(f"gather_augment: dtype is {kind} but CUDA normalises to {', '.join(ELEMENTS)}")
        out_x, out_y = out or (None, None)
        x = self._out("gather_augment", out_x, (rows, h, w, channels), kind)
        y = None if labels is None else self._out("gather_augment", out_y, (rows,), np.int32)
        if rows:
            clock = batch.clock
            request = {
                "rows": rows, "positions": order.shape[0], "start": batch.start, "seed": batch.seed, "epoch": batch.epoch,
                "steps": clock.steps if clock else 1, "stride": clock.stride if clock else 0,
            }  # fmt: skip
            grid = min(rows, MAX_BLOCKS), min(-(-h * w * channels // SHARE), 65535)
            kernel, fields = instance("gather_augment", ELEMENTS.get(kind.name, "uint8")), _fields(augmentation, images)
            args = images, labels, order, x, y, clock and clock.counters, request, fields
            self.launcher.launch(kernel, grid, THREADS, args)
        return x, y


def _fields(a: Augmentation, images: Array) -> dict[str, object]:
    """The fields of the kernel's struct Augmentation, for images (M, H, W, C)."""
    _, height, width, channels = images.shape
    h, w, _ = a.output_shape("gather_augment", images.shape[1:])
    scale, shift = a.factors(channels, 255.0) if a.mean else ((), ())
    return {
        "height": height, "width": width, "channels": channels, "h": h, "w": w, "padding": a.padding,
        "border": BORDERS.index(a.border), "random_crop": int(a.random_crop), "flip": FLIPS.index(a.flip),
        "vertical": int(a.vertical), "cutout": a.cutout, "cutout_last": int(a.cutout_last), "scale": scale, "shift": shift,
    }  # fmt: skip
