"""`ConvAlgorithm`: what the ways to compute a convolution have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from gpunet.backends.contract import Array, Conv, Gate
from gpunet.backends.numpy.output_activation import activate
from gpunet.backends.numpy.pool import max_pool_forward
from gpunet.backends.numpy.sums import Total
from gpunet.backends.numpy.threads import PARTS
from gpunet.geometry import Geometry


class ConvAlgorithm(ABC):
    """One convolution, computed for a block of images at a time.

    An instance belongs to one part of the images and holds the memory for its blocks. Below, n is the
    number of images of a block, and arrays are as in `ConvPrimitives`, with n for N.

    Attributes:
        channels: those of a group, C // groups.
        taps: the products of one sum, KH KW C // groups.
    """

    def __init__(self, conv: Conv, dtype: Any):
        self.conv, self.geometry, self.dtype = conv, conv.geometry, np.dtype(dtype)
        kh, kw, self.channels, _ = conv.geometry.w_shape
        self.taps = kh * kw * self.channels

    @classmethod
    def prepared(cls, w: Array) -> Any:
        """The filters w (KH, KW, C // groups, O) as `forward` takes them."""
        return w

    @classmethod
    def most_parts(cls, g: Geometry) -> int:
        """Parts at most into which the images are cut."""
        return PARTS

    @abstractmethod
    def blocks(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Images start … stop - 1 as ranges, one for each block."""

    @abstractmethod
    def forward(
        self, x: Array, w: Any, b: Array | None, y: Array, mask: Array | None, residual: Array | None = None
    ) -> None:
        """Write y, and mask if there is a pool, of images x, with filters that `prepared` returned."""

    @abstractmethod
    def weight_grad(self, dy: Array, x: Array, gate: Gate | None, dw: Total, db: Total | None) -> None:
        """Add what images x and dy contribute to dw (KH, KW, C // groups, O) and db (O,)."""

    @abstractmethod
    def input_grad(self, dy: Array, w: Array, gate: Gate | None, dx: Array) -> None:
        """Write dx (n, H, W, C)."""

    def _finish(self, sums: Array, b: Array | None, y: Array, mask: Array | None, residual: Array | None) -> None:
        """Write y, and mask, from the sums (n, OH, OW, O), which are y itself without a pool."""
        if self.conv.pool is not None and mask is not None:
            max_pool_forward(sums, y, mask, self.conv.pool)
        if b is not None:
            # Whole rows of pixels at a time: NumPy's broadcasting is slow along few channels
            rows = y.reshape(-1, y.shape[2] * len(b))
            rows += np.tile(b, y.shape[2])
        if residual is not None:
            y += residual
        if self.conv.activation is not None:
            activate(y, self.conv.activation, out=y)


def ranges(start: int, stop: int, length: int) -> list[tuple[int, int]]:
    """start … stop - 1 as ranges of `length`, or of 1 if that is less."""
    length = max(length, 1)
    return [(i, min(i + length, stop)) for i in range(start, stop, length)]


def group_slice(i: int, groups: int, channels: int) -> slice:
    """The channels of group i."""
    each = channels // groups
    return slice(i * each, (i + 1) * each)
