"""`Augmentation`: parameters of what is done to images, and the choices drawn for each image.

An image is padded and cropped, mirrored, cut out and normalised, in this order. All choices for an
image in an epoch come from the first Philox block of its stream,
``Stream(seed, PURPOSES["augment"], call=index, epoch=epoch)``: word 0 places the rows of the crop,
word 1 its columns, the two highest bits of word 2 mirror the image, and the halves of word 3 place
the cut-out. They depend on the image's index in its data set, never on its place in a batch. They
are integers computed from integers, so they agree bit for bit here and in
kernels/gather_augment.cu.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpunet import random

BORDERS = ("zero", "reflect")
Draw = Callable[[int, str, np.ndarray, int], np.ndarray]
FLIPS = ("none", "random", "alternate")


class Choices(NamedTuple):
    """The choices that are drawn for each of N images."""

    row: np.ndarray
    column: np.ndarray
    """(N,) int64: where the crop begins in the padded image."""
    mirrored: np.ndarray
    upended: np.ndarray
    """(N,) bool: whether left and right, or top and bottom, are exchanged."""
    hole_row: np.ndarray
    hole_column: np.ndarray
    """(N,) int64: the first pixel of the cut-out in the result, which may lie outside."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Parameters of one pass over images (H, W, C); transforms of `gpunet.data` are made of them.

    Attributes:
        size: extents of the crop; those of the image if None.
        padding: pixels added on each side before the crop.
        border: the values of these pixels: "zero", or "reflect", which mirrors the image at its
            outermost pixels as numpy.pad does.
        random_crop: whether the place of the crop is drawn; otherwise it is the middle.
        flip: which images have left and right exchanged: "none"; "random", a half that is drawn
            anew in each epoch; or "alternate", a half that is drawn once and mirrored in every
            second epoch, the other half in the epochs between.
        vertical: whether top and bottom are exchanged in half of the images, which are drawn.
        cutout: extent of a square that is set to 0, with its centre anywhere in the result (DeVries
            & Taylor 2017).
        cutout_last: whether the square is set to 0 after the normalisation, which makes it the
            mean.
        mean, std: of each channel or of all channels, on the scale 0 to 1: x / 255, or a float x,
            becomes (x - mean) / std in float32. If they are empty, the pixels stay as they are.
    """

    size: tuple[int, int] | None = None
    padding: int = 0
    border: str = "zero"
    random_crop: bool = False
    flip: str = "none"
    vertical: bool = False
    cutout: int = 0
    cutout_last: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def output_shape(self, operation: str, shape: Sequence[int]) -> tuple[int, int, int]:
        """(h, w, C) of the result for images (H, W, C); a ValueError begins with `operation`."""
        height, width, channels = shape
        p = self.padding
        if p and p >= min(height, width):
            raise ValueError(f"{operation}: images of {height}x{width} pixels are too small to move or pad by {p}")
        h, w = self.size or (height, width)
        if h > height + 2 * p or w > width + 2 * p:
            padded = f", padded by {p}," if p else ""
            raise ValueError(f"{operation}: images of {height}x{width} pixels{padded} are too small to crop to {h}x{w}")
        if len(self.mean) > 1 and len(self.mean) != channels:
            raise ValueError(f"{operation}: images have {channels} channels but mean and std have {len(self.mean)}")
        return h, w, channels

    def factors(self, channels: int, unit: float) -> tuple[np.ndarray, np.ndarray]:
        """(scale, shift), float32 (C,): a normalised pixel is pixel * scale + shift in float32.

        Args:
            unit: the pixel value that stands for 1: 255 for uint8, 1 for floats.
        """
        mean, std = np.array(self.mean), np.array(self.std)
        scale, shift = (1 / (unit * std)).astype(np.float32), (-mean / std).astype(np.float32)
        return np.broadcast_to(scale, channels), np.broadcast_to(shift, channels)

    def choices(
        self, index: np.ndarray, shape: Sequence[int], *, seed: int, epoch: int, draw: Draw = random.sample_words
    ) -> Choices:
        """Draw the choices for images (H, W, C) at the positions `index` (N,) of their data set.

        Args:
            draw: gives the words that `gpunet.random.sample_words` does.
        """
        (height, width, _), (h, w, _), n = shape, self.output_shape("choices", shape), len(index)
        words = draw(seed, "augment", index, epoch)
        spare_rows, spare_columns = height + 2 * self.padding - h, width + 2 * self.padding - w
        row, column = np.full(n, spare_rows // 2), np.full(n, spare_columns // 2)
        if self.random_crop:
            row, column = _below(words[0], spare_rows + 1), _below(words[1], spare_columns + 1)
        mirrored = upended = np.zeros(n, bool)
        if self.flip == "random":
            mirrored = words[2] >> np.uint64(63) == 1
        elif self.flip == "alternate":
            mirrored = draw(seed, "augment", index, 0)[2] >> np.uint64(63) != epoch % 2
        if self.vertical:
            upended = words[2] >> np.uint64(62) & np.uint64(1) == 1
        hole_row = _below(words[3], h) - self.cutout // 2
        hole_column = _below(words[3] << np.uint64(32), w) - self.cutout // 2
        return Choices(row, column, mirrored, upended, hole_row, hole_column)


def _below(words: np.ndarray, bound: int) -> np.ndarray:
    """Integers from 0 to bound - 1, from the upper 32 bits of the words."""
    return ((words >> np.uint64(32)) * np.uint64(bound) >> np.uint64(32)).astype(np.int64)
