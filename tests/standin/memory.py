"""Device memory and page-locked memory of the stand-in: pages of this process, whose addresses are never used twice."""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect_right, insort

NAN_BYTE = 0xFF
"""What memory holds before it is written: four such bytes are a NaN."""


class Memory:
    """Allocations of one kind. A freed one keeps its address and loses its pages, so that a late use of it is found.

    Args:
        total: bytes that there are; None for as many as the process gets.
        unit: bytes that a size is rounded up to in the account; a real driver takes 2 MiB at a time.
    """

    def __init__(self, total: int | None = None, unit: int = 512):
        self.total, self.unit = total, unit
        self.used = 0
        self._starts: list[int] = []
        self._blocks: dict[int, tuple[mmap.mmap, int, int]] = {}
        """(pages, size, bytes that it counts for, 0 once it is freed) by address."""

    def allocate(self, size: int) -> int:
        """The address of `size` bytes, or 0 if there are no more."""
        taken = -(-size // self.unit) * self.unit
        if self.total is not None and self.used + taken > self.total:
            return 0
        pages = mmap.mmap(-1, size)
        address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        ctypes.memset(address, NAN_BYTE, size)
        insort(self._starts, address)
        self._blocks[address] = pages, size, taken
        self.used += taken
        return address

    def free(self, address: int) -> bool:
        """Whether an allocation that starts here was given back."""
        pages, size, taken = self._blocks.get(address, (None, 0, 0))
        if pages is None or not taken:
            return False
        pages.madvise(mmap.MADV_DONTNEED)
        self._blocks[address] = pages, size, 0
        self.used -= taken
        return True

    def room(self, address: int) -> int | None:
        """Bytes from here to the end of the living allocation around it; 0 in a freed one, None outside of all."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        start = self._starts[index]
        _, size, taken = self._blocks[start]
        if address >= start + size:
            return None
        return start + size - address if taken else 0
