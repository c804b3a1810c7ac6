"""How far masks and boxes overlap what they should be, as losses made of tensor operations."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract.arrays import Array
from gpunet.functional.activation import relu
from gpunet.functional.selection import maximum, minimum
from gpunet.functional.terms import check_reduction, reduced, where_positive


class _Share(Function):
    """a / b, elementwise, and 0 without a gradient where b is not above 0: boxes without area do not overlap by 0 / 0."""

    name = "share"

    def forward(self, a: Array, b: Array) -> Array:
        self.save(b)
        self.y = where_positive(self.backend, b, self.backend.binary("divide", a, b))
        return self.y

    def backward(self, dy: Array) -> Any:
        (b,), apply = self.saved, self.backend.binary
        da = where_positive(self.backend, b, apply("divide", dy, b))
        return da, self.backend.unary("negative", apply("multiply", da, self.y)) if self.needs(1) else None


def dice_loss(probabilities: Tensor, targets: Any, *, smooth: float = 1.0, reduction: str = "mean") -> Tensor:
    """1 - Dice's coefficient (Milletari et al. 2016, section 3; here without squares, as Sudre et al. 2017), by image and
    class: 1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth), the sums over the pixels.

    It is computed as sum(p (1 - t) + t (1 - p)) / (sum(p) + sum(t) + smooth), which keeps its digits where p is almost t.
    It weighs a class by its overlap, not by its pixels, so a small foreground counts as much as a large one.

    Args:
        probabilities: (N, H, W, K), or (N, H, W) of one class, from 0 to 1, such as a softmax's channels or some of them.
        targets: floats of the same shape, from 0 to 1, no gradient: 1 where a pixel is of the class.
        smooth: makes the coefficient of an absent class 1 where nothing is predicted of it, without a division by 0.
        reduction: "mean" over images and classes, "sum", or "none" for (N, K), or (N,).
    """
    check_reduction("dice_loss", reduction)
    expect_tensor("dice_loss", "probabilities", probabilities)
    target = _beside("dice_loss", probabilities, targets)
    if probabilities.ndim not in (3, 4):
        raise ValueError(
            f"dice_loss: probabilities have shape {probabilities.shape} but take (N, H, W, K) or (N, H, W)"
        )
    if not smooth > 0:
        raise ValueError(f"dice_loss: smooth is {smooth} but must be positive")
    apart = (probabilities * (1 - target) + target * (1 - probabilities)).sum(axis=(1, 2))
    total = probabilities.sum(axis=(1, 2)) + target.sum(axis=(1, 2))
    return reduced("dice_loss", apart / (total + smooth), reduction)


def iou(boxes: Tensor, targets: Any) -> Tensor:
    """Intersection over union of each box with its target, 0 to 1; arguments as for `giou`. Boxes that do not touch get no
    gradient."""
    return _Overlap("iou", boxes, targets).iou


def iou_loss(boxes: Tensor, targets: Any, *, reduction: str = "mean") -> Tensor:
    """1 - `iou`, from 0 to 1 (Rezatofighi et al. 2019, section 3; Yu et al. 2016 take -log IoU).

    Args:
        boxes, targets: as for `giou`.
        reduction: "mean" over the boxes, "sum", or "none" for their losses, (…).
    """
    check_reduction("iou_loss", reduction)
    return reduced("iou_loss", _Overlap("iou_loss", boxes, targets).missed, reduction)


def giou(boxes: Tensor, targets: Any) -> Tensor:
    """Generalised intersection over union of each box with its target (Rezatofighi et al. 2019, algorithm 1), -1 to 1.

    GIoU = I / U - (A - U) / A, with the intersection I, the union U, and the area A of the smallest box around both: so
    boxes that do not touch have a gradient as well.

    Args:
        boxes: (…, 4), (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1, in any unit; one turned inside out has no area,
            and ends where it begins.
        targets: the same shape, no gradient; they may have no area.
    Returns:
        (…); 0 where neither box has an area and they lie on one line.
    """
    overlap = _Overlap("giou", boxes, targets)
    return overlap.iou - overlap.between


def giou_loss(boxes: Tensor, targets: Any, *, reduction: str = "mean") -> Tensor:
    """1 - `giou`, from 0 to 2; arguments as for `iou_loss`."""
    check_reduction("giou_loss", reduction)
    overlap = _Overlap("giou_loss", boxes, targets)
    return reduced("giou_loss", overlap.missed + overlap.between, reduction)


class _Overlap:
    """The areas of pairs of boxes, in units of the smallest box around both, so that no float is too large or too small.

    The unit is a constant: ratios of areas do not depend on it. No area is a difference of areas, which may be almost equal:
    what a box misses of the box around both, on each axis, is what the other one has outside it, and the rest follows.
    """

    def __init__(self, operation: str, boxes: Tensor, targets: Any):
        boxes, target = _boxes(operation, boxes, targets)
        pair = [(b[..., :2], maximum(b[..., 2:], b[..., :2])) for b in (boxes, target)]
        (upper, lower), (t_upper, t_lower) = pair
        first, last = minimum(upper, t_upper), maximum(lower, t_lower)
        unit = (last - first).detach()
        shared = _Share.apply(minimum(lower, t_lower) - maximum(upper, t_upper), unit)  # negative of boxes apart
        common = relu(shared)
        extents = [_Share.apply(x1 - x0, unit) for x0, x1 in pair]
        beside = [_Share.apply((x0 - first) + (last - x1), unit) for x0, x1 in pair]
        outside = [minimum(extent, other) for extent, other in zip(extents, reversed(beside), strict=True)]
        parts = [
            lost[..., 0] * of[..., 1] + common[..., 0] * lost[..., 1] for lost, of in zip(outside, extents, strict=True)
        ]
        self._common, self._missed = _area(common), parts[0] + parts[1]
        self._union = self._common + self._missed
        corners = beside[0][..., 0] * beside[1][..., 1] + beside[1][..., 0] * beside[0][..., 1]
        self._between = corners + (self._common - _area(shared))
        self._around = _area(_Share.apply(last - first, unit))

    @property
    def iou(self) -> Tensor:
        """The intersection's share of the union."""
        return _Share.apply(self._common, self._union)

    @property
    def missed(self) -> Tensor:
        """1 - `iou`."""
        sign = self._union.backend.unary("sign", self._union.data)
        return _Share.apply(self._missed, self._union) + (1 - Tensor(sign, self._union.backend))  # 1 without a union

    @property
    def between(self) -> Tensor:
        """The share of the box around both that neither covers."""
        return _Share.apply(self._between, self._around)


def _boxes(operation: str, boxes: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
    expect_tensor(operation, "boxes", boxes)
    target = _beside(operation, boxes, targets)
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"{operation}: boxes have shape {boxes.shape} but take (…, 4)")
    return boxes, target


def _area(extents: Tensor) -> Tensor:
    return extents[..., 0] * extents[..., 1]


def _beside(operation: str, x: Tensor, targets: Any) -> Tensor:
    """The targets as a constant tensor of x's backend, dtype and shape."""
    array = x.backend.asarray(targets.data if isinstance(targets, Tensor) else targets, x.dtype)
    if tuple(array.shape) != x.shape:
        raise ValueError(f"{operation}: targets have shape {tuple(array.shape)} but the predictions {x.shape}")
    if not np.prod(x.shape):
        raise ValueError(f"{operation}: predictions of shape {x.shape} hold no elements")
    return Tensor(array, x.backend)
