"""Losses that measure how far masks and boxes overlap their targets, made of tensor operations."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract import Array
from gpunet.functional.activation import relu
from gpunet.functional.selection import maximum, minimum
from gpunet.functional.terms import check_reduction, reduced, where_positive

__all__ = ["dice_loss", "giou", "giou_loss", "iou", "iou_loss"]


class _Share(Function, name="share"):
    """a / b, elementwise; 0 without a gradient where b is not above 0, as of boxes without area."""

    def forward(self, a: Array, b: Array) -> Array:
        self.save(b)
        self.y = where_positive(self.backend, b, self.backend.binary("divide", a, b))
        return self.y

    def backward(self, dy: Array) -> Any:
        (b,), apply = self.saved, self.backend.binary
        da = where_positive(self.backend, b, apply("divide", dy, b))
        return da, self.backend.unary("negative", apply("multiply", da, self.y)) if self.needs(1) else None


def dice_loss(probabilities: Tensor, target: Any, *, smooth: float = 1.0, reduction: str = "mean") -> Tensor:
    """1 - Dice's coefficient of each image and class.

    It is 1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth). The sums are over the pixels
    (Milletari et al. 2016, section 3; here without squares, as in Sudre et al. 2017). The loss is
    computed as sum(p (1 - t) + t (1 - p)) / (sum(p) + sum(t) + smooth), which keeps its digits
    where p is almost t. It weighs a class by its overlap, not by its pixels, so that a small
    foreground counts as much as a large one.

    Args:
        probabilities: (N, H, W, K), or (N, H, W) of one class, from 0 to 1, such as channels of a
            softmax.
        target: floats of the same shape, from 0 to 1, no gradient: 1 where a pixel is of the class.
        smooth: above 0; it makes the coefficient 1 where a class is neither present nor predicted,
            instead of 0 / 0.
        reduction: "mean" over images and classes, "sum", or "none" for the losses, (N, K) or (N,).
    Returns:
        A tensor of no axes, (N, K) or (N,).
    """
    check_reduction("dice_loss", reduction)
    expect_tensor("dice_loss", "probabilities", probabilities)
    t = _constant("dice_loss", probabilities, target)
    if probabilities.ndim not in (3, 4):
        raise ValueError(f"dice_loss: probabilities are {probabilities.shape} but take (N, H, W, K) or (N, H, W)")
    if not smooth > 0:
        raise ValueError(f"dice_loss: smooth is {smooth} but must be positive")
    apart = (probabilities * (1 - t) + t * (1 - probabilities)).sum(axis=(1, 2))
    total = probabilities.sum(axis=(1, 2)) + t.sum(axis=(1, 2))
    return reduced("dice_loss", apart / (total + smooth), reduction)


def iou(boxes: Tensor, target: Any) -> Tensor:
    """Intersection over union of each box with its target, from 0 to 1.

    Args:
        boxes, target: as for `giou`.
    Returns:
        (…). Boxes that do not touch get no gradient.
    """
    return _Overlap("iou", boxes, target).iou


def iou_loss(boxes: Tensor, target: Any, *, reduction: str = "mean") -> Tensor:
    """1 - `iou`, from 0 to 1 (Rezatofighi et al. 2019, section 3; Yu et al. 2016 take -log IoU).

    Args:
        boxes, target: as for `giou`.
        reduction: "mean" over the boxes, "sum", or "none" for their losses, (…).
    """
    check_reduction("iou_loss", reduction)
    return reduced("iou_loss", _Overlap("iou_loss", boxes, target).missed, reduction)


def giou(boxes: Tensor, target: Any) -> Tensor:
    """Generalised intersection over union of each box with its target, from -1 to 1.

    Rezatofighi et al. 2019, algorithm 1: GIoU = I / U - (A - U) / A, with the intersection I, the
    union U, and the area A of the smallest box around both, so that boxes that do not touch have a
    gradient as well.

    Args:
        boxes: (…, 4), (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1, in any unit. A box whose end
            lies before its beginning counts as one that ends where it begins, without an area.
        target: boxes of the same shape, no gradient; they may have no area.
    Returns:
        (…); 0 where neither box has an area and they lie on one line.
    """
    overlap = _Overlap("giou", boxes, target)
    return overlap.iou - overlap.between


def giou_loss(boxes: Tensor, target: Any, *, reduction: str = "mean") -> Tensor:
    """1 - `giou`, from 0 to 2; arguments as for `iou_loss`."""
    check_reduction("giou_loss", reduction)
    overlap = _Overlap("giou_loss", boxes, target)
    return reduced("giou_loss", overlap.missed + overlap.between, reduction)


class _Overlap:
    """The areas of pairs of boxes, in units of the smallest box around both.

    So no float is too large or too small. The unit gets no gradient, because ratios of areas do not
    depend on it. No area is a difference of two areas, which may be almost equal: on each axis,
    what a box lacks of the box around both is what the other box has outside it, and all areas
    follow from that.
    """

    def __init__(self, operation: str, boxes: Tensor, target: Any):
        given = expect_tensor(operation, "boxes", boxes), _constant(operation, boxes, target)
        if boxes.shape[-1:] != (4,):
            raise ValueError(f"{operation}: boxes have shape {boxes.shape} but take (…, 4)")
        pair = [(b[..., :2], maximum(b[..., 2:], b[..., :2])) for b in given]
        (upper, lower), (t_upper, t_lower) = pair
        first, last = minimum(upper, t_upper), maximum(lower, t_lower)
        unit = (last - first).detach()
        shared = _Share.apply(minimum(lower, t_lower) - maximum(upper, t_upper), unit)  # negative for boxes apart
        common = relu(shared)
        extents = [_Share.apply(x1 - x0, unit) for x0, x1 in pair]
        beside = [_Share.apply((x0 - first) + (last - x1), unit) for x0, x1 in pair]
        outside = [minimum(extent, other) for extent, other in zip(extents, reversed(beside), strict=True)]
        pieces = zip(outside, extents, strict=True)
        parts = [lost[..., 0] * of[..., 1] + common[..., 0] * lost[..., 1] for lost, of in pieces]
        self._common, self._missed = _area(common), parts[0] + parts[1]
        self._union = self._common + self._missed
        corners = beside[0][..., 0] * beside[1][..., 1] + beside[1][..., 0] * beside[0][..., 1]
        self._between = corners + (self._common - _area(shared))
        self._around = _area(_Share.apply(last - first, unit))

    @property
    def iou(self) -> Tensor:
        """The share of the intersection in the union."""
        return _Share.apply(self._common, self._union)

    @property
    def missed(self) -> Tensor:
        """1 - `iou`."""
        sign = self._union.backend.unary("sign", self._union.data)
        without_union = 1 - Tensor(sign, self._union.backend)  # 1 if there is no union
        return _Share.apply(self._missed, self._union) + without_union

    @property
    def between(self) -> Tensor:
        """The share of the box around both that neither box covers."""
        return _Share.apply(self._between, self._around)


def _area(extents: Tensor) -> Tensor:
    """The product of the extents (…, 2)."""
    return extents[..., 0] * extents[..., 1]


def _constant(operation: str, x: Tensor, target: Any) -> Tensor:
    """The target as a tensor without a gradient, of x's backend, dtype and shape."""
    array = x.backend.asarray(target.data if isinstance(target, Tensor) else target, x.dtype)
    if tuple(array.shape) != x.shape:
        raise ValueError(f"{operation}: target has shape {tuple(array.shape)} but the prediction {x.shape}")
    if not np.prod(x.shape):
        raise ValueError(f"{operation}: predictions of shape {x.shape} hold no elements")
    return Tensor(array, x.backend)
