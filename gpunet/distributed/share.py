"""Shares of batches: which rows of a batch each rank takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Share:
    """The rows of a batch that one rank takes."""

    batch: Any
    """A tuple of arrays with these rows. A rank for which there is no row has one that counts for nothing,
    so that it makes the same calls as the others."""
    first: int
    """Rows of the batch before these."""
    rows: int
    """How many count; 0 where there is none for this rank."""
    total: int
    """Rows of the whole batch."""


_computed: Share | None = None


@contextmanager
def computing(share: Share) -> Iterator[None]:
    """A context in which operations compute this share; `is_stand_in` and `is_single_row` tell about it."""
    global _computed
    before, _computed = _computed, share
    try:
        yield
    finally:
        _computed = before


def is_stand_in() -> bool:
    """Whether what is computed counts for nothing, because this rank has no row of the batch."""
    return _computed is not None and not _computed.rows


def is_single_row() -> bool:
    """Whether the whole batch, of which a share is computed, has one row."""
    return _computed is not None and _computed.total == 1


def share_bounds(total: int, rank: int, size: int) -> tuple[int, int]:
    """(first row, one past the last) of a rank's share of `total` rows.

    The shares of all ranks, in their order, are the batch, and differ by one row at most.
    """
    return total * rank // size, total * (rank + 1) // size


def taken(total: int, rank: int, size: int) -> tuple[slice, int, int]:
    """(the rows that a rank takes out of a batch, rows before them, how many of them count)."""
    first, last = share_bounds(total, rank, size)
    if first < last:
        return slice(first, last), first, last - first
    stand_in = min(first, total - 1)
    return slice(stand_in, stand_in + 1), stand_in, 0


def share_of(batch: Any, rank: int, size: int) -> Share:
    """A rank's share of a batch whose arrays are all there; what is no batch is passed on whole."""
    parts = batch if isinstance(batch, tuple | list) else ()
    shapes = [getattr(part, "shape", None) for part in parts]
    lengths = {shape[0] if shape else 0 for shape in shapes}
    total = next(iter(lengths), 0)
    if len(lengths) != 1 or not total:
        return Share(batch, 0, total, total)
    rows, first, count = taken(total, rank, size)
    return Share(tuple(part[rows] for part in parts), first, count, total)
