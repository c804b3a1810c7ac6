"""Boxes as arrays: overlap, anchors, non-maximum suppression. Boxes are (x0, y0, x1, y1), in any unit."""

from __future__ import annotations

import numpy as np


def areas(boxes: np.ndarray) -> np.ndarray:
    """(…,) of boxes (…, 4); 0 where a box is turned inside out."""
    return (boxes[..., 2] - boxes[..., 0]).clip(0) * (boxes[..., 3] - boxes[..., 1]).clip(0)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of each of a (…, M, 4) with each of b (…, P, 4) -> (…, M, P); 0 where neither has an area."""
    common, union, _ = _overlap(a, b)
    return np.divide(common, union, out=np.zeros_like(union), where=union > 0)


def giou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Generalised IoU (Rezatofighi et al. 2019, algorithm 1) of each of a (…, M, 4) with each of b (…, P, 4), -1 to 1."""
    common, union, around = _overlap(a, b)
    share = np.divide(common, union, out=np.zeros_like(union), where=union > 0)
    return share - np.divide(around - union, around, out=np.zeros_like(union), where=around > 0)


def shape_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of (width, height)s a (M, 2) and b (P, 2), laid on one corner -> (M, P): how alike their shapes are."""
    common = np.minimum(a[:, None], b[None]).prod(axis=2)
    return common / (a.prod(axis=1)[:, None] + b.prod(axis=1)[None] - common)


def anchors(shapes: np.ndarray, count: int, *, rounds: int = 300) -> np.ndarray:
    """Typical (width, height)s by k-means with the distance 1 - IoU (Redmon & Farhadi 2017, section 2, "Dimension clusters").

    It starts from shapes evenly spread by their area, and ends when no shape changes its cluster; nothing is drawn.

    Args:
        shapes: (M, 2), positive.
        count: of clusters.
        rounds: at most.
    Returns:
        (count, 2) float64, by area; a cluster is the mean of its shapes.
    Raises:
        ValueError: fewer different shapes than clusters, or one without area.
    """
    shapes = np.asarray(shapes, np.float64)
    if shapes.ndim != 2 or shapes.shape[1] != 2 or not (np.isfinite(shapes) & (shapes > 0)).all():
        raise ValueError(f"anchors: shapes must be positive (M, 2), got {shapes.shape} from {shapes.min(initial=0)}")
    different = np.unique(shapes, axis=0)
    if not 1 <= count <= len(different):
        raise ValueError(f"anchors: count is {count} but there are {len(different)} different shapes")
    by_area = different[different.prod(axis=1).argsort(kind="stable")]
    centres = by_area[((np.arange(count) + 0.5) / count * len(by_area)).astype(int)]
    before = np.full(len(shapes), -1)
    for _ in range(rounds):
        nearest = shape_iou(shapes, centres).argmax(axis=1)
        if (nearest == before).all():
            break
        for k in range(count):
            if (nearest == k).any():
                centres[k] = shapes[nearest == k].mean(axis=0)
        before = nearest
    return centres[centres.prod(axis=1).argsort(kind="stable")]


def suppress(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, *, threshold: float = 0.5) -> np.ndarray:
    """Non-maximum suppression within each class: positions of the boxes that stay, the highest score first.

    A box goes if it overlaps one of its class with a higher score, that stays, by an IoU above the threshold.

    Args:
        boxes: (K, 4).
        scores: (K,); equal ones keep their order.
        labels: (K,) integers.
        threshold: from 0 to 1.
    Returns:
        (M,) int64.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"suppress: threshold is {threshold} but must be from 0 to 1")
    order = np.argsort(-scores, kind="stable")
    boxes, labels = boxes[order], labels[order]
    rivals = (iou(boxes, boxes) > threshold) & (labels[:, None] == labels)
    alive = np.ones(len(order), bool)
    for i in range(len(order)):
        if alive[i]:
            alive[i + 1 :] &= ~rivals[i, i + 1 :]
    return order[alive]


def _overlap(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(intersection, union, area of the smallest box around both), each (…, M, P)."""
    a, b = np.asarray(a)[..., :, None, :], np.asarray(b)[..., None, :, :]
    inner = np.concatenate([np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])], axis=-1)
    outer = np.concatenate([np.minimum(a[..., :2], b[..., :2]), np.maximum(a[..., 2:], b[..., 2:])], axis=-1)
    common = areas(inner)
    return common, areas(a) + areas(b) - common, areas(outer)
