"""The gate that takes a gradient back through an activation and a pool."""

from __future__ import annotations

from abc import ABC

from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.gate import Gate
from gpunet.backends.host.backend import HostBackend


class ReferenceGate(HostBackend, ABC):
    """What convolutions and products do to dy first."""

    def _open(self, dy: Array, gate: Gate | None) -> Array:
        if gate is not None and gate.activation is not None:
            dy = self.activation_backward(dy, gate.y, gate.activation)
        if gate is not None and gate.mask is not None and gate.pool is not None:
            dy = self.max_pool2d_backward(dy, gate.mask, geometry=gate.pool)
        return dy
