"""Long sums of `NumpyBackend`, which lose at most 1e-6 of a sum of positive terms.

Matrix products with fewer than `LONG` terms lose what BLAS loses, a few millionths.

A float32 accumulator loses digits with each addition: a sum of 2^21 equal terms is off by a
percent. So BLAS adds at most `CHUNK` terms one after another in float32, and the sums of such
chunks are added in float64.
"""

from __future__ import annotations

from math import prod

import numpy as np

from gpunet.backends.contract import Array

CHUNK = 64
"""Terms that are added one after another in float32."""
LONG = 1 << 20
"""Terms from which a matrix product is cut into chunks although that makes it slower. With fewer,
BLAS, which cuts its sums as well, loses a few millionths at most (OpenBLAS 0.3.34: 4.6e-6)."""
SMALL = 1 << 10
"""Elements of a product up to which chunks cost no time, if the product has at least half as many
terms."""
AT_ONCE = 1 << 20
"""Elements of products of chunks that are computed at once, before they are added."""
WORTH = 1 << 8
"""Elements from which a call of BLAS is faster than NumPy's loops."""
FEW = 16
"""Arrays that a `Total` adds in their own dtype before it continues in float64."""


def add_rows(a: Array) -> Array:
    """The sum of the rows of a (n, columns) by BLAS, for few columns ten times NumPy's speed."""
    return np.dot(np.ones(len(a), a.dtype), a) if len(a) <= CHUNK else add_middle(a[None])[0]


def add_middle(a: Array) -> Array:
    """The sum of a C-contiguous a (outer, n, inner) along its middle axis -> (outer, inner)."""
    outer, n, inner = a.shape
    if inner == 1:
        # NumPy itself adds in pairs along an axis whose elements are neighbours
        return np.matmul(a[:, :, 0], np.ones((n, 1), a.dtype)) if n <= CHUNK else a.sum(axis=1)
    if n <= CHUNK or a.dtype == np.float64 or a.size == 0:
        return a.sum(axis=1) if n * inner < WORTH else np.matmul(np.ones(n, a.dtype), a)
    each = n // CHUNK
    # row k of every chunk lies `each` rows behind its row k - 1, so that one product adds all
    # chunks, along long rows
    chunks = a[:, : each * CHUNK].reshape(outer, CHUNK, each * inner)
    parts = np.matmul(np.ones(CHUNK, a.dtype), chunks).reshape(outer, each, inner).astype(np.float64)
    total = np.matmul(np.ones(each), parts) + a[:, each * CHUNK :].sum(axis=1, dtype=np.float64)
    return total.astype(a.dtype)


def add_axes(a: Array, axes: tuple[int, ...]) -> Array:
    """The sum of a C-contiguous a along ascending axes, neighbours at once, from the last on."""
    shape = a.shape
    while axes:
        first = next(i for i in range(len(axes)) if axes[i:] == tuple(range(axes[i], axes[-1] + 1)))
        start, stop = axes[first], axes[-1] + 1
        a = add_middle(a.reshape(prod(shape[:start]), prod(shape[start:stop]), prod(shape[stop:])))
        shape, axes = shape[:start] + shape[stop:], axes[:first]
    return a.reshape(shape)


def multiply(a: Array, b: Array, terms: int = 0) -> Array:
    """The product of a (M, K) and b (K, N), a part of a sum of `terms` if those are more than K."""
    (m, k), n = a.shape, b.shape[1]
    if not takes_chunks(a, b, terms):
        return np.dot(a, b)  # np.matmul would keep the interpreter lock where the result is small
    each = max(1, AT_ONCE // (m * n)) * CHUNK
    whole = k // CHUNK * CHUNK
    total = np.dot(a[:, whole:], b[whole:]).astype(np.float64)
    for i in range(0, whole, each):
        j = min(i + each, whole)
        left = a[:, i:j].reshape(m, -1, CHUNK).transpose(1, 0, 2)
        parts = np.matmul(left, b[i:j].reshape(-1, CHUNK, n)).reshape(-1, m * n)
        total += np.dot(np.ones(len(parts)), parts.astype(np.float64)).reshape(m, n)
    return total.astype(a.dtype)


def takes_chunks(a: Array, b: Array, terms: int = 0) -> bool:
    """Whether `multiply` cuts the sums of a product into chunks."""
    (m, k), n = a.shape, b.shape[1]
    long = max(k, terms) >= LONG or (m * n <= SMALL <= 2 * k)
    return k > CHUNK and long and m * n > 0 and a.dtype != np.float64


class Total:
    """Adds up arrays of one shape: a few in their own dtype, and the results in float64."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype):
        self.recent = np.zeros(shape, dtype)
        """The array to add the next one to; then call `count`."""
        self._older: Array | None = None
        self._count = 0

    def count(self) -> None:
        """Count an array that was added to `recent`."""
        self._count += 1
        if self._count == FEW:
            self._older = self._all()
            self.recent[...] = 0
            self._count = 0

    def join(self, other: Total) -> None:
        """Add another total."""
        if self._older is None and other._older is None and self._count + other._count < FEW:
            self.recent += other.recent
            self._count += other._count
            return
        self._older = self._all() + other._all()
        self.recent[...] = 0

    def result(self) -> Array:
        """The sum, in the arrays' dtype."""
        return self.recent if self._older is None else self._all().astype(self.recent.dtype)

    def _all(self) -> Array:
        return self.recent.astype(np.float64) if self._older is None else self._older + self.recent
