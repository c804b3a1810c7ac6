"""The gate that takes a gradient back through an activation and a pool, on the CPU."""

from gpunet.backends.contract import Array, Gate
from gpunet.backends.host import memory
from gpunet.backends.numpy.output_activation import open_activation
from gpunet.backends.numpy.pool import max_pool_backward
from gpunet.geometry import Geometry


def open_gate(dy: Array, gate: Gate | None, pool: Geometry | None = None) -> Array:
    """dy (n, …) taken back through the gate's activation, then through the pool if it has a
    mask."""
    if gate is None:
        return dy
    if gate.activation is not None:
        dy = open_activation(dy, gate.y, gate.activation)
    if gate.mask is None or pool is None:
        return dy
    dx = memory.empty((len(dy), *pool.x_shape[1:]), dy.dtype)
    max_pool_backward(dy, gate.mask, dx, pool)
    return dx


def slice_gate(gate: Gate | None, first: int, last: int) -> Gate | None:
    """The gate of images first … last - 1."""
    if gate is None:
        return None
    y, mask = (None if array is None else array[first:last] for array in (gate.y, gate.mask))
    return gate._replace(y=y, mask=mask)
