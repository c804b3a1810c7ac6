"""Gradients added up over the ranks in buckets, while the backward pass goes on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

from gpunet.arena import Arena
from gpunet.distributed import Ranks
from gpunet.distributed.devices import begin_add

LEAST_BYTES = 1 << 20
"""Of a bucket; a message takes some microseconds, whatever its length."""
MOST_BUCKETS = 8


class Buckets:
    """Neighbouring segments of an arena whose gradients go into one message.

    The backward pass fills the last segments first. A bucket is sent as soon as all of its segments
    are filled and the ones behind it are sent, so that all ranks send them in one order.

    Args:
        ranks: which have the same arena.
        arena: of the gradients.
    """

    def __init__(self, ranks: Ranks, arena: Arena) -> None:
        self._ranks, self._arena = ranks, arena
        self._segments = _segments_of_buckets(arena)
        self._bucket = {segment: i for i, segments in enumerate(self._segments) for segment in segments}
        self._missing = [{*segments} for segments in self._segments]
        self._begun = 0
        self._waits: list[Callable[[], None]] = []

    def filled(self, parameter: Any) -> None:
        """Take note that the gradient of a parameter is complete."""
        if getattr(parameter, "arena", None) is not self._arena:
            return
        self._missing[self._bucket[parameter.segment]].discard(parameter.segment)
        while self._begun < len(self._missing) and not self._missing[self._begun]:
            self._begin()

    def finish(self) -> None:
        """Send the other buckets, and wait until every rank has the sums."""
        while self._begun < len(self._missing):
            self._begin()
        for wait in self._waits:
            wait()

    def _begin(self) -> None:
        """Send the next bucket: those of its segments that hold a gradient."""
        arena, segments = self._arena, self._segments[self._begun]
        self._begun += 1
        for written, run in groupby(segments, key=arena.written.__getitem__):
            if written:
                first, *others = run
                gradient = arena.grad[arena.bounds[first, 0] : arena.bounds[others[-1] if others else first, 1]]
                self._waits.append(begin_add(self._ranks, arena.backend, gradient))


def _segments_of_buckets(arena: Arena) -> list[range]:
    """The segments of each bucket, the last ones first."""
    least = max(LEAST_BYTES // arena.dtype.itemsize, arena.size // MOST_BUCKETS)
    found, end, starts = [], len(arena), [*arena.bounds[:, 0].tolist(), arena.size]
    for first in range(len(arena) - 1, -1, -1):
        if starts[end] - starts[first] >= least or first == 0:
            found.append(range(first, end))
            end = first
    return found
