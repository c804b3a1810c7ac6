"""`Gate`: what a gradient primitive applies to dy while it loads it."""

from __future__ import annotations

from typing import NamedTuple

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.geometry import Geometry

FUSED_POOL = (2, 2)
"""Window, and stride, of the max pool that a convolution can take in."""


class Gate(NamedTuple):
    """What a gradient kernel needs to take dy back through a fused activation and max pool while it loads dy."""

    y: Array
    """The fused operation's output: after the pool, if there is one, as dy is; not read, and None, without activation."""
    activation: Activation | None
    mask: Array | None = None
    """The fused pool's mask, of y's shape; None without a pool."""
    pool: Geometry | None = None
    """The fused pool's geometry."""


def check_fused_pool(operation: str, g: Geometry, pool: Geometry | None) -> None:
    """ValueError unless `pool`, if there is one, is one that a convolution of this geometry can take in."""
    if pool is not None and pool != Geometry.pool(g.y_shape, FUSED_POOL):
        raise ValueError(f"{operation}: pool is {pool} but only 2x2 windows side by side over {g.y_shape} are fused")
