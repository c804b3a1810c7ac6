"""The contract of matrix products."""

from __future__ import annotations

from abc import ABC, abstractmethod

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.gate import Gate


class MatmulPrimitives(ABC):
    """Products of matrices."""

    @abstractmethod
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
        """y (M, P) = f(op(a) op(b) + bias): a (M, K) or its transpose, b (K, P) or its transpose, bias (P,).

        Args:
            gate: applied to `a`, whose shape gate.y has: the activation's gradient, on load; without a pool.
            accumulate: add to what `out` holds; not with bias or activation.
        """

    @abstractmethod
    def batched_matmul(self, a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False) -> Array:
        """The product of each pair of matrices: a (B, M, K) and b (B, K, P) -> (B, M, P), transposed as for `matmul`."""
