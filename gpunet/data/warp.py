"""Transforms that move pixels to places between pixels: rotation, scaling, shear, resized crops.

Each image has a matrix A (2, 3) that says where its new pixels come from: ``(row, column) = A (i,
j, 1)``, in pixels counted from the centre of the first pixel. The parameters are drawn from later
blocks of the streams that `gpunet.augmentation` draws from, so they depend only on seed, epoch and
index. These transforms run on the host, in the loop of `gpunet.backends.numpy.compiled` where it can be
had, with the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from gpunet.backends.numpy.compiled.warp import BORDERS
from gpunet.backends.numpy.compiled.warp import warp as warp_in_loop
from gpunet.data.transforms import Batch, check_border, check_pixels, uniform

__all__ = ["RandomAffine", "RandomResizedCrop"]


class Warp:
    """A transform given by one matrix for each image; for masks and boxes, see `Joint`."""

    border: str

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the result, for images of the given height and width."""
        return height, width

    def matrices(self, height: int, width: int, indices: np.ndarray, epoch: int, seed: int) -> np.ndarray:
        """Where the new pixels come from, float64 (N, 2, 3)."""
        raise NotImplementedError

    def __call__(self, batch: Batch, *, indices: np.ndarray, epoch: int, seed: int) -> Batch:
        """The batch with its images, uint8 or float (N, H, W, C), warped; of the same dtype."""
        return self.move(batch[0], indices, epoch, seed), *batch[1:]

    def move(
        self, images: np.ndarray, indices: np.ndarray, epoch: int, seed: int, *, nearest: bool = False
    ) -> np.ndarray:
        """Warp images (N, H, W, C).

        Args:
            nearest: whether to take the nearest pixel, as masks need it, instead of interpolating.
        """
        if not nearest:
            check_pixels(type(self).__name__, images)
        height, width = images.shape[1:3]
        made = self.matrices(height, width, indices, epoch, seed)
        return warp(images, made, self.output_size(height, width), border=self.border, nearest=nearest)


@dataclass(frozen=True)
class RandomAffine(Warp):
    """Rotates, scales, shears and moves images about their centre by uniformly drawn amounts.

    Attributes:
        degrees: largest angle of rotation, either way, in degrees.
        translate: largest shift, in each of the four directions, as a share of the image's height
            or width.
        scale: (smallest, largest) factor.
        shear: largest angle, either way, by which the sides lean when rows are moved sideways, in
            degrees.
        border: the pixels that enter: "zero", "reflect" (without the outermost pixels) or "edge"
            (the nearest pixel).
    """

    degrees: float = 0.0
    translate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    border: str = "zero"
    STREAM_BLOCK: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_border("RandomAffine", self.border, BORDERS)
        _check_range("RandomAffine", "scale", self.scale)
        if min(self.degrees, self.translate, self.shear) < 0 or self.shear >= 90:
            raise ValueError(f"RandomAffine: degrees, translate, shear must be at least 0, shear below 90, got {self}")

    def matrices(self, height: int, width: int, indices: np.ndarray, epoch: int, seed: int) -> np.ndarray:
        """See `Warp.matrices`."""
        angle, size, lean, _ = uniform(indices, epoch, seed, self.STREAM_BLOCK)
        down, right, *_ = uniform(indices, epoch, seed, self.STREAM_BLOCK + 1)
        angle, lean = np.deg2rad(self.degrees) * (2 * angle - 1), np.tan(np.deg2rad(self.shear) * (2 * lean - 1))
        size = self.scale[0] + (self.scale[1] - self.scale[0]) * size
        moved = np.stack([height * (2 * down - 1), width * (2 * right - 1)], axis=1) * self.translate
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        forward = np.einsum("ikn,kjn,n->nij", turn, np.array([[1 + 0 * lean, 0 * lean], [lean, 1 + 0 * lean]]), size)
        back = np.linalg.inv(forward)
        centre = np.array([(height - 1) / 2, (width - 1) / 2])
        return np.concatenate([back, (centre - np.einsum("nij,nj->ni", back, centre + moved))[..., None]], axis=2)


@dataclass(frozen=True)
class RandomResizedCrop(Warp):
    """Cuts a part of random area and aspect ratio out of each image and resizes it.

    Szegedy et al. 2015, "Going deeper with convolutions", section 6.

    Attributes:
        size: (height, width) of the result, in pixels.
        scale: (smallest, largest) share of the image's area.
        ratio: (smallest, largest) width over height of the part; its logarithm is drawn uniformly.
            The part is cut off at the image's height and width.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    border: str = field(default="edge", init=False)  # a place is outside by half a pixel at most
    STREAM_BLOCK: ClassVar[int] = 3

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"RandomResizedCrop: size must be (height, width) of at least 1, got {self.size}")
        _check_range("RandomResizedCrop", "scale", self.scale)
        _check_range("RandomResizedCrop", "ratio", self.ratio)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """See `Warp.output_size`."""
        return self.size

    def matrices(self, height: int, width: int, indices: np.ndarray, epoch: int, seed: int) -> np.ndarray:
        """See `Warp.matrices`."""
        area, aspect, row, column = uniform(indices, epoch, seed, self.STREAM_BLOCK)
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * area)
        low, high = np.log(self.ratio)
        root = np.exp((low + (high - low) * aspect) / 2)
        made = np.zeros((len(indices), 2, 3))
        parts = (height, area**0.5 / root, row), (width, area**0.5 * root, column)
        for axis, ((whole, part, place), extent) in enumerate(zip(parts, self.size, strict=True)):
            part = np.minimum(part, whole)
            step = part / extent
            made[:, axis, axis], made[:, axis, 2] = step, place * (whole - part) + (step - 1) / 2
        return made


def warp(
    images: np.ndarray, matrices: np.ndarray, size: tuple[int, int], *, border: str, nearest: bool = False
) -> np.ndarray:
    """Sample images (N, H, W, C) at the places that matrices give -> (N, h, w, C), same dtype.

    Sampling is bilinear; uint8 results are rounded to the nearest integer, halves to the even one.

    Args:
        matrices: (N, 2, 3), where the new pixels come from.
        size: (h, w).
        border: what lies outside the image, one of `BORDERS`.
        nearest: whether to take the nearest pixel instead, for arrays of any dtype.
    Raises:
        ValueError: another number of matrices than of images.
    """
    if matrices.shape != (len(images), 2, 3):
        raise ValueError(f"warp: matrices have shape {matrices.shape} but must be {(len(images), 2, 3)}")
    warped = None if nearest else warp_in_loop(images, matrices, size, border)
    if warped is not None:
        return warped
    i, j = np.indices(size)
    by_row, by_column, start = (matrices[:, :, k].T[..., None, None] for k in range(3))
    at = by_row * i + by_column * j + start
    if nearest:
        row, column = np.floor(at + 0.5).astype(np.int64)
        return _pixels(images, row, column, border)
    first = np.floor(at)
    (rest_i, rest_j), (row, column) = at - first, first.astype(np.int64)
    y = np.zeros((*at.shape[1:], images.shape[3]))
    for below, share_i in ((0, 1 - rest_i), (1, rest_i)):
        for right, share_j in ((0, 1 - rest_j), (1, rest_j)):
            y += (share_i * share_j)[..., None] * _pixels(images, row + below, column + right, border)
    return (np.rint(y) if images.dtype == np.uint8 else y).astype(images.dtype)


def _pixels(images: np.ndarray, rows: np.ndarray, columns: np.ndarray, border: str) -> np.ndarray:
    """images[n, rows[n], columns[n]], also for positions outside the image."""
    extents = images.shape[1:3]
    inside = [(at >= 0) & (at < n) for at, n in zip((rows, columns), extents, strict=True)]
    row, column = (_folded(at, n, border) for at, n in zip((rows, columns), extents, strict=True))
    y = images[np.arange(len(images))[:, None, None], row, column]
    return np.where((inside[0] & inside[1])[..., None], y, images.dtype.type(0)) if border == "zero" else y


def _folded(at: np.ndarray, extent: int, border: str) -> np.ndarray:
    """Positions brought into 0 to extent - 1, by reflection or by clipping."""
    if border != "reflect" or extent == 1:
        return at.clip(0, extent - 1)
    folded = at % (2 * extent - 2)
    return np.minimum(folded, 2 * extent - 2 - folded)


def _check_range(name: str, argument: str, limits: Sequence[float]) -> None:
    if len(limits) != 2 or not 0 < limits[0] <= limits[1] < np.inf:
        raise ValueError(f"{name}: {argument} must be (smallest, largest), both above 0, got {limits}")
