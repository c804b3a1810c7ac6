"""`Gate`: what a gradient primitive applies to dy while it loads it."""

from __future__ import annotations

from typing import NamedTuple

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array

__all__ = ["Gate"]


class Gate(NamedTuple):
    """What takes dy back through a fused activation and a fused max pool."""

    y: Array
    """The fused operation's output, of dy's shape (behind the pool); None without an activation."""
    activation: Activation | None
    mask: Array | None = None
    """The fused pool's mask, of dy's shape; None without a pool."""
