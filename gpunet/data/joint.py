"""`Joint`: transforms that move masks and boxes together with their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpunet.augmentation import Augmentation
from gpunet.backends.numpy.augment import augment
from gpunet.data.colour import ColorJitter, GaussianNoise
from gpunet.data.transforms import Batch, ImageTransform, Transform, compiled, flattened
from gpunet.data.warp import Warp

__all__ = ["Joint"]


@dataclass(frozen=True)
class Joint:
    """Applies transforms to images and to the masks and boxes that belong to them.

    Masks (N, H, W), of any dtype, move as the images' pixels do; each new pixel takes the value of
    the nearest old one, and pixels that enter at a zero border are 0. Boxes (N, K, 4), floats (x0,
    y0, x1, y1) in pixels from the image's upper left corner, become the smallest upright boxes
    around their moved content, clipped at the image. A box that has left the image becomes one
    without area, as rows that stand for no box are. Colours, noise, `Cutout` and `Normalize` change
    neither masks nor boxes.

    Attributes:
        transforms: of `gpunet.data`, applied one after another.
        masks, boxes: positions of the masks and of the boxes in the batch.
    Raises:
        TypeError: a transform of which it is not known where it moves pixels to.
        ValueError: positions that overlap or name the images; when called, masks or boxes whose
            shape does not fit the images.
    """

    transforms: tuple[Transform, ...]
    masks: tuple[int, ...]
    boxes: tuple[int, ...]

    def __init__(self, transforms: Sequence[Transform], masks: Sequence[int] = (), boxes: Sequence[int] = ()) -> None:
        object.__setattr__(self, "transforms", tuple(part for each in transforms for part in flattened(each)))
        object.__setattr__(self, "masks", tuple(masks))
        object.__setattr__(self, "boxes", tuple(boxes))
        for transform in self.transforms:
            if not isinstance(transform, ImageTransform | Warp | ColorJitter | GaussianNoise):
                raise TypeError(
                    f"Joint: takes transforms of gpunet.data, which know where they move pixels, got {transform!r}"
                )
        if 0 in (*self.masks, *self.boxes) or set(self.masks) & set(self.boxes):
            raise ValueError(
                f"Joint: images are array 0, so masks and boxes must be different others, got {self.masks} and {self.boxes}"
            )

    def __call__(self, batch: Batch, *, indices: np.ndarray, epoch: int, seed: int) -> Batch:
        """The batch with its images, masks and boxes moved."""
        arrays = list(batch)
        self._check(arrays)
        for transform in self.transforms:
            before = arrays[0].shape[1:3]
            (arrays[0],) = transform((arrays[0],), indices=indices, epoch=epoch, seed=seed)
            for i in self.masks:
                arrays[i] = _moved_masks(transform, arrays[i], indices, epoch, seed)
            if self.boxes and (made := _matrices(transform, before, indices, epoch, seed)) is not None:
                for i in self.boxes:
                    arrays[i] = move_boxes(arrays[i], made, arrays[0].shape[1:3])
        return tuple(arrays)

    def _check(self, arrays: list[np.ndarray]) -> None:
        for i in (*self.masks, *self.boxes):
            if i >= len(arrays):
                raise ValueError(f"Joint: a batch has {len(arrays)} arrays but array {i} is asked for")
        for i in self.masks:
            if arrays[i].shape != arrays[0].shape[:3]:
                raise ValueError(f"Joint: masks have shape {arrays[i].shape} but the images {arrays[0].shape}")
        for boxes in (arrays[i] for i in self.boxes):
            if boxes.ndim != 3 or boxes.shape[::2] != (len(arrays[0]), 4) or boxes.dtype.kind != "f":
                raise ValueError(f"Joint: boxes take floats ({len(arrays[0])}, K, 4), got {boxes.dtype} {boxes.shape}")
            if not np.isfinite(boxes).all():
                raise ValueError("Joint: boxes must be finite, got NaN or infinity")


def move_boxes(boxes: np.ndarray, matrices: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes (N, K, 4) moved by warps, clipped at images of `size`; of the same dtype.

    A box without area, to which a rotation could give one, becomes (0, 0, 0, 0).

    Args:
        matrices: (N, 2, 3), where the new pixels come from, see `gpunet.data.warp`.
        size: (height, width) of the new images, in pixels.
    """
    real = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    # The corners, counted from the centre of the first pixel.
    columns, rows = boxes[..., [0, 2, 0, 2]] - 0.5, boxes[..., [1, 1, 3, 3]] - 0.5
    away = np.stack([rows, columns], axis=1) - matrices[:, :, 2, None, None]
    i, j = np.einsum("nij,njkc->inkc", np.linalg.inv(matrices[:, :, :2]), away) + 0.5
    ends = [j.min(axis=2), i.min(axis=2), j.max(axis=2), i.max(axis=2)]
    moved = np.stack([end.clip(0, limit) for end, limit in zip(ends, size[::-1] * 2, strict=True)], axis=2)
    return np.where(real[..., None], moved, 0).astype(boxes.dtype)


def _placement(transform: ImageTransform) -> Augmentation:
    """The part of a transform that moves pixels, without cut-out and normalisation."""
    return replace(compiled([transform]), cutout=0, mean=(), std=())


def _moved_masks(transform: Transform, masks: np.ndarray, indices: np.ndarray, epoch: int, seed: int) -> np.ndarray:
    """Masks (N, H, W) as the transform moves the images' pixels."""
    if isinstance(transform, Warp):
        return transform.move(masks[..., None], indices, epoch, seed, nearest=True)[..., 0]
    if isinstance(transform, ImageTransform):
        moved = augment(masks[..., None], indices, _placement(transform), seed=seed, epoch=epoch, operation="Joint")
        return moved[..., 0]
    return masks


def _matrices(
    transform: Transform, extents: tuple[int, int], indices: np.ndarray, epoch: int, seed: int
) -> np.ndarray | None:
    """Where the new pixels come from, (N, 2, 3); None if no pixel moves."""
    if isinstance(transform, Warp):
        return transform.matrices(*extents, indices, epoch, seed)
    if not isinstance(transform, ImageTransform):
        return None
    made = _placement(transform)
    chosen = made.choices(indices, (*extents, 1), seed=seed, epoch=epoch)
    matrices = np.zeros((len(indices), 2, 3))
    sides = (chosen.row, chosen.upended), (chosen.column, chosen.mirrored)
    for axis, ((first, turned), extent) in enumerate(zip(sides, made.size or extents, strict=True)):
        matrices[:, axis, axis] = np.where(turned, -1, 1)
        matrices[:, axis, 2] = first - made.padding + np.where(turned, extent - 1, 0)
    return matrices
