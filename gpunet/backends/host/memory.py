"""Memory that is used again: what fresh pages of a step's large arrays would cost is a good part of a small net's step.

The C library gives large blocks back to the system, which hands out zeroed pages, a fault each, the next time. Here a block
whose last array has gone waits for the next array of about its size, as on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

SMALLEST = 1 << 16
"""Bytes below which NumPy's own allocation is as fast."""
KEPT = 1 << 30
"""Bytes of waiting blocks at most; beyond, all are let go, for they are of sizes that are no longer asked for."""
_ALIGNMENT = 64
_waiting: dict[int, list[np.ndarray]] = {}


class _Block:
    """Owns bytes on behalf of arrays, which keep it as their base, and gives them back when it goes."""

    __slots__ = ("__array_interface__", "_bytes")

    def __init__(self, memory: np.ndarray, shape: tuple[int, ...], dtype: np.dtype):
        self._bytes = memory
        address = memory.ctypes.data
        address += -address % _ALIGNMENT
        self.__array_interface__ = {"data": (address, False), "shape": shape, "typestr": dtype.str, "version": 3}

    def __del__(self) -> None:
        size = self._bytes.size - _ALIGNMENT
        if sum(n * len(ready) for n, ready in list(_waiting.items())) + size > KEPT:
            release()
        _waiting.setdefault(size, []).append(self._bytes)


def release() -> None:
    """Give all waiting blocks back to the system."""
    _waiting.clear()


def empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """An array whose elements are not set, in memory that may have been another's."""
    shape, dtype = tuple(int(n) for n in shape), np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    if size < SMALLEST or dtype.kind not in "fiu":
        return np.empty(shape, dtype)
    step = 1 << (size.bit_length() - 4)  # sizes in steps of an eighth at most, so that blocks fit again
    size = -(-size // step) * step
    try:
        memory = _waiting[size].pop()  # in one step, so that threads need no lock
    except (KeyError, IndexError):
        memory = np.empty(size + _ALIGNMENT, np.uint8)
    return np.asarray(_Block(memory, shape, dtype))
