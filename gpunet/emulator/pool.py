"""Memory of the emulated device: how much there is, and pools that keep what was freed, as CuPy's do.

A pool takes memory from the device when it has none left, and gives it back only when `free_all_blocks` is called; the memory
of a pool that is dropped before that is lost until the process ends. So a program that leaks on a GPU leaks here too. Bytes are
counted, not placed: freed bytes serve any later request of at most as many.
"""

from __future__ import annotations

from gpunet.errors import BackendError

GRANULE = 512
"""Bytes that CuPy's pools round a request up to."""


class OutOfMemoryError(MemoryError):
    """The device has no memory left; CuPy's error of this name is a MemoryError too."""


class DeviceMemory:
    """The memory of one device.

    Args:
        limit: bytes; None for as much as there is.
    Attributes:
        used: bytes that pools hold, whether arrays use them or not.
    """

    def __init__(self, limit: int | None = None):
        self.limit, self.used = limit, 0

    def take(self, size: int) -> bool:
        """Whether the device had so many bytes left, which then are taken."""
        if self.limit is not None and self.used + size > self.limit:
            return False
        self.used += size
        return True


class Pool:
    """Memory for arrays.

    Args:
        memory: the device's.
        of_graph: whether it is the memory of graphs, whose recorded launches go on using what was freed. Then it gives nothing
            back to the device in order to find room, and outside of captures it hands out nothing.
    Attributes:
        captured: whether a graph was captured on its memory.
        given_back: whether it was emptied after that, so that no replay may touch it any more.
    """

    def __init__(self, memory: DeviceMemory, *, of_graph: bool = False):
        self._memory, self._of_graph, self._in_use, self._free = memory, of_graph, 0, 0
        self.captured = self.given_back = False

    def take(self, size: int, *, capturing: bool) -> int:
        """Count an array of `size` bytes -> how many it takes, which `free` takes back.

        Args:
            capturing: whether the current stream is.
        Raises:
            OutOfMemoryError: the device has no more.
            BackendError: memory of a captured graph outside a capture: a replay would overwrite the array.
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
        """An array that took so many bytes is gone: keep its memory for the next one."""
        self._in_use -= taken
        self._free += taken

    def free_all_blocks(self) -> None:
        """Give back to the device what no array uses."""
        self._memory.used -= self._free
        self._free = 0
        self.given_back = self.captured

    def total_bytes(self) -> int:
        """Bytes that it holds, in use or free."""
        return self._in_use + self._free
