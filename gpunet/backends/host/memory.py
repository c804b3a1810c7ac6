"""Reuses memory of large arrays, since fresh pages would take a good part of a small net's step.

The C library returns large blocks to the system, and the next array pays a page fault for each page
of a new block. Here a block whose last array was deleted waits for the next array of about its
size, as in a GPU's memory pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

SMALLEST = 1 << 16
"""Bytes below which NumPy's own allocation is just as fast."""
KEPT = 1 << 30
"""Most bytes of waiting blocks. Beyond, all are released, for then most are of sizes that are no
longer needed."""
_ALIGNMENT = 64
_waiting: dict[int, list[np.ndarray]] = {}


class _Block:
    """Owns the bytes of an array, whose base it is; when it is deleted, they wait for another."""

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
    """Return all waiting blocks to the system."""
    _waiting.clear()


def empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """An array whose elements are not initialised, in memory of an earlier one if any waits."""
    dtype = np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    if size < SMALLEST or dtype.kind not in "fiu":
        return np.empty(shape, dtype)
    shape = tuple(int(n) for n in shape)
    # sizes are rounded up by at most an eighth, so that blocks fit again
    step = 1 << (size.bit_length() - 4)
    size = -(-size // step) * step
    try:
        memory = _waiting[size].pop()  # one atomic step, so that threads need no lock
    except (KeyError, IndexError):
        memory = np.empty(size + _ALIGNMENT, np.uint8)
    return np.asarray(_Block(memory, shape, dtype))
