"""Matrix products: of matrices, vectors and batches of them."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gpunet.autograd import Function, Tensor
from gpunet.backends.contract import Array, Product, real_array
from gpunet.functional.arithmetic import unbroadcast
from gpunet.functional.movement import reshape

__all__ = ["matmul"]


class _MatMul(Function, name="matmul", fresh=True):
    """Product of two matrices."""

    def forward(self, a: Array, b: Array) -> Array:
        self.save(a, b)
        return self.backend.matmul(a, b, Product(precision=self.matrix_precision))

    def backward(self, dy: Array) -> Any:
        a, b = self.saved
        product = Product(transpose_b=True, precision=self.matrix_precision)
        da = self.backend.matmul(dy, b, product) if self.needs(0) else None
        if not self.needs(1):
            return da, None
        out = self.destination(1)
        if out is not None and out.dtype != dy.dtype:  # a parameter's, in float32: the tape writes the product to it
            out = None
        product = Product(transpose_a=True, out=out, add=self.accumulate, precision=self.matrix_precision)
        return da, self.backend.matmul(a, dy, product)


class _BatchedMatMul(Function, name="matmul"):
    """Products of batches of matrices, whose batch axes broadcast."""

    def forward(self, a: Array, b: Array) -> Array:
        self.save(a, b)
        self.batch = np.broadcast_shapes(tuple(a.shape[:-2]), tuple(b.shape[:-2]))
        return self._restored(self._multiplied(self._listed(a), self._listed(b)))

    def backward(self, dy: Array) -> Any:
        a, b = self.saved
        multiply, rows = self._multiplied, self._listed(dy)
        da = self._summed(multiply(rows, self._listed(b), transpose_b=True), a) if self.needs(0) else None
        db = self._summed(multiply(self._listed(a), rows, transpose_a=True), b) if self.needs(1) else None
        return da, db

    def _multiplied(self, a: Array, b: Array, **transposes: bool) -> Array:
        return self.backend.batched_matmul(a, b, precision=self.matrix_precision, **transposes)

    def _listed(self, a: Array) -> Array:
        """(…, M, K) as (B, M, K), repeated where the batch axes of the other are longer."""
        shape = (*self.batch, *a.shape[-2:])
        whole = a if tuple(a.shape) == shape else self.backend.broadcast(a, shape)
        return whole.reshape(prod(self.batch), *a.shape[-2:])

    def _restored(self, y: Array) -> Array:
        return y.reshape(*self.batch, *y.shape[-2:])

    def _summed(self, gradient: Array, of: Array) -> Array:
        """The gradient (B, M, K) in the shape of the array that it belongs to."""
        return unbroadcast(self.backend, self._restored(gradient), tuple(of.shape))


def matmul(a: Any, b: Any) -> Tensor:
    """Product of matrices a (…, M, K) and b (…, K, P) -> (…, M, P); batch axes broadcast.

    A vector a (K,) counts as one row, a vector b (K,) as one column, and the result has no axis for
    it, as in NumPy and PyTorch: the product of two vectors has no axes.

    Args:
        a, b: at least one of them a tensor; the other a tensor, an array or lists.
    Raises:
        ValueError: shapes that do not fit.
    """
    first = a if isinstance(a, Tensor) else b
    if not isinstance(first, Tensor):
        raise TypeError("matmul: takes at least one tensor; make one with gpunet.tensor(data)")
    a, b = (_as_tensor(name, value, first) for name, value in (("a", a), ("b", b)))
    shapes = f"takes (…, M, K) and (…, K, P), got a {a.shape} and b {b.shape}"
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        raise ValueError(f"matmul: {shapes}")
    try:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ValueError(f"matmul: {shapes}, whose first axes do not broadcast") from None
    shape = (*batch, *a.shape[-2:-1], *(b.shape[-1:] if b.ndim > 1 else ()))
    left = reshape(a, 1, -1) if a.ndim == 1 else a
    right = reshape(b, -1, 1) if b.ndim == 1 else b
    if right.ndim == 2:  # one product for all rows
        y = _MatMul.apply(reshape(left, prod(left.shape[:-1]), left.shape[-1]) if left.ndim > 2 else left, right)
    else:
        y = _BatchedMatMul.apply(left, right)
    return y if y.shape == shape else reshape(y, shape)


def _as_tensor(name: str, value: Any, first: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value
    array = real_array(f"matmul: {name}", value)
    return Tensor(first.backend.asarray(array, first.dtype), first.backend)
