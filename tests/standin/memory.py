"""Device memory and page-locked memory of the stand-in: pages of this process.

No address is ever used twice.
"""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect_right, insort

NAN_BYTE = 0xFF
"""The bytes of memory that was not written yet; four of them are a NaN."""


class Memory:
    """Allocations of one kind.

    When one is freed, its pages are given back and its address stays taken, so that a late use is
    found.

    Args:
        total: bytes in all; None for no limit but the process's.
        unit: sizes are counted in multiples of this, in bytes; a real driver takes 2 MiB at a time.
    """

    def __init__(self, total: int | None = None, unit: int = 512):
        self.total, self.unit = total, unit
        self.used = 0
        self._starts: list[int] = []
        self._blocks: dict[int, tuple[mmap.mmap, int, int]] = {}
        """(pages, size, bytes that are counted for it, or 0 once it is freed), by address."""

    def allocate(self, size: int) -> int:
        """Return the address of `size` new bytes, or 0 if that many are not left."""
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
        """Free the allocation that starts at an address, and return whether there was one."""
        pages, size, taken = self._blocks.get(address, (None, 0, 0))
        if pages is None or not taken:
            return False
        pages.madvise(mmap.MADV_DONTNEED)
        self._blocks[address] = pages, size, 0
        self.used -= taken
        return True

    def room(self, address: int) -> int | None:
        """Return the bytes from an address to the end of its allocation.

        The result is 0 if the allocation was freed, and None if the address lies in none.
        """
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        start = self._starts[index]
        _, size, taken = self._blocks[start]
        if address >= start + size:
            return None
        return start + size - address if taken else 0
