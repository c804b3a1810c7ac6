"""A small detector that looks once: a grid of cells, each with some anchors (YOLO).

From Redmon & Farhadi 2017 ("YOLO9000", section 2: anchors, boxes placed within their cell, objectness) with the extents of
Wang, Bochkovskiy & Liao 2021 ("Scaled-YOLOv4", bounded instead of exponential) and the loss of boxes of Rezatofighi et al.
2019 (GIoU). Each anchor of each cell predicts 5 + K numbers: t_x, t_y, t_w, t_h, objectness, and a logit a class:

    x = (column + s(t_x)) stride   width  = anchor width  (2 s(t_w))^2        s: the sigmoid
    y = (row    + s(t_y)) stride   height = anchor height (2 s(t_h))^2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from gpunet import functional as F
from gpunet import nn
from gpunet.autograd import Tensor, tensor
from gpunet.vision.average_precision import Detections
from gpunet.vision.boxes import nms, pairwise_iou, real_numbers, shape_iou, whole_labels

OBJECT, NOTHING, BOX, CLASSES = 0, 1, slice(2, 6), slice(6, None)
"""Where a target has: 1 if the anchor should find a box, 1 if it should find nothing (neither where it is ignored, for
another one should), that box, and a 1 at its class."""


class YOLO(nn.Module):
    """Backbone and head: images (N, H, W, C) -> (N, H // stride, W // stride, A, 5 + K).

    The backbone is four times a 3x3 convolution with leaky ReLU and a 2x2 max pool, the channels doubling, then two more
    convolutions; the head is a 1x1 convolution. So the stride is 16 pixels.

    Args:
        anchors: (A, 2), (width, height) in pixels, see `vision.boxes.anchors`.
        num_classes: K.
        in_channels: C.
        base_channels: channels of the first convolution.
    """

    stride = 16

    def __init__(self, anchors: Any, num_classes: int, *, in_channels: int = 3, base_channels: int = 16) -> None:
        self.anchors, self.num_classes = _checked_anchors(anchors), num_classes
        self._kept: dict[Any, tuple[Tensor, ...]] = {}
        channels = [in_channels, *(base_channels << level for level in range(4))]
        self.backbone = nn.Sequential(
            *(
                nn.Conv2d(before, after, 3, padding="same", activation="leaky_relu", pool=2)
                for before, after in pairwise(channels)
            ),
            nn.Conv2d(channels[-1], 2 * channels[-1], 3, padding="same", activation="leaky_relu"),
            nn.Conv2d(2 * channels[-1], channels[-1], 3, padding="same", activation="leaky_relu"),
        )
        # It starts with the anchors themselves as boxes, and finds nothing: a likelihood of s(-4) = 0.02 (Lin et al. 2017,
        # "Focal loss", section 3.3, for the idea)
        self.head = nn.Conv2d(
            channels[-1], len(self.anchors) * (5 + num_classes), 1, init=lambda s: nn.init.normal(s, 0.01)
        )
        assert self.head.bias is not None
        self.head.bias.data[4 :: 5 + num_classes] = -4

    def forward(self, x: Tensor) -> Tensor:
        """x (N, H, W, C), H and W multiples of 16 -> raw predictions (N, H // 16, W // 16, A, 5 + K)."""
        if x.ndim != 4 or x.shape[1] % self.stride or x.shape[2] % self.stride:
            raise ValueError(f"YOLO: takes (N, H, W, C) with H and W multiples of {self.stride}, got {x.shape}")
        y = self.head(self.backbone(x))
        return y.reshape(*y.shape[:3], len(self.anchors), 5 + self.num_classes)

    def targets(self, size: tuple[int, int]) -> AssignTargets:
        """The transform that makes a batch's targets, for images of `size` (height, width)."""
        return AssignTargets(self.anchors, self.num_classes, self.stride, size)

    def boxes(self, raw: Tensor) -> Tensor:
        """(N, GH, GW, A, 4) boxes in pixels, (x0, y0, x1, y1), of raw predictions."""
        cells, halves = self._constants(raw)
        centre = (F.sigmoid(raw[..., 0:2]) + cells) * self.stride
        root = 2 * F.sigmoid(raw[..., 2:4])
        half = root * root * halves
        return F.concatenate([centre - half, centre + half], axis=4)

    def _constants(self, raw: Tensor) -> tuple[Tensor, ...]:
        """Columns and rows of the cells, and half of the anchors, beside `raw`: kept, for a captured step uploads nothing."""
        key = raw.backend.name, raw.dtype, raw.shape[1:3]
        if key not in self._kept:
            made = _cells(raw.shape[1:3]), self.anchors / 2
            self._kept[key] = tuple(tensor(a, dtype=raw.dtype, backend=raw.backend) for a in made)
        return self._kept[key]

    def loss(self, raw: Tensor, targets: Any, *, background: float = 0.5, box: float = 2.0) -> Tensor:
        """Sums over the batch's anchors, divided by the number of those with an object (at least 1):

            cross-entropy of the objectness (times `background` where there is nothing) + cross-entropy of the class of
            objects + `box` (1 - GIoU) of objects.

        Args:
            raw: (N, GH, GW, A, 5 + K).
            targets: (N, GH, GW, A, 6 + K), a tensor or a host array, as `AssignTargets` makes them.
        """
        given = targets if isinstance(targets, Tensor) else tensor(targets, dtype=raw.dtype, backend=raw.backend)
        if given.shape != (*raw.shape[:4], 6 + self.num_classes):
            raise ValueError(f"YOLO.loss: targets have shape {given.shape} but predictions {raw.shape}")
        objects, z = given[..., OBJECT], raw[..., 4]
        weight = objects + background * given[..., NOTHING]
        entropy = F.relu(z) - z * objects + F.log(1 + F.exp(-F.abs(z)))  # of s(z), without overflow
        missed = (F.log_softmax(raw[..., 5:]) * given[..., CLASSES]).sum()
        apart = ((1 - F.giou(self.boxes(raw), given[..., BOX])) * objects).sum()
        count = objects.sum()
        return ((entropy * weight).sum() - missed + box * apart) / (count + F.relu(1 - count))

    def detect(
        self, raw: np.ndarray, *, score_threshold: float = 0.05, iou_threshold: float = 0.5, max_detections: int = 100
    ) -> list[Detections]:
        """The boxes of each image: score = objectness times the class's probability, those of one object suppressed.

        Args:
            raw: (N, GH, GW, A, 5 + K) on the host, as `Trainer.predict` gives them.
            score_threshold: least score.
            iou_threshold: as for `vision.boxes.nms`.
            max_detections: detections an image.
        Raises:
            ValueError: another shape, or predictions of which one is NaN or infinite.
        """
        raw = real_numbers("YOLO.detect", "raw", raw, 5 + self.num_classes)
        if raw.ndim != 5 or raw.shape[3] != len(self.anchors):
            raise ValueError(
                f"YOLO.detect: raw has shape {raw.shape} but takes (N, GH, GW, {len(self.anchors)}, {5 + self.num_classes})"
            )
        height, width = raw.shape[1] * self.stride, raw.shape[2] * self.stride
        boxes = self.boxes(tensor(raw)).numpy().clip(0, [width, height, width, height])
        logits = raw[..., 5:] - raw[..., 5:].max(axis=-1, keepdims=True)
        shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        scores = shares.max(axis=-1) * np.exp(
            -np.logaddexp(0, -raw[..., 4].astype(np.float64))
        )  # s(z), without overflow
        labels = shares.argmax(axis=-1)
        limits = score_threshold, iou_threshold, max_detections
        return [_best(boxes[n].reshape(-1, 4), scores[n].ravel(), labels[n].ravel(), *limits) for n in range(len(raw))]


@dataclass(frozen=True)
class AssignTargets:
    """The transform that ends a detector's: (images, boxes (N, K, 4), labels (N, K)) -> (images, targets).

    Each box, cut off at the image, goes to the cell that holds its centre, there to the anchor whose shape is most like its
    own; of two boxes that go to one anchor, the second takes the next best that is free. Other anchors of the grid that
    overlap a box by an IoU above `ignore`, laid at their cell's centre, are ignored.

    Attributes:
        anchors: (A, 2), in pixels.
        num_classes: K.
        stride: of the grid, in pixels.
        size: (height, width) of the images.
        ignore: as said.
    Targets are float32 (N, GH, GW, A, 6 + K): see `OBJECT`; boxes are (x0, y0, x1, y1) in pixels.
    """

    anchors: np.ndarray
    num_classes: int
    stride: int
    size: tuple[int, int]
    ignore: float = 0.5

    def __call__(self, batch: tuple[np.ndarray, ...], *, indices: Any, epoch: int, seed: int) -> tuple[np.ndarray, ...]:
        """The images as they are, and their targets."""
        images, boxes, labels = batch
        if images.shape[1:3] != tuple(self.size):
            raise ValueError(f"AssignTargets: images are {images.shape[1:3]} but targets are made for {self.size}")
        return images, np.stack([self.assign(b, k) for b, k in zip(boxes, labels, strict=True)])

    def assign(self, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(GH, GW, A, 6 + K) of one image's boxes (K, 4) and labels (K,); rows without area or with the label -1 are no box.

        Raises:
            ValueError: a box with NaN or infinity, a label that is no whole number or has no class.
        """
        boxes = real_numbers("AssignTargets", "boxes", boxes, 4)
        labels = whole_labels("AssignTargets", labels, boxes, self.num_classes)
        boxes = boxes.clip(0, np.array(self.size[::-1] * 2, boxes.dtype))
        grid = self.size[0] // self.stride, self.size[1] // self.stride
        targets = np.zeros((*grid, len(self.anchors), 6 + self.num_classes), np.float32)
        targets[..., NOTHING] = 1
        real = (labels >= 0) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        boxes, labels = boxes[real], labels[real]
        if not len(boxes):
            return targets
        centres = (_cells(grid) + 0.5) * self.stride
        resting = np.concatenate([centres - self.anchors / 2, centres + self.anchors / 2], axis=3)
        overlap = pairwise_iou(resting.reshape(-1, 4), boxes).max(axis=1)
        targets[..., NOTHING] = overlap.reshape(targets.shape[:3]) <= self.ignore
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        columns, rows = (np.minimum(middle // self.stride, np.array(grid[::-1]) - 1)).astype(int).T
        preferred = np.argsort(-shape_iou(boxes[:, 2:] - boxes[:, :2], self.anchors), axis=1, kind="stable")
        for box, label, row, column, order in zip(boxes, labels, rows, columns, preferred, strict=True):
            free = [a for a in order if not targets[row, column, a, OBJECT]]
            if free:
                targets[row, column, free[0]] = (1, 0, *box, *np.eye(self.num_classes)[label])
        return targets


def _best(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
) -> Detections:
    likely = np.flatnonzero(scores >= score_threshold)
    kept = likely[nms(boxes[likely], scores[likely], labels[likely], iou_threshold=iou_threshold)][:max_detections]
    return Detections(boxes[kept], scores[kept], labels[kept])


def _cells(grid: Sequence[int]) -> np.ndarray:
    """(GH, GW, 1, 2): column and row of each cell."""
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    return np.stack([columns, rows], axis=2)[:, :, None]


def _checked_anchors(anchors: Any) -> np.ndarray:
    array = real_numbers("YOLO", "anchors", anchors, 2).astype(np.float64)
    if array.ndim != 2 or not len(array) or not (array > 0).all():
        raise ValueError(f"YOLO: anchors must be positive (A, 2), got {array.shape}")
    return array
