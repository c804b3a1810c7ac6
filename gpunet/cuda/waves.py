"""How blocks fill a device: the arithmetic that the choice of tiles and the predictions share."""

from __future__ import annotations

from gpunet.nvrtc.source import constant

BLOCK_CYCLES = 2500
"""Cycles of a round of blocks outside their main loops: their start, their first loads, their
results' way to memory."""
SPLIT_GROUP = constant("slots.cuh", "SPLIT_GROUP")
SLOTS_AHEAD = constant("slots.cuh", "SLOTS_AHEAD")
SLOT_CYCLES = 600
"""Cycles in which a block loads and adds four results for each thread of `SLOTS_AHEAD` slots: 32
KiB from the second-level cache at about 64 bytes a cycle, and the latency of a part of it."""
ARRIVAL_CYCLES = 1500
"""Cycles in which a block makes its results visible and counts its arrival."""


def rounds(blocks: int, held: int, multiprocessors: int) -> dict[int, int]:
    """How often the fullest multiprocessor holds how many blocks at once: {blocks: times}."""
    whole, rest = divmod(-(-blocks // multiprocessors), held)
    return {count: times for count, times in ((held, whole), (rest, 1)) if count and times}


def counters_of(splits: int) -> int:
    """Counters by which the splits of a tile tell that they have arrived, as in kernels/slots.cuh."""
    groups = -(-splits // SPLIT_GROUP)
    return groups + (groups > 1)


def merge_cycles(splits: int, results: int) -> int:
    """Cycles in which the last block adds up its splits, after those before it in the same way.

    Args:
        splits: parts of the reduction, which are added in groups of `SPLIT_GROUP`.
        results: results of a thread.
    """
    members = min(splits, SPLIT_GROUP), -(-splits // SPLIT_GROUP)
    pieces = -(-results // 4)
    return sum(ARRIVAL_CYCLES + pieces * -(-n // SLOTS_AHEAD) * SLOT_CYCLES for n in members if n > 1)
