"""What the CPU backends tell the other ranks of a batch that they share."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.backends.contract import Array, BatchNorm, BatchRanks


def sums_over(ranks: BatchRanks, *terms: Any) -> list[Any]:
    """Sums over the ranks of numbers and of arrays (C,), in float64 and in one message.

    The terms of a rank that does not count are taken as 0, whatever they are.
    """
    flat = np.concatenate([np.ravel(term) for term in terms], dtype=np.float64)
    if not ranks.contributes:
        flat[:] = 0
    ranks.add(flat)
    parts = np.split(flat, np.cumsum([np.size(term) for term in terms])[:-1])
    return [part if np.ndim(term) else part.item() for part, term in zip(parts, terms, strict=True)]


def sums_through_moments(norm: BatchNorm, dw: Array, db: Array, n: int) -> tuple[Array, Array, float] | None:
    """(dw, db, n) of the whole batch, by which dx goes through its moments; None where x does not change them."""
    if not norm.training:
        return None
    if norm.ranks is None:
        return dw, db, n
    dw, db, total = sums_over(norm.ranks, dw, db, n)
    return (dw, db, total) if norm.ranks.contributes else None
