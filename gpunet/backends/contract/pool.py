"""The contract of pooling."""

from abc import ABC, abstractmethod

from gpunet.backends.contract.arrays import Array
from gpunet.geometry import Geometry


class PoolPrimitives(ABC):
    """Maxima and means of windows."""

    @abstractmethod
    def max_pool2d_forward(self, x: Array, pool: Geometry) -> tuple[Array, Array]:
        """The largest value of each window of x (N, H, W, C), and its position in the window.

        The mask is the winner's position KW i + j in its window, as uint8 for windows of up to 256
        positions, else uint16 or int32. The first of equal values wins, and a NaN wins over
        numbers. Padding is counted in positions and never wins. y and mask are (N, OH, OW, C).
        """

    @abstractmethod
    def max_pool2d_backward(self, dy: Array, mask: Array, pool: Geometry) -> Array:
        """Gradient of x: the sum of dy over the windows that each pixel won -> dx (N, H, W, C)."""

    @abstractmethod
    def avg_pool2d_forward(self, x: Array, pool: Geometry, count_padding: bool) -> Array:
        """The mean of each window of x (N, H, W, C) -> y (N, OH, OW, C).

        Args:
            count_padding: whether the zeros of `pool.counted_padding` count in the mean, beside the
                image's pixels.
        """

    @abstractmethod
    def avg_pool2d_backward(self, dy: Array, pool: Geometry, count_padding: bool) -> Array:
        """Gradient of x: each window's dy, shared by what it was the mean of -> dx (N, H, W, C)."""
