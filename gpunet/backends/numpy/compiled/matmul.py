"""Products of small matrices in compiled loops: those of 1x1 convolutions, conv.cpp."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from gpunet.backends.contract import PLAIN_PRODUCT, Array, Product
from gpunet.backends.host import memory
from gpunet.backends.numpy.compiled.activation import CompiledActivation, fused_numbers
from gpunet.backends.numpy.compiled.library import Longs
from gpunet.backends.numpy.compiled.parities import TILE, tiles_of
from gpunet.backends.numpy.matmul import NumpyMatmul
from gpunet.backends.numpy.threads import PRODUCTS

LARGEST = 1 << 20
"""Elements of the second matrix up to which the loops are faster than BLAS and NumPy."""
LARGEST_TRANSPOSED = 1 << 16
"""The same where it has to be transposed before, for fewer rows of the first than `MANY_ROWS`."""
MANY_ROWS = 1 << 8
ONE_TAP = Longs(0)


class CompiledMatmul(CompiledActivation, NumpyMatmul):
    """Products of matrices: each row of the first is a pixel, each column of the second a filter."""

    def matmul(self, a: Array, b: Array, product: Product = PLAIN_PRODUCT) -> Array:
        gate = product.gate
        if gate is not None and gate.activation is not None:
            a = self.activation_backward(a, gate.y, gate.activation)
        largest = LARGEST_TRANSPOSED if product.transpose_b and len(a) < MANY_ROWS else LARGEST
        takes = not product.transpose_a and product.out is None and 0 < b.size <= largest
        loops = self._loops("conv", a, b, product.bias) if takes else None
        if loops is None:
            return super().matmul(a, b, product if gate is None else replace(product, gate=None))
        if product.transpose_b:
            filters, b = b, memory.empty(b.shape[::-1], b.dtype)
            self._spread(loops, "rotate", tiles_of(len(filters)), TILE * len(b), filters, b, ONE_TAP, *filters.shape)
        (rows, inputs), outputs = a.shape, b.shape[1]
        y = memory.empty((rows, outputs), a.dtype)
        given = a, b, product.bias, None, y, None, _extents(inputs, outputs), None, *fused_numbers(product.activation)
        self._spread(loops, "conv_forward", rows, b.size // PRODUCTS, *given)
        return y


@lru_cache(maxsize=256)
def _extents(inputs: int, outputs: int) -> Longs:
    """A 1x1 convolution of images of one pixel, as conv.cpp takes it."""
    return Longs(1, 1, inputs, outputs, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0)
