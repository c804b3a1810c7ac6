"""Images annotated with boxes: what the readers of Pascal VOC and COCO return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.data.readers.checks import LARGEST, checked_size, listed, shown
from gpunet.data.readers.images import read_image
from gpunet.data.readers.masks import decode_mask
from gpunet.errors import warn

__all__ = ["Annotation", "BoxDataset"]


@dataclass(frozen=True)
class Annotation:
    """The boxes, labels and masks of one image.

    Attributes:
        path: of the image file.
        size: (height, width) in pixels, as the annotation states it.
        boxes: (K, 4), (x0, y0, x1, y1) in pixels from the image's upper left corner; real numbers,
            kept as float32.
        labels: (K,), positions in the data set's classes; whole numbers, kept as int64.
        segmentations: the mask of each box in COCO's terms, polygons or a run-length code; () if
            there are only boxes.
        entries: the place in a file of each segmentation, for error messages; () if they come from
            no file.
    Raises:
        ValueError: different numbers of boxes, labels and segmentations; a size, box or label out
            of range.
        TypeError: boxes that are not numbers, labels that are not whole numbers, or a size that is
            not two integers.
    """

    path: Path
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    segmentations: tuple[Any, ...] = field(default=(), repr=False)
    entries: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        boxes, labels = np.asarray(self.boxes), np.asarray(self.labels)
        boxes = boxes.reshape(0, 4) if boxes.shape == (0,) else boxes
        labels = labels.astype(np.int64) if labels.shape == (0,) else labels  # [] gives floats
        if labels.ndim != 1 or boxes.dtype.kind not in "iuf" or labels.dtype.kind not in "iu":
            raise TypeError(
                f"Annotation: {self.path} takes boxes of numbers and labels (K,) of whole numbers, got {boxes.dtype} and "
                f"{labels.dtype} {labels.shape}"
            )
        if boxes.shape != (len(labels), 4) or len(self.segmentations) not in (0, len(labels)):
            raise ValueError(
                f"Annotation: {self.path} has {len(labels)} labels but boxes {boxes.shape} and "
                f"{len(self.segmentations)} segmentations"
            )
        if not (np.abs(boxes.astype(np.float64)) <= LARGEST).all() or (labels < 0).any():
            raise ValueError(
                f"Annotation: {self.path} takes boxes of finite numbers up to {LARGEST:.0f} and labels of at least 0, got "
                f"{shown(boxes.tolist())} and {shown(labels.tolist())}"
            )
        object.__setattr__(self, "size", checked_size(f"Annotation: {self.path}", self.size))
        object.__setattr__(self, "boxes", boxes.astype(np.float32))
        object.__setattr__(self, "labels", labels.astype(np.int64))

    def masks(self) -> np.ndarray:
        """The masks, (K, H, W) bool, decoded from the segmentations.

        Raises:
            ValueError: there are no segmentations, one has another size, or one cannot be read; the
                message names its entry.
            ImportError: there are polygons, and pycocotools is not installed.
        """
        if len(self.segmentations) != len(self.boxes):
            raise ValueError(f"masks: {self.path} has boxes but no masks")
        names = self.entries or (str(self.path),) * len(self.segmentations)
        made = [decode_mask(part, self.size, source=name) for part, name in zip(self.segmentations, names, strict=True)]
        return np.stack(made) if made else np.zeros((0, *self.size), bool)


class BoxDataset:
    """Annotated images, decoded when they are asked for.

    One sample is (image (H, W, 3) uint8, boxes (K, 4) float32, labels (K,) int64); several samples
    have one row for each of them. K is the largest number of boxes of an image in the set; rows
    that stand for no box are all 0 and have the label -1. `Joint(…, boxes=(1,))` moves the boxes
    with the images. To keep a data set that fits into memory decoded:
    ``ArrayDataset(*dataset[np.arange(len(dataset))])``.

    Args:
        annotations: one for each image.
        classes: names of the labels.
        size: (height, width) in pixels to which images and boxes are scaled; if None, all images
            must have one size.
    Attributes:
        annotations, classes: as given; the annotations' boxes are in pixels of the files.
        max_boxes: K.
    Raises:
        ValueError: no images, images of different sizes, or a label without a class; later, an
            image that cannot be read or does not have the size that its annotation states.
    """

    def __init__(
        self, annotations: Sequence[Annotation], classes: Sequence[str], size: tuple[int, int] | None = None
    ) -> None:
        self.annotations, self.classes = tuple(annotations), tuple(classes)
        if not self.annotations:
            raise ValueError("BoxDataset: got no images but takes at least one")
        for each in self.annotations:
            if each.labels.max(initial=-1) >= len(self.classes):
                raise ValueError(
                    f"BoxDataset: {each.path} has label {each.labels.max()} but there are {len(self.classes)} classes"
                )
        first = self.annotations[0]
        self.size = first.size if size is None else checked_size("BoxDataset", size)
        if size is None:
            for each in self.annotations:
                if each.size != first.size:
                    raise ValueError(
                        f"BoxDataset: images must be of one size unless size= is given, got {each.path} with {each.size} "
                        f"and {first.path} with {first.size} (height, width)"
                    )
        self.max_boxes = max(1, *(len(each.boxes) for each in self.annotations))

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        chosen = np.arange(len(self))[index]
        if np.ndim(chosen) == 0:
            return self._sample(self.annotations[int(chosen)])
        if not len(chosen):
            images = np.zeros((0, *self.size, 3), np.uint8)
            return images, np.zeros((0, self.max_boxes, 4), np.float32), np.zeros((0, self.max_boxes), np.int64)
        samples = [self._sample(self.annotations[i]) for i in chosen]
        return tuple(np.stack(parts) for parts in zip(*samples, strict=True))

    def _sample(self, annotation: Annotation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pixels = read_image(annotation.path, self.size, stated=annotation.size)
        count, (height, width) = len(annotation.boxes), annotation.size
        scale = np.array([self.size[1] / width, self.size[0] / height] * 2, np.float32)
        boxes, labels = np.zeros((self.max_boxes, 4), np.float32), np.full(self.max_boxes, -1, np.int64)
        boxes[:count], labels[:count] = annotation.boxes * scale, annotation.labels
        return pixels, boxes, labels


class BoxChecker:
    """Counts the boxes of a file that are skipped or clipped, and warns of them once, in `warn`.

    Args:
        operation: name of the reader, which begins the warning.
    """

    def __init__(self, operation: str) -> None:
        self.operation = operation
        self.skipped: list[str] = []
        self.clipped: list[str] = []

    def usable(self, boxes: np.ndarray, size: tuple[int, int], source: str) -> tuple[np.ndarray, np.ndarray]:
        """Clip boxes at an image of `size`.

        Args:
            boxes: (K, 4), any real numbers.
            size: (height, width) in pixels.
            source: name of the file, for the warning.
        Returns:
            (clipped boxes (K, 4) float32, bool (K,): which of them have an area).
        """
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        clipped = boxes.clip(0, np.array(size[::-1] * 2))
        inside = clipped.astype(np.float32)
        kept = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
        self.skipped += [source] * int((~kept).sum())
        self.clipped += [source] * int((kept & (clipped != boxes).any(axis=1)).sum())
        return inside, kept

    def warn(self) -> None:
        """Give one UserWarning that counts the boxes and names their files, if there are any."""
        messages = [
            f"{what} {len(files)} {'box' if len(files) == 1 else 'boxes'} {why} ({listed(dict.fromkeys(files))})"
            for what, why, files in (
                ("skipped", "without area in the image", self.skipped),
                ("clipped", "partly outside the image", self.clipped),
            )
            if files
        ]
        if messages:
            warn(f"{self.operation}: {'; '.join(messages)}")
