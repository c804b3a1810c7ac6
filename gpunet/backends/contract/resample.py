"""The contract of resampling."""

from abc import ABC, abstractmethod

from gpunet.backends.contract.arrays import Array
from gpunet.resampling import Taps


class ResamplePrimitives(ABC):
    """Images of other extents, by tables of weights."""

    @abstractmethod
    def resample2d(self, x: Array, rows: Taps, columns: Taps) -> Array:
        """Each pixel of y (N, OH, OW, C) as a weighted sum of pixels of x (N, H, W, C).

            y[n, p, q, c] = sum over the taps i of `rows` at p and j of `columns` at q of
                weight_i weight_j x[n, i, j, c]

        It is 0 where there are no taps. The gradient of x is the same operation on dy, by the
        transposed tables.
        """
