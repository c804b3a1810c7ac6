"""`Into`: where a primitive writes the gradients of a layer's weight and bias."""

from __future__ import annotations

from typing import NamedTuple

from gpunet.backends.contract.arrays import Array

__all__ = ["NEW", "Grads", "Into"]

Grads = tuple[Array, Array | None]
"""Of a weight and of a bias; None where the bias's is not needed."""


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
