"""A small detector (YOLO: "you only look once"): a grid of cells, each with some anchors.

Anchors, boxes placed within their cell, and objectness are those of Redmon & Farhadi 2017
("YOLO9000", section 2). Widths and heights, bounded instead of exponential, are those of Wang,
Bochkovskiy & Liao 2021 ("Scaled-YOLOv4"); the loss of boxes is that of Rezatofighi et al. 2019
(GIoU). Each anchor of each cell predicts 5 + K numbers, t_x, t_y, t_w, t_h, objectness, and a logit
for each class:

    x = (column + s(t_x)) stride   width  = anchor width  (2 s(t_w))^2        s: the sigmoid
    y = (row    + s(t_y)) stride   height = anchor height (2 s(t_h))^2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from gpunet import functional as F
from gpunet import nn
from gpunet.autograd import Tensor, tensor
from gpunet.nn.origin import recorded
from gpunet.vision.average_precision import Detections
from gpunet.vision.boxes import nms, pairwise_iou, real_numbers, shape_iou, whole_labels

__all__ = ["YOLO"]

OBJECT, NOTHING, BOX, CLASSES = 0, 1, slice(2, 6), slice(6, None)
"""Positions in a target.

In order: 1 if the anchor should find a box; 1 if it should find nothing; the box; and a 1 at its
class. Neither of the first two is 1 if the anchor is ignored because another one should find the
box.
"""


@recorded
class YOLO(nn.Module):
    """The detector's backbone and head.

    It takes images (N, H, W, C) to (N, H // stride, W // stride, A, 5 + K). The backbone is four
    times a 3x3 convolution with leaky ReLU and a 2x2 max pool, with doubling channels, then two
    more convolutions; the head is a 1x1 convolution. So the stride is 16 pixels.

    Args:
        anchors: (A, 2), (width, height) in pixels, see `vision.boxes.anchors`.
        num_classes: K.
        in_channels: C.
        base_channels: channels of the first convolution.
    """

    stride = 16

    def __init__(self, anchors: Any, num_classes: int, *, in_channels: int = 3, base_channels: int = 16) -> None:
        self.anchors, self.num_classes = _checked_anchors(anchors), num_classes
        self._constants_by_place: dict[Any, tuple[Tensor, ...]] = {}
        channels = [in_channels, *(base_channels << level for level in range(4))]
        conv = partial(nn.Conv2d, kernel_size=3, padding="same", activation="leaky_relu")
        self.backbone = nn.Sequential(
            *(conv(before, after, pool=2) for before, after in pairwise(channels)),
            conv(channels[-1], 2 * channels[-1]),
            conv(2 * channels[-1], channels[-1]),
        )
        # The first predictions are the anchors themselves, with an objectness of s(-4) = 0.02. The
        # idea is that of Lin et al. 2017, "Focal loss for dense object detection", section 3.3.
        outputs = len(self.anchors) * (5 + num_classes)
        self.head = nn.Conv2d(channels[-1], outputs, 1, init=lambda s: nn.init.normal(s, 0.01))
        assert self.head.bias is not None
        self.head.bias.data[4 :: 5 + num_classes] = -4

    def forward(self, x: Tensor) -> Tensor:
        """x (N, H, W, C) -> raw predictions (N, H // 16, W // 16, A, 5 + K).

        H and W must be multiples of 16.
        """
        if x.ndim != 4 or x.shape[1] % self.stride or x.shape[2] % self.stride:
            raise ValueError(f"YOLO: takes (N, H, W, C) with H and W multiples of {self.stride}, got {x.shape}")
        y = self.head(self.backbone(x))
        return y.reshape(*y.shape[:3], len(self.anchors), 5 + self.num_classes)

    def targets(self, size: tuple[int, int]) -> AssignTargets:
        """The transform that makes a batch's targets, for images of `size` (height, width)."""
        return AssignTargets(self.anchors, self.num_classes, self.stride, size)

    def boxes(self, raw: Tensor) -> Tensor:
        """The boxes (N, GH, GW, A, 4) of raw predictions, (x0, y0, x1, y1) in pixels."""
        cells, halves = self._constants(raw)
        centre = (F.sigmoid(raw[..., 0:2]) + cells) * self.stride
        root = 2 * F.sigmoid(raw[..., 2:4])
        half = root * root * halves
        return F.concatenate([centre - half, centre + half], axis=4)

    def _constants(self, raw: Tensor) -> tuple[Tensor, ...]:
        """Columns and rows of the cells, and half of the anchors, on the backend of `raw`.

        They are kept, since a captured step cannot upload anything.
        """
        key = raw.backend.name, raw.dtype, raw.shape[1:3]
        if key not in self._constants_by_place:
            made = _cells(raw.shape[1:3]), self.anchors / 2
            self._constants_by_place[key] = tuple(tensor(a, dtype=raw.dtype, backend=raw.backend) for a in made)
        return self._constants_by_place[key]

    def loss(self, raw: Tensor, targets: Any, *, background: float = 0.5, box: float = 2.0) -> Tensor:
        """The loss of a batch, divided by the number of anchors with an object (at least 1).

        It is the sum over all anchors of the cross-entropy of the objectness (times `background`
        where there is nothing), the cross-entropy of the class of objects, and `box` (1 - GIoU) of
        objects.

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
        """The boxes that the detector finds in each image.

        A box's score is its objectness times the probability of its class; overlapping boxes of one
        class are suppressed.

        Args:
            raw: (N, GH, GW, A, 5 + K) on the host, as `Trainer.predict` gives them.
            score_threshold: smallest score of a box.
            iou_threshold: as for `vision.boxes.nms`.
            max_detections: most boxes in an image.
        Raises:
            ValueError: another shape, or predictions with NaN or infinity.
        """
        raw = real_numbers("YOLO.detect", "raw", raw, 5 + self.num_classes)
        if raw.ndim != 5 or raw.shape[3] != len(self.anchors):
            takes = f"(N, GH, GW, {len(self.anchors)}, {5 + self.num_classes})"
            raise ValueError(f"YOLO.detect: raw has shape {raw.shape} but takes {takes}")
        height, width = raw.shape[1] * self.stride, raw.shape[2] * self.stride
        boxes = self.boxes(tensor(raw)).numpy().clip(0, [width, height, width, height])
        logits = raw[..., 5:] - raw[..., 5:].max(axis=-1, keepdims=True)
        shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        objectness = np.exp(-np.logaddexp(0, -raw[..., 4].astype(np.float64)))  # s(z), without overflow
        scores = shares.max(axis=-1) * objectness
        labels = shares.argmax(axis=-1)
        found = []
        for n in range(len(raw)):
            box, score, label = boxes[n].reshape(-1, 4), scores[n].ravel(), labels[n].ravel()
            likely = np.flatnonzero(score >= score_threshold)
            kept = likely[nms(box[likely], score[likely], label[likely], iou_threshold=iou_threshold)][:max_detections]
            found.append(Detections(box[kept], score[kept], label[kept]))
        return found


@dataclass(frozen=True)
class AssignTargets:
    """The last transform of a detector's data, which makes the targets.

    It takes (images, boxes (N, K, 4), labels (N, K)) to (images, targets). Each box, clipped at the
    image, goes to the cell that contains its centre, and there to the anchor with the most similar
    shape. If two boxes prefer the same anchor, the second takes the next best free one. Other
    anchors of the grid that overlap a box by an IoU above `ignore`, with their centre at their
    cell's centre, are ignored.

    Attributes:
        anchors: (A, 2), in pixels.
        num_classes: K.
        stride: of the grid, in pixels.
        size: (height, width) of the images.
        ignore: IoU above which an anchor is ignored.
    Targets are float32 (N, GH, GW, A, 6 + K), see `OBJECT`; their boxes are (x0, y0, x1, y1) in
    pixels.
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
        """The targets (GH, GW, A, 6 + K) of one image's boxes (K, 4) and labels (K,).

        Rows without area or with the label -1 stand for no box.

        Raises:
            ValueError: a box with NaN or infinity, or a label that is not a whole number or has no
                class.
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


def _cells(grid: Sequence[int]) -> np.ndarray:
    """Column and row of each cell, (GH, GW, 1, 2)."""
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    return np.stack([columns, rows], axis=2)[:, :, None]


def _checked_anchors(anchors: Any) -> np.ndarray:
    array = real_numbers("YOLO", "anchors", anchors, 2).astype(np.float64)
    if array.ndim != 2 or not len(array) or not (array > 0).all():
        raise ValueError(f"YOLO: anchors must be positive (A, 2), got {array.shape}")
    return array
