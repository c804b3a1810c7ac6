"""Gradients added up over the ranks in buckets, while the backward pass goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpunet.arena import Arena
from gpunet.distributed import Ranks
from gpunet.train.ranks import add

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
        self._firsts = _first_segments(arena)
        self._missing = [{*segments} for segments in self._segments()]
        self._begun = 0
        self._waits: list[Callable[[], None]] = []

    def filled(self, parameter: Any) -> None:
        """Take note that the gradient of a parameter is complete."""
        if getattr(parameter, "arena", None) is not self._arena:
            return
        bucket = int(np.searchsorted(-np.array(self._firsts), -parameter.segment))
        self._missing[bucket].discard(parameter.segment)
        while self._begun < len(self._missing) and not self._missing[self._begun]:
            self._begin()

    def finish(self) -> None:
        """Send the other buckets, and wait until every rank has the sums."""
        while self._begun < len(self._missing):
            self._begin()
        for wait in self._waits:
            wait()

    def _segments(self) -> Iterator[range]:
        """The segments of each bucket, the last ones first."""
        end = len(self._arena)
        for first in self._firsts:
            yield range(first, end)
            end = first

    def _begin(self) -> None:
        """Send the next bucket: those of its segments that hold a gradient."""
        segments = list(self._segments())[self._begun]
        self._begun += 1
        arena = self._arena
        bounds, _ = arena.runs([segments.start <= i < segments.stop for i in range(len(arena))])
        limits = arena.bounds[segments.start, 0], arena.bounds[segments.stop - 1, 1]
        for begin, end in bounds.tolist():
            if limits[0] <= begin < limits[1]:
                self._send(arena.grad[begin:end])

    def _send(self, gradient: Any) -> None:
        if isinstance(gradient, np.ndarray):
            self._waits.append(self._ranks.begin_add(gradient))
        else:  # NCCL goes on beside the host, and in the graph of a captured step
            add(self._ranks, self._arena.backend, gradient)


def _first_segments(arena: Arena) -> list[int]:
    """The first segment of each bucket, the last bucket first."""
    least = max(LEAST_BYTES // arena.dtype.itemsize, arena.size // MOST_BUCKETS)
    firsts, end = [], arena.size
    for i in range(len(arena) - 1, -1, -1):
        if end - int(arena.bounds[i, 0]) >= least or i == 0:
            firsts.append(i)
            end = int(arena.bounds[i, 0])
    return firsts
