"""Counts the memory of the emulated device, with pools that keep freed memory as CuPy's do.

A pool takes memory from the device when it has none left, and gives it back only when
`free_all_blocks` is called. If a pool is dropped before that, its memory is lost until the process
ends; a program that leaks on a GPU leaks here too. A pool counts bytes and does not place them:
freed bytes serve any later request that is not larger.
"""

from __future__ import annotations

from gpunet.errors import BackendError

GRANULE = 512
"""CuPy's pools round requests up to a multiple of this, in bytes."""


class OutOfMemoryError(MemoryError):
    """The device has no memory left; CuPy's error of this name is a MemoryError, too."""


class DeviceMemory:
    """The memory of one device.

    Args:
        limit: bytes; None for no limit.
    Attributes:
        used: bytes that all pools hold, whether arrays use them or not.
    """

    def __init__(self, limit: int | None = None):
        self.limit, self.used = limit, 0

    def take(self, size: int) -> bool:
        """Take `size` bytes, and return whether the device had that many left."""
        if self.limit is not None and self.used + size > self.limit:
            return False
        self.used += size
        return True


class Pool:
    """Memory for arrays.

    Args:
        memory: the device's.
        of_graph: whether the memory belongs to graphs, whose launches go on using it after the
            arrays are freed. Such a pool gives nothing back to the device when memory is short, and
            once a graph was captured it hands out memory only to captures.
    Attributes:
        captured: whether a graph was captured on the pool's memory.
        given_back: whether the pool was emptied after that, so that no replay may touch its memory.
    """

    def __init__(self, memory: DeviceMemory, *, of_graph: bool = False):
        self._memory, self._of_graph, self._in_use, self._free = memory, of_graph, 0, 0
        self.captured = self.given_back = False

    def take(self, size: int, *, capturing: bool) -> int:
        """Take memory for an array of `size` bytes -> the bytes that it counts as, for `free`.

        Args:
            capturing: whether the current stream is being captured.
        Raises:
            OutOfMemoryError: the device has not enough memory left.
            BackendError: the memory is a captured graph's, and a replay would overwrite the array.
        """
        if self._of_graph and capturing:
            self.captured = True
        elif self.captured:
            raise BackendError(
                "this pool belongs to a captured graph: memory taken from it now would be overwritten by a replay"
            )
        taken = -(-size // GRANULE) * GRANULE
        if self._free >= taken:
            self._free -= taken
        else:
            self._take_from_device(taken)
        self._in_use += taken
        return taken

    def _take_from_device(self, size: int) -> None:
        if self._memory.take(size):
            return
        if not self._of_graph:
            self.free_all_blocks()
            if self._memory.take(size):
                return
        raise OutOfMemoryError(
            f"out of memory allocating {size} bytes: {self._memory.used} of the emulated device's "
            f"{self._memory.limit} are taken"
        )

    def free(self, taken: int) -> None:
        """Keep the memory of an array that is gone, for the next one."""
        self._in_use -= taken
        self._free += taken

    def free_all_blocks(self) -> None:
        """Give the memory that no array uses back to the device."""
        self._memory.used -= self._free
        self._free = 0
        self.given_back = self.captured

    def total_bytes(self) -> int:
        """Return how many bytes the pool holds, in use or free."""
        return self._in_use + self._free
