"""`Form`: what the three ways to compute a convolution have in common."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.gate import Gate
from gpunet.backends.numpy.output_activation import activate
from gpunet.backends.numpy.pool import max_pool_forward
from gpunet.backends.numpy.sums import Total
from gpunet.geometry import Geometry


class Form(Protocol):
    """One convolution over blocks of images, made for a thread, whose memory it holds: `Columns`, `Planes` or
    `Depthwise`."""

    geometry: Geometry

    def __init__(self, geometry: Geometry, dtype: Any): ...

    def blocks(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Ranges of images to take at a time."""
        ...

    def forward(
        self,
        x: Array,
        w: Array,
        b: Array | None,
        activation: Activation | None,
        pool: Geometry | None,
        y: Array,
        mask: Array | None,
    ) -> None:
        """Write y, and mask if there is a pool, of images x; all as in `Backend.conv2d_forward`."""
        ...

    def weight_grad(self, dy: Array, x: Array, gate: Gate | None, dw: Total, db: Total | None) -> None:
        """Add to dw (KH, KW, C // groups, O) and db (O,) what images x and dy give."""
        ...

    def input_grad(self, dy: Array, w: Array, gate: Gate | None, dx: Array) -> None:
        """Write dx (n, H, W, C)."""
        ...


def finish(
    whole: Array, b: Array | None, activation: Activation | None, pool: Geometry | None, y: Array, mask: Array | None
) -> None:
    """Write y, and mask, from the sums of a convolution, `whole`, which is y itself without a pool."""
    if pool is not None and mask is not None:
        max_pool_forward(whole, y, mask, pool)
    if b is not None:
        # rows of the image at a time: NumPy's broadcasting is slow along few channels
        rows = y.reshape(-1, y.shape[2] * len(b))
        rows += np.tile(b, y.shape[2])
    if activation is not None:
        activate(y, activation, out=y)


def ranges(start: int, stop: int, each: int) -> list[tuple[int, int]]:
    """start … stop - 1 in ranges of `each`, at least one."""
    each = max(each, 1)
    return [(i, min(i + each, stop)) for i in range(start, stop, each)]


def group_slice(i: int, groups: int, channels: int) -> slice:
    """The channels of group i."""
    each = channels // groups
    return slice(i * each, (i + 1) * each)


def reached(g: Geometry, axis: int, tap: int) -> slice:
    """The padded pixels under one row (axis 0), or column (1), of taps of all windows."""
    first, step = tap * g.dilation[axis], g.stride[axis]
    return slice(first, first + step * (g.y_shape[1 + axis] - 1) + 1, step)
