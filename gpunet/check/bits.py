"""Compares the bits of arrays on a device without copying the arrays to the host."""

from __future__ import annotations

import numpy as np

from gpunet.backends.contract import Array
from gpunet.backends.cuda.backend import CudaBackend
from gpunet.check.stage import FailedError, Numbers

THREADS, MOST_BLOCKS = 256, 1024
"""Threads of a block, and the most blocks of a launch."""


class Bits:
    """Counts the words that differ, over any number of comparisons.

    Args:
        backend: the backend of the device that holds the arrays.
    """

    def __init__(self, backend: CudaBackend):
        self.backend, self.comparisons = backend, 0
        self._differing = backend.asarray(np.zeros(1, np.int32))

    def compare(self, a: Array, b: Array) -> None:
        """Compare two contiguous arrays of float32 on the current stream."""
        self.comparisons += 1
        blocks = max(min(-(-a.size // THREADS), MOST_BLOCKS), 1)
        self.backend.launcher.launch("differing_words", blocks, THREADS, [a, b, a.size, self._differing])

    def all_equal(self, message: str) -> Numbers:
        """The number of comparisons.

        Raises:
            FailedError: with this message, if a comparison found a difference.
        """
        differing = int(self.backend.to_numpy(self._differing)[0])
        numbers = {"comparisons": self.comparisons, "differing words": differing}
        if differing:
            raise FailedError(message, numbers)
        return numbers
