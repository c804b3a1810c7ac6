"""Distances between embeddings, and the losses that learn them."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract import Array, real_array
from gpunet.functional.activation import log_softmax, relu
from gpunet.functional.movement import concatenate
from gpunet.functional.product import matmul
from gpunet.functional.terms import Weighed, check_reduction, one_hot, reduced, where_positive

__all__ = ["all_pairs_loss", "contrastive_loss", "squared_distances", "triplet_loss"]

DIRECT = 1 << 20
"""Differences up to which squared distances are sums of squared differences."""


class _Root(Function, name="root"):
    """The square root of numbers of at least 0, with a slope of 0 at 0 instead of infinity."""

    def forward(self, x: Array) -> Array:
        self.y = self.backend.unary("sqrt", x)
        return self.y

    def backward(self, dy: Array) -> Any:
        apply = self.backend.binary
        return where_positive(self.backend, self.y, apply("divide", dy, apply("add", self.y, self.y)))


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2 of all rows of a (M, D) and b (P, D) -> (M, P), at least 0.

    Up to `DIRECT` differences M P D are subtracted one by one. More would not fit into memory: then
    the result is |a_i|^2 + |b_j|^2 - 2 a_i b_j, after b's mean has been subtracted from all rows.
    Its error is a rounding of the squared distances of the rows from that mean, which may be larger
    than the result.
    """
    for name, x in (("a", a), ("b", b)):
        if expect_tensor("squared_distances", name, x).ndim != 2 or x.shape[1] != a.shape[1]:
            raise ValueError(f"squared_distances: takes a (M, D) and b (P, D), got {a.shape} and {b.shape}")
    (m, d), p = a.shape, len(b)
    if m * p * d <= DIRECT or not p:
        difference = a.reshape(m, 1, d) - b.reshape(1, p, d)
        return (difference * difference).sum(axis=2)
    centre = b.detach().mean(axis=0)
    a, b = a - centre, b - centre
    return relu((a * a).sum(axis=1, keepdims=True) + (b * b).sum(axis=1) - 2 * matmul(a, b.T))


def contrastive_loss(a: Tensor, b: Tensor, same: Any, *, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """s d^2 + (1 - s) max(margin - d, 0)^2, with d = |a - b| and s = same.

    Hadsell, Chopra & LeCun 2006, equation 4, doubled.

    Args:
        a, b: (N, D), the embeddings of the pairs.
        same: (N,), no gradient: 1 or True for a pair of one class, else 0. It may be lists, a host
            array, which is checked, a tensor, or the backend's int32 array, in which any other
            number makes the loss NaN.
        margin: the distance from which on a pair of two classes costs nothing.
        reduction: "mean" over the pairs, "sum", or "none" for their losses, (N,).
    Returns:
        A tensor of no axes, or (N,).
    """
    check_reduction("contrastive_loss", reduction)
    difference = _pair_differences("contrastive_loss", margin, a, b)
    square = (difference * difference).sum(axis=1)
    if not isinstance(same, Tensor):
        same = real_array("contrastive_loss: same", same)
    if tuple(same.shape) != (len(a),):
        raise ValueError(f"contrastive_loss: same must be ({len(a)},) of 0 and 1, got shape {tuple(same.shape)}")
    if isinstance(same, np.ndarray) and not np.isin(same, (0, 1)).all():
        raise ValueError(f"contrastive_loss: same must be of 0 and 1, got {same.min()} to {same.max()}")
    if isinstance(same, Tensor):
        s = same.detach()
    else:
        s = one_hot(a.backend.asarray(same, np.int32), 2, backend=a.backend, dtype=a.dtype)[:, 1]
    gap = relu(margin - _Root.apply(square))
    # a weight of 0 must hide the other term, for the square of a far pair may be infinite
    terms = Weighed.apply(square, t=s.data) + Weighed.apply(gap * gap, t=(1 - s).data)
    return reduced("contrastive_loss", terms, reduction)


def triplet_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, *, margin: float = 0.2, reduction: str = "mean"
) -> Tensor:
    """max(|anchor - positive|^2 - |anchor - negative|^2 + margin, 0).

    Schroff et al. 2015, equation 3.

    Args:
        anchor, positive, negative: (N, D), embeddings of two images of one class and of one image
            of another class.
        margin: how much the squared distance of the negative should exceed that of the positive.
        reduction: "mean" over the triplets, "sum", or "none" for their losses, (N,).
    Returns:
        A tensor of no axes, or (N,).
    """
    near = _pair_differences("triplet_loss", margin, anchor, positive)
    far = _pair_differences("triplet_loss", margin, anchor, negative)
    # |near|^2 - |far|^2 as a product, in which no square hides how little the two differ
    excess = ((negative - positive) * (near + far)).sum(axis=1)
    return reduced("triplet_loss", relu(excess + margin), reduction)


def all_pairs_loss(embeddings: Tensor, views: int, *, reduction: str = "mean") -> Tensor:
    """Cross entropies of softmax(-|query - example|^2) over all pairs of views.

    Each drawing should find its own class. The examples are one other drawing of each class of the
    batch. It is the one-shot loss of prototypical networks (Snell et al. 2017, equation 2), with
    every view as query and as example in turn, as in the multi-class N-pair loss (Sohn 2016,
    equation 7, for the idea).

    Args:
        embeddings: (views W, D): the first view of each of W classes, then the second view in the
            same order, and so on.
        views: the number of views, at least 2.
        reduction: "mean" over the drawings of all pairs, "sum", or "none" for their losses, (views
            (views - 1), W).
    Returns:
        A tensor of no axes, or (views (views - 1), W).
    """
    name = "all_pairs_loss"
    if expect_tensor(name, "embeddings", embeddings).ndim != 2 or views < 2 or len(embeddings) % views:
        raise ValueError(f"{name}: embeddings are {embeddings.shape} but take (views W, D), with {views} views >= 2")
    ways = len(embeddings) // views
    blocks = squared_distances(embeddings, embeddings).reshape(views, ways, views, ways).transpose(0, 2, 1, 3)
    # A captured step takes nothing from the host, so the parts are sliced out, and the right
    # classes are the diagonal.
    pairs = [blocks[q, e].reshape(1, ways * ways) for q in range(views) for e in range(views) if q != e]
    logs = log_softmax(-concatenate(pairs).reshape(len(pairs), ways, ways))
    return reduced(name, -logs.reshape(len(pairs), ways * ways)[:, :: ways + 1], reduction)


def _pair_differences(operation: str, margin: float, a: Tensor, b: Tensor) -> Tensor:
    """a - b of embeddings (N, D), after checks."""
    if not margin > 0:
        raise ValueError(f"{operation}: margin is {margin} but must be positive")
    expect_tensor(operation, "embeddings", a)
    if expect_tensor(operation, "embeddings", b).shape != a.shape or a.ndim != 2:
        raise ValueError(f"{operation}: embeddings must all be (N, D), got {a.shape} and {b.shape}")
    return a - b
