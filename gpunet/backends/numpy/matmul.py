"""Matrix products of `NumpyBackend`: parts of the rows on all threads."""

import numpy as np

from gpunet.backends.contract import PLAIN_PRODUCT, Array, Product
from gpunet.backends.host import memory
from gpunet.backends.host.arrays import deliver
from gpunet.backends.numpy.gate import open_gate
from gpunet.backends.numpy.output_activation import activate
from gpunet.backends.numpy.sums import multiply, takes_chunks
from gpunet.backends.numpy.threads import PARTS, PRODUCTS, NumpyThreads

ROWS = 1 << 8
"""Rows of a part of a product, unless two parts have fewer: BLAS copies the second matrix for each."""


class NumpyMatmul(NumpyThreads):
    """Products of matrices."""

    def matmul(self, a: Array, b: Array, product: Product = PLAIN_PRODUCT) -> Array:
        a = open_gate(a, product.gate)
        left, right = a.T if product.transpose_a else a, b.T if product.transpose_b else b
        y = memory.empty((left.shape[0], right.shape[1]), a.dtype) if product.out is None else product.out
        add = product.add and product.out is not None

        def work(start: int, stop: int) -> None:
            rows = None if add else y[start:stop]
            if takes_chunks(left[start:stop], right):
                rows = deliver(multiply(left[start:stop], right), rows, False)
            else:
                rows = np.matmul(left[start:stop], right, out=rows)
            if product.bias is not None:
                rows += product.bias
            if product.activation is not None:
                activate(rows, product.activation, out=rows)
            if add:
                y[start:stop] += rows

        self._parallel(work, len(y), right.size // PRODUCTS, max(2, min(PARTS, len(y) // ROWS)))
        return y

    def batched_matmul(
        self, a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False, precision: str = "float32"
    ) -> Array:
        left, right = a.swapaxes(1, 2) if transpose_a else a, b.swapaxes(1, 2) if transpose_b else b
        y = memory.empty((*left.shape[:2], right.shape[2]), a.dtype)
        work = left.shape[1] * right[0].size // PRODUCTS if len(a) else 0
        self._parallel(lambda i, j: np.matmul(left[i:j], right[i:j], out=y[i:j]), len(a), work)
        return y
