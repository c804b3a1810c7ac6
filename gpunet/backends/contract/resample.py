"""The contract of resampling."""

from __future__ import annotations

from abc import ABC, abstractmethod

from gpunet.backends.contract.arrays import Array
from gpunet.resampling import Taps


class ResamplePrimitives(ABC):
    """Images of another size, by tables."""

    @abstractmethod
    def resample2d(self, x: Array, rows: Taps, columns: Taps) -> Array:
        """y (N, OH, OW, C) of x (N, H, W, C): y[n, p, q, c] = sum over the taps i of `rows` at p and j of `columns` at q of
        their weights' product and x[n, i, j, c]; 0 where there are none. Its gradient is itself, by the transposed tables."""
