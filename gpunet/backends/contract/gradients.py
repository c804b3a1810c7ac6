"""`Gate` and `Into`: what a gradient primitive applies to dy, and where it writes its results."""

from typing import NamedTuple

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array

__all__ = ["NEW", "Gate", "Grads", "Into"]

Grads = tuple[Array, Array | None]
"""Of a weight and of a bias; None where the bias's is not needed."""


class Gate(NamedTuple):
    """What takes dy back through a fused activation and a fused max pool."""

    y: Array
    """The fused operation's output, of dy's shape (behind the pool); None without an activation."""
    activation: Activation | None
    mask: Array | None = None
    """The fused pool's mask, of dy's shape; None without a pool."""


class Into(NamedTuple):
    """Where the gradients of a weight and a bias go: new arrays, or segments of an arena."""

    weight: Array | None = None
    """The array to write the weight's gradient to; None for a new one. Always float32 on CUDA."""
    bias: Array | None = None
    """The array to write the bias's gradient to; None for a new one. Always float32 on CUDA."""
    needs_bias: bool = True
    """Whether the bias's gradient is computed at all."""
    add: bool = False
    """Whether to add to what `weight` and `bias` hold; a new array holds the gradient alone."""


NEW = Into()
"""Both gradients, in new arrays."""
