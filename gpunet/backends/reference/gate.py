"""The gate that takes a gradient back through an activation and a pool."""

from __future__ import annotations

from gpunet.backends.contract import Array, Backend, Conv, Gate


def open_gate(backend: Backend, dy: Array, conv: Conv, gate: Gate | None) -> Array:
    """dy taken back through the gate's activation, then through the pool if it has a mask."""
    if gate is not None and gate.activation is not None:
        dy = backend.activation_backward(dy, gate.y, gate.activation)
    if gate is not None and gate.mask is not None and conv.pool is not None:
        dy = backend.max_pool2d_backward(dy, gate.mask, conv.pool)
    return dy
