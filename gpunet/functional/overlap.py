"""How far masks and boxes overlap what they should be, as losses made of tensor operations."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from gpunet.autograd import Tensor, expect_tensor
from gpunet.functional.activation import relu
from gpunet.functional.arithmetic import absolute


def dice_loss(probabilities: Tensor, targets: Any, *, smooth: float = 1.0) -> Tensor:
    """1 - Dice's coefficient (Milletari et al. 2016, section 3; here without squares, as Sudre et al. 2017), the mean over
    images and classes: 1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth), the sums over the pixels.

    It weighs a class by its overlap, not by its pixels, so a small foreground counts as much as a large one.

    Args:
        probabilities: (N, H, W, K), or (N, H, W) of one class, from 0 to 1, such as a softmax's channels or some of them.
        targets: floats of the same shape, from 0 to 1, no gradient: 1 where a pixel is of the class.
        smooth: makes the coefficient of an absent class 1 where nothing is predicted of it, without a division by 0.
    """
    expect_tensor("dice_loss", "probabilities", probabilities)
    target = _beside("dice_loss", probabilities, targets)
    if probabilities.ndim not in (3, 4):
        raise ValueError(
            f"dice_loss: probabilities have shape {probabilities.shape} but take (N, H, W, K) or (N, H, W)"
        )
    if not smooth > 0:
        raise ValueError(f"dice_loss: smooth is {smooth} but must be positive")
    common = (probabilities * target).sum(axis=(1, 2))
    total = probabilities.sum(axis=(1, 2)) + target.sum(axis=(1, 2))
    return 1 - ((2 * common + smooth) / (total + smooth)).mean()


def iou(boxes: Tensor, targets: Any) -> Tensor:
    """Intersection over union of each box with its target, 0 to 1; arguments as for `giou`. Boxes that do not touch get no
    gradient."""
    intersection, union, _ = _parts(*_boxes("iou", boxes, targets))
    return intersection / _divisor(union)


def iou_loss(boxes: Tensor, targets: Any) -> Tensor:
    """The mean of 1 - `iou`, from 0 to 1 (Rezatofighi et al. 2019, section 3; Yu et al. 2016 take -log IoU)."""
    return 1 - iou(boxes, targets).mean()


def giou(boxes: Tensor, targets: Any) -> Tensor:
    """Generalised intersection over union of each box with its target (Rezatofighi et al. 2019, algorithm 1), -1 to 1.

    GIoU = I / U - (A - U) / A, with the intersection I, the union U, and the area A of the smallest box around both: so
    boxes that do not touch have a gradient as well.

    Args:
        boxes: (…, 4), (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1, in any unit; a box turned inside out has no area.
        targets: the same shape, no gradient; they may have no area.
    Returns:
        (…); 0 where neither box has an area and they lie on one line.
    """
    intersection, union, around = _parts(*_boxes("giou", boxes, targets))
    return intersection / _divisor(union) - (around - union) / _divisor(around)


def giou_loss(boxes: Tensor, targets: Any) -> Tensor:
    """The mean of 1 - `giou`, from 0 to 2."""
    return 1 - giou(boxes, targets).mean()


def _boxes(operation: str, boxes: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
    expect_tensor(operation, "boxes", boxes)
    target = _beside(operation, boxes, targets)
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"{operation}: boxes have shape {boxes.shape} but take (…, 4)")
    return boxes, target


def _parts(boxes: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(intersection, union, area of the smallest box around both), in units of that box.

    Its extents are divided by as constants, which changes neither a ratio of areas nor its gradient: so the products of boxes
    of any size neither overflow nor vanish.
    """
    upper, lower = boxes[..., :2], boxes[..., 2:]
    t_upper, t_lower = target[..., :2], target[..., 2:]
    around = absolute(_larger(lower, t_lower) - _smaller(upper, t_upper))
    unit = _divisor(around.detach())
    intersection = _area(relu(_smaller(lower, t_lower) - _larger(upper, t_upper)) / unit)
    union = _area(relu(lower - upper) / unit) + _area(relu(t_lower - t_upper) / unit) - intersection
    return intersection, union, _area(around / unit)


def _divisor(x: Tensor) -> Tensor:
    """x (at least 0) as it is, but 1 where it is 0: from there it falls to x by some 1e-36 (float32), where inverses fit in."""
    least = 2.0 ** int(0.95 * ml_dtypes.finfo(x.dtype).minexp)
    return x + relu(least - x) / least


def _area(extents: Tensor) -> Tensor:
    return extents[..., 0] * extents[..., 1]


def _larger(a: Tensor, b: Tensor) -> Tensor:
    return b + relu(a - b)


def _smaller(a: Tensor, b: Tensor) -> Tensor:
    return a - relu(a - b)


def _beside(operation: str, x: Tensor, targets: Any) -> Tensor:
    """The targets as a constant tensor of x's backend, dtype and shape."""
    array = x.backend.asarray(targets.data if isinstance(targets, Tensor) else targets, x.dtype)
    if tuple(array.shape) != x.shape:
        raise ValueError(f"{operation}: targets have shape {tuple(array.shape)} but the predictions {x.shape}")
    if not np.prod(x.shape):
        raise ValueError(f"{operation}: predictions of shape {x.shape} hold no elements")
    return Tensor(array, x.backend)
