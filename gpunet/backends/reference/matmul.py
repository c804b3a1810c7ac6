"""Matrix products by their formulas."""

from __future__ import annotations

from abc import ABC

import numpy as np

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.gate import Gate
from gpunet.backends.host.arrays import deliver
from gpunet.backends.reference.gate import ReferenceGate


class ReferenceMatmul(ReferenceGate, ABC):
    """Products of matrices."""

    def matmul(
        self,
        a: Array,
        b: Array,
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        bias: Array | None = None,
        activation: Activation | None = None,
        gate: Gate | None = None,
        out: Array | None = None,
        accumulate: bool = False,
    ) -> Array:
        a = self._open(a, gate)
        y = (a.T if transpose_a else a).astype(np.float64) @ (b.T if transpose_b else b).astype(np.float64)
        if bias is not None:
            y = y + bias
        y = y.astype(a.dtype)
        if activation is not None:
            y = self.activation_forward(y, activation)
        return deliver(y, out, accumulate)
