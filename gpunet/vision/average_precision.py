"""COCO's mean average precision, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpunet.progress import working
from gpunet.vision.boxes import real_numbers, whole_labels


class Detections(NamedTuple):
    """What a detector found in one image."""

    boxes: np.ndarray
    """(K, 4), (x0, y0, x1, y1) in pixels."""
    scores: np.ndarray
    """(K,) real numbers."""
    labels: np.ndarray
    """(K,) integers."""


def mean_average_precision(
    found: Sequence[Detections], truth: Sequence[tuple[np.ndarray, np.ndarray]], classes: Sequence[str]
) -> dict[str, float]:
    """COCO's mean average precision of detections (Lin et al. 2014).

    Precision is interpolated at 101 recalls, and at most 100 detections of an image count.

    Args:
        found: the detections in each image; detections with equal scores keep their order.
        truth: (boxes (K, 4), labels (K,)) of the same images; rows with the label -1 stand for no
            box.
        classes: names of the labels, all different.
    Returns:
        "mAP", the mean over the IoU thresholds 0.5, 0.55, … 0.95; "mAP@0.5"; and "AP@0.5 CLASS" for
        each class, NaN if the truth has none of it. The means are over the classes in the truth.
    Raises:
        ValueError: different numbers of images, or of boxes, scores and labels of one image; no box
            in the truth; NaN or infinity; a label that is not a whole number or has no class.
        ImportError: pycocotools is not installed.
    """
    if len(found) != len(truth):
        raise ValueError(f"mean_average_precision: found has {len(found)} images but truth {len(truth)}")
    if len(set(classes)) != len(classes):
        raise ValueError(f"mean_average_precision: classes must be different names, got {', '.join(map(str, classes))}")
    entries = [
        {"image_id": i, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, (boxes, labels) in enumerate(truth)
        for box, label in _rows(f"truth[{i}]", boxes, labels, len(classes), least=-1)
        if label >= 0
    ]
    if not entries:
        raise ValueError("mean_average_precision: truth has no boxes")
    content = {
        "images": [{"id": i} for i in range(len(truth))],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes)],
        "annotations": [{"id": i, **entry} for i, entry in enumerate(entries, 1)],
    }
    results: list[dict[str, Any]] = [
        {"image_id": i, "category_id": label, "bbox": box, "score": score}
        for i, each in enumerate(found)
        for (box, label), score in zip(
            _rows(f"found[{i}]", each.boxes, each.labels, len(classes)), _scores(f"found[{i}]", each), strict=True
        )
    ]
    with working("mean average precision", f"{len(truth)} images"):
        precision = _precision(content, results)
    present = np.where((precision > -1).all(axis=(0, 1)))[0]
    by_class = np.full(len(classes), np.nan)
    by_class[present] = precision[0][:, present].mean(axis=0)
    figures = {"mAP": float(precision[:, :, present].mean()), "mAP@0.5": float(precision[0][:, present].mean())}
    return figures | {f"AP@0.5 {name}": float(value) for name, value in zip(classes, by_class, strict=True)}


def _precision(content: dict[str, Any], results: list[dict[str, Any]]) -> np.ndarray:
    """The precision, (thresholds, recalls, classes), as pycocotools computes it.

    It is -1 for classes that the truth does not have.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError('mean_average_precision needs pycocotools: pip install "gpunet[examples]"') from error
    with contextlib.redirect_stdout(io.StringIO()):  # hides pycocotools' own report
        index = COCO()
        index.dataset = content
        index.createIndex()
        # loadRes refuses an empty list: one detection of score 0 and without area stands for none.
        nothing = [{"image_id": 0, "category_id": 0, "bbox": [0.0, 0.0, 0.0, 0.0], "score": 0.0}]
        evaluation = COCOeval(index, index.loadRes(results or nothing), "bbox")
        evaluation.params.areaRngLbl, evaluation.params.areaRng = ["all"], [[0, np.inf]]  # not 1e10
        evaluation.evaluate()
        evaluation.accumulate()
    precision: np.ndarray = evaluation.eval["precision"][..., 0, -1]  # all areas, 100 detections
    return precision


def _rows(where: str, boxes: Any, labels: Any, classes: int, *, least: int = 0) -> list[tuple[list[float], int]]:
    """([x, y, width, height], label) of each box (K, 4); a negative width or height becomes 0."""
    name = f"mean_average_precision: {where}"
    corners = real_numbers(name, "boxes", boxes, 4).astype(np.float64)
    given = whole_labels(name, labels, corners, classes, least=least)
    extents = (corners[:, 2:] - corners[:, :2]).clip(0)
    rows = np.concatenate([corners[:, :2], extents], axis=1).tolist()
    return list(zip(rows, given.tolist(), strict=True))


def _scores(where: str, detections: Detections) -> list[float]:
    """The scores as a list, one for each label."""
    scores = np.asarray(detections.scores)
    if scores.shape != np.shape(detections.labels):
        raise ValueError(
            f"mean_average_precision: {where}: takes scores (K,) and labels (K,), got {scores.shape} and "
            f"{np.shape(detections.labels)}"
        )
    if np.isnan(values := scores.astype(np.float64)).any():
        raise ValueError(f"mean_average_precision: {where} has scores that are NaN")
    return values.tolist()
