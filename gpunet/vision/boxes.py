"""Boxes as arrays: overlap, anchors, non-maximum suppression.

Boxes are (x0, y0, x1, y1), in any unit; they may be arrays or lists of any real numbers. Results
are float32 if all boxes are float32, else float64. A box that is turned inside out (x1 < x0 or y1 <
y0) has no area. NaN and infinity raise an error.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np

from gpunet.backends.contract import real_array


def areas(boxes: Any) -> np.ndarray:
    """Areas (…,) of boxes (…, 4).

    They are 0 for boxes turned inside out, and infinity beyond the dtype's range.
    """
    given = real_numbers("areas", "boxes", boxes, 4)
    with np.errstate(over="ignore"):  # halved, as in _overlap
        found: np.ndarray = (4 * _area(_extents(given.astype(np.float64) / 2))).astype(given.dtype)
    return found


def pairwise_iou(a: Any, b: Any) -> np.ndarray:
    """Intersection over union of each box in a (…, M, 4) with each in b (…, P, 4) -> (…, M, P).

    It is 0 where neither box has an area. A single box (4,) has no axis in the result: one box and
    P boxes give (P,), two single boxes ().
    """
    return _of_pairs("pairwise_iou", a, b, _iou)


def pairwise_giou(a: Any, b: Any) -> np.ndarray:
    """Generalised IoU, from -1 to 1, of each box in a with each in b; shapes as in `pairwise_iou`.

    Rezatofighi et al. 2019, "Generalized intersection over union", algorithm 1. It is 0 where the
    smallest box around both has no area.
    """
    return _of_pairs("pairwise_giou", a, b, _giou)


def shape_iou(a: Any, b: Any) -> np.ndarray:
    """IoU of shapes (width, height) laid on one corner: a (M, 2), b (P, 2) -> (M, P).

    A negative width or height counts as 0; the result is 0 where neither shape has an area.
    """
    first, second = real_numbers("shape_iou", "a", a, 2), real_numbers("shape_iou", "b", b, 2)
    boxes = [np.concatenate([np.zeros_like(shapes), shapes], axis=-1) for shapes in (first, second)]
    return _of_pairs("shape_iou", boxes[0], boxes[1], _iou)


def anchors(shapes: Any, count: int, *, rounds: int = 300) -> np.ndarray:
    """Typical shapes (width, height) of boxes, by k-means with the distance 1 - IoU.

    Redmon & Farhadi 2017, "YOLO9000", section 2, "Dimension clusters". The clusters start from
    shapes evenly spread by area, and the iteration ends when no shape changes its cluster. Nothing
    is random.

    Args:
        shapes: (M, 2), positive.
        count: number of clusters.
        rounds: most iterations.
    Returns:
        (count, 2) float64, sorted by area; each is the mean of its cluster's shapes.
    Raises:
        ValueError: fewer different shapes than clusters, or a shape without area.
    """
    shapes = np.atleast_2d(real_numbers("anchors", "shapes", shapes, 2)).astype(np.float64)
    if shapes.ndim != 2 or not (shapes > 0).all():
        raise ValueError(f"anchors: shapes must be positive (M, 2), got {shapes.shape} from {shapes.min(initial=0)}")
    different = np.unique(shapes, axis=0)
    if not isinstance(count, Integral) or not 1 <= count <= len(different):
        raise ValueError(f"anchors: count is {count} but there are {len(different)} different shapes")
    by_area = different[np.log(different).sum(axis=1).argsort(kind="stable")]
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
    return centres[np.log(centres).sum(axis=1).argsort(kind="stable")]


def nms(boxes: Any, scores: Any, labels: Any, *, iou_threshold: float = 0.5) -> np.ndarray:
    """Non-maximum suppression within each class: positions of the boxes to keep, best first.

    A box is dropped if its IoU with a kept box of its class with a higher score exceeds the
    threshold.

    Args:
        boxes: (K, 4).
        scores: (K,) real numbers except NaN; boxes with equal scores keep their order.
        labels: (K,) real numbers except NaN, usually whole ones.
        iou_threshold: from 0 to 1.
    Returns:
        (M,) int64.
    Raises:
        ValueError: different numbers of boxes, scores and labels, NaN, or a threshold out of range.
        TypeError: elements that are not real numbers.
    """
    if not isinstance(iou_threshold, Real) or not 0 <= iou_threshold <= 1:
        raise ValueError(f"nms: iou_threshold is {iou_threshold} but must be from 0 to 1")
    given = np.atleast_2d(real_numbers("nms", "boxes", boxes, 4))
    ranks, kinds = _one_per_box("scores", scores, given), _one_per_box("labels", labels, given)
    # A stable sort by falling scores that does not negate them, since scores may be unsigned.
    order = len(ranks) - 1 - np.argsort(ranks[::-1], kind="stable")[::-1]
    given, kinds = given[order], kinds[order]
    alive = np.ones(len(order), bool)
    for i in range(len(order)):
        if alive[i]:
            rivals = i + 1 + np.flatnonzero(alive[i + 1 :] & (kinds[i + 1 :] == kinds[i]))
            alive[rivals] = pairwise_iou(given[i], given[rivals]) <= iou_threshold
    return order[alive]


def real_numbers(operation: str, name: str, given: Any, width: int) -> np.ndarray:
    """Boxes or shapes (…, width) as floats: float32 stays, other real numbers become float64.

    An empty list, (0,), becomes (0, width).

    Raises:
        ValueError: another shape, NaN or infinity.
        TypeError: elements that are not real numbers.
    """
    array = np.asarray(real_array(f"{operation}: {name}", given))
    if array.shape == (0,):
        array = array.reshape(0, width)
    if array.ndim < 1 or array.shape[-1] != width:
        raise ValueError(f"{operation}: {name} have shape {array.shape} but take (…, {width})")
    array = array if array.dtype == np.float32 else array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{operation}: {name} must be finite, got NaN or infinity")
    return array


def whole_labels(operation: str, labels: Any, boxes: np.ndarray, classes: int, *, least: int = -1) -> np.ndarray:
    """Labels (K,) int64 of boxes (K, 4), checked to be whole numbers from `least` to classes - 1.

    Raises:
        ValueError: other labels, or another number of them; -1 stands for no box.
    """
    given = np.asarray(labels)
    if boxes.ndim != 2 or given.shape != boxes.shape[:1]:
        raise ValueError(f"{operation}: takes boxes (K, 4) and labels (K,), got {boxes.shape} and {given.shape}")
    if given.dtype.kind not in "biuf" or not ((given % 1 == 0) & (given >= least) & (given < classes)).all():
        raise ValueError(
            f"{operation}: takes labels that are whole numbers from {least} to {classes - 1}, got {given.tolist()}"
        )
    return given.astype(np.int64)


def _one_per_box(name: str, given: Any, boxes: np.ndarray) -> np.ndarray:
    """Scores or labels, (K,), checked against boxes (K, 4)."""
    array = np.atleast_1d(real_array(f"nms: {name}", given))
    if boxes.ndim != 2 or array.shape != boxes.shape[:1]:
        raise ValueError(f"nms: takes boxes (K, 4) and {name} (K,), got {boxes.shape} and {array.shape}")
    if (array != array).any():
        raise ValueError(f"nms: {name} must not be NaN")
    return array


def _of_pairs(operation: str, a: Any, b: Any, of: Any) -> np.ndarray:
    """`of(common, union, around)` of each pair of boxes, computed in float64."""
    first, second = real_numbers(operation, "a", a, 4), real_numbers(operation, "b", b, 4)
    dtype = np.result_type(first, second)
    single = first.ndim == 1, second.ndim == 1
    try:
        np.broadcast_shapes(first.shape[:-2], second.shape[:-2])
    except ValueError as error:
        raise ValueError(f"{operation}: a is {first.shape} and b {second.shape}, whose batch axes differ") from error
    found: np.ndarray = of(*_overlap(np.atleast_2d(first), np.atleast_2d(second))).astype(dtype)
    axes = tuple(axis for axis, without in zip((-2, -1), single, strict=True) if without)
    return found.squeeze(axis=axes)


def _iou(common: np.ndarray, union: np.ndarray, around: np.ndarray) -> np.ndarray:
    return np.divide(common, union, out=np.zeros_like(union), where=union > 0)


def _giou(common: np.ndarray, union: np.ndarray, around: np.ndarray) -> np.ndarray:
    rest = np.divide(around - union, around, out=np.zeros_like(union), where=around > 0)
    return _iou(common, union, around) - rest


def _overlap(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(intersection, union, area of the smallest box around both), each (…, M, P).

    Each pair has a unit of its own, a power of two near the size of the box around both. Dividing
    by it rounds nothing, and no product leaves float64's range. The boxes are halved first, since a
    difference of two coordinates may be twice the largest number.
    """
    a, b = a[..., :, None, :].astype(np.float64) / 2, b[..., None, :, :].astype(np.float64) / 2
    inner = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    # A box that is turned inside out has its lower ends second.
    lowest = np.minimum(*(np.minimum(box[..., :2], box[..., 2:]) for box in (a, b)))
    around = np.maximum(*(np.maximum(box[..., :2], box[..., 2:]) for box in (a, b))) - lowest
    unit = -np.frexp(around)[1]
    common, of_a, of_b, outer = (
        _area(np.ldexp(extents, unit)) for extents in (inner.clip(0), _extents(a), _extents(b), around)
    )
    return common, of_a + of_b - common, outer


def _area(extents: np.ndarray) -> np.ndarray:
    """Areas (…,) of (width, height) (…, 2)."""
    area: np.ndarray = extents[..., 0] * extents[..., 1]
    return area


def _extents(boxes: np.ndarray) -> np.ndarray:
    """(width, height) (…, 2) of boxes (…, 4), at least 0."""
    return (boxes[..., 2:] - boxes[..., :2]).clip(0)
