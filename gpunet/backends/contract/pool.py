"""The contract of pooling."""

from __future__ import annotations

from abc import ABC, abstractmethod

from gpunet.backends.contract.arrays import Array
from gpunet.geometry import Geometry


class PoolPrimitives(ABC):
    """Maxima and means of windows."""

    @abstractmethod
    def max_pool2d_forward(self, x: Array, *, geometry: Geometry) -> tuple[Array, Array]:
        """(y, mask), both (N, OH, OW, C). The mask is the winner's position KW i + j in its window: the first of equals, NaN
        before all; uint8 for windows of up to 256 positions, else uint16 or int32. Padded taps are counted and never win."""

    @abstractmethod
    def max_pool2d_backward(self, dy: Array, mask: Array, *, geometry: Geometry) -> Array:
        """dx (N, H, W, C): the sum of dy over the windows that each pixel won."""

    @abstractmethod
    def avg_pool2d_forward(self, x: Array, *, geometry: Geometry, count_padding: bool) -> Array:
        """y (N, OH, OW, C): the mean over each window's pixels inside the image, and with `count_padding` over those in
        `Geometry.counted_padding` too."""

    @abstractmethod
    def avg_pool2d_backward(self, dy: Array, *, geometry: Geometry, count_padding: bool) -> Array:
        """dx (N, H, W, C)."""
