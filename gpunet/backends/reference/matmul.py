"""Matrix products by their formulas."""

import numpy as np

from gpunet.backends.contract import PLAIN_PRODUCT, Array, Product
from gpunet.backends.host.arrays import QUIET, HostArrays, deliver


class ReferenceMatmul(HostArrays):
    """Products of matrices; sums are float64."""

    def matmul(self, a: Array, b: Array, product: Product = PLAIN_PRODUCT) -> Array:
        gate = product.gate
        if gate is not None and gate.activation is not None:
            a = self.activation_backward(a, gate.y, gate.activation)
        left, right = a.T if product.transpose_a else a, b.T if product.transpose_b else b
        y = left.astype(np.float64) @ right.astype(np.float64)
        if product.bias is not None:
            y = y + product.bias
        y = y.astype(a.dtype)
        if product.activation is not None:
            y = self.activation_forward(y, product.activation)
        return deliver(y, product.out, product.add)

    @QUIET
    def batched_matmul(
        self, a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False, precision: str = "float32"
    ) -> Array:
        return np.matmul(a.swapaxes(1, 2) if transpose_a else a, b.swapaxes(1, 2) if transpose_b else b)
