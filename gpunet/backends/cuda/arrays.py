"""Arrays, elementwise operations, reductions and movement on a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import isqrt, prod
from typing import Any, NamedTuple

import numpy as np

from gpunet.backends.contract import BINARY, COMPARISONS, COUNTS, UNARY, Array, Index, check_name, real_array
from gpunet.backends.cuda.device import MAX_BLOCKS, THREADS, WARP, CudaDevice, piece_of_each
from gpunet.cuda.arrays import View, view, walk
from gpunet.cuda.arrays import broadcast as broadcast_view
from gpunet.cuda.instantiations import COMPARED, MOVED
from gpunet.cuda.naming import ELEMENTS


class Reduction(NamedTuple):
    """How to reduce an array: axes in `order`, then the middle one of (outer, n, inner) summed."""

    order: tuple[int, ...] | None
    outer: int
    n: int
    inner: int


def reduction(shape: Sequence[int], axes: Sequence[int]) -> Reduction:
    """How to reduce sorted `axes` of `shape`; unless they are neighbours, they move to the end."""
    kept = [i for i in range(len(shape)) if i not in axes]
    n = prod(shape[i] for i in axes)
    long = [i for i in range(len(shape)) if shape[i] != 1]  # axes of extent 1 separate nothing
    runs = [(reduced, list(run)) for reduced, run in groupby(long, key=lambda i: i in axes)]
    if sum(reduced for reduced, _ in runs) > 1:
        return Reduction((*kept, *axes), prod(shape[i] for i in kept), n, 1)
    before = prod(shape[i] for i in kept if any(i < a for a in axes if shape[a] != 1))
    return Reduction(None, before, n, prod(shape[i] for i in kept) // max(before, 1))


class CudaArrays(CudaDevice):
    """The primitives of kernels/elementwise.cu, reduce.cu and take.cu."""

    def owns(self, array: object) -> bool:
        return self.arrays.owns(array)

    def asarray(self, data: Any, dtype: Any = None) -> Array:
        with np.errstate(over="ignore"):  # a value beyond the dtype becomes infinite
            return self.arrays.asarray(real_array("asarray: data", data), dtype)

    def to_numpy(self, array: Array) -> np.ndarray:
        return self.arrays.to_host(array)

    def empty(self, shape: Sequence[int], dtype: Any) -> Array:
        return self.arrays.empty(shape, dtype)

    def full(self, shape: Sequence[int], value: float, dtype: Any) -> Array:
        y = self.arrays.empty(shape, dtype)
        kind = np.dtype(dtype)
        with np.errstate(over="ignore"):
            number = kind.type(value).item()
        self._each("fill", y.size, y, y.size, number, element=self._moved("full", kind))
        return y

    def copy(self, a: Array, *, out: Array | None = None) -> Array:
        y = self.arrays.empty(a.shape, a.dtype) if out is None else self._out("copy", out, a.shape, a.dtype)
        self._copy("copy", a, view(a.shape), y, view(a.shape))
        return y

    def synchronize(self) -> None:
        self.arrays.synchronize()

    def describe(self) -> dict[str, str]:
        table = self.description.table
        return {**self.arrays.describe(), **({} if table is None else {"tiles": str(table)})}

    def unary(self, name: str, a: Array) -> Array:
        index = check_name("unary", name, UNARY)
        element = self._element(name, a=(a, None))
        y = self.arrays.empty(a.shape, a.dtype)
        self._each("unary", a.size, a, y, a.size, index, element=element)
        return y

    def binary(self, name: str, a: Array, b: Array, *, out: Array | None = None) -> Array:
        index = check_name("binary", name, BINARY)
        element = self._element(name, a=(a, None), b=(b, None), out=(out, None))
        shape = np.broadcast_shapes(a.shape, b.shape)
        y = self._out(name, out, shape, a.dtype)
        steps = walk(name, broadcast_view(a.shape, shape), broadcast_view(b.shape, shape))
        each = piece_of_each(y)
        each = each if steps["rank"] < 2 or steps["extent"][-1] % each == 0 else 1
        self._each("binary", y.size, a, b, y, y.size, steps, index, element=element, each=each)
        return y

    def compare(self, name: str, a: Array, b: Array) -> Array:
        index = check_name("compare", name, COMPARISONS)
        if a.dtype.name not in COMPARED or a.dtype != b.dtype:
            raise TypeError(f"{name}: got {a.dtype} and {b.dtype} but CUDA compares one dtype of {', '.join(COMPARED)}")
        shape = np.broadcast_shapes(a.shape, b.shape)
        y = self.arrays.empty(shape, np.bool_)
        steps = walk(name, broadcast_view(a.shape, shape), broadcast_view(b.shape, shape))
        self._each("compare", y.size, a, b, y, y.size, steps, index, element=COMPARED[a.dtype.name])
        return y

    def select(self, condition: Array, a: Array | None, b: Array | None) -> Array:
        given: Array = b if a is None else a
        element = self._element("select", a=(a, condition.shape), b=(b, condition.shape))
        y = self.arrays.empty(condition.shape, given.dtype)
        self._each("select", y.size, condition, a, b, y, y.size, element=element)
        return y

    def broadcast(self, a: Array, shape: Sequence[int]) -> Array:
        return self._copied("broadcast", a, broadcast_view(a.shape, shape))

    def cast(self, a: Array, dtype: Any, *, out: Array | None = None) -> Array:
        kind = np.dtype(dtype)
        if a.dtype.name in COUNTS and out is None:
            return self._cast_counts(a, kind)
        if kind.name not in self.dtypes:
            raise TypeError(f"cast: dtype is {kind} but CUDA computes in {', '.join(self.dtypes)}")
        element = self._element("cast", a=(a, None))
        if a.dtype == kind:
            return a if out is None else self.copy(a, out=out)
        y = self._out("cast", out, a.shape, kind)
        self._each("cast", y.size, a, y, y.size, element=f"{element}, {ELEMENTS[kind.name]}", each=piece_of_each(a, y))
        return y

    def _cast_counts(self, a: Array, kind: np.dtype) -> Array:
        """Integers and booleans as int64 or as floats; floats of 16 bits are made from float32."""
        if a.dtype == kind:
            return a
        to = kind if kind == np.int64 else np.dtype(np.float32)
        y = self.arrays.empty(a.shape, to)
        self._each("cast_counts", y.size, a, y, y.size, element=f"{MOVED[a.dtype.name]}, {MOVED[to.name]}")
        return y if to == kind else self.cast(y, kind)

    def scale(self, a: Array, by: Array | None, factor: float = 1.0) -> Array:
        element = self._element("scale", a=(a, None))
        if isinstance(by, int | float):
            raise TypeError(f"scale: by takes an array of one element or None, got {by}; a number is given as factor=")
        self._expect("scale", by=(by, None))
        y = self.arrays.empty(a.shape, a.dtype)
        self._each("scale", y.size, a, by, y, y.size, factor, element=element, each=piece_of_each(y))
        return y

    def sum(self, a: Array, axes: tuple[int, ...]) -> Array:
        self._expect("sum", a=(a, None))
        how = reduction(a.shape, axes)
        y = self.arrays.empty([n for i, n in enumerate(a.shape) if i not in axes], a.dtype)
        if a.size == 0:
            return self.full(y.shape, 0.0, a.dtype)
        if y.size:
            self._sum(a if how.order is None else self.transpose(a, how.order), y, how.outer, how.n, how.inner)
        return y

    def _sum(self, a: Array, y: Array, outer: int, n: int, inner: int) -> None:
        """Write the sum of a (outer, n, inner) to y (outer, inner), in passes if it is long."""
        while True:
            threads = 0 if self.simple else row_threads(outer, n, inner)
            chunk = sum_chunk(outer * inner, n, by_block=threads > 0)
            chunks = -(-n // chunk)
            part = y if chunks == 1 else self.arrays.empty((outer, chunks, inner), np.float32)
            args = a, part, outer, n, inner, chunk
            if threads:
                self.launcher.launch("reduce_sum_rows<float>", min(part.size, MAX_BLOCKS), threads, args)
            else:
                self._each("reduce_sum_simple", part.size, *args)
            if chunks == 1:
                return
            a, n = part, chunks

    def max(self, a: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
        self._expect("max", a=(a, None))
        how = reduction(a.shape, axes)
        if how.n == 0:
            raise ValueError(f"max: a has shape {a.shape}, and no elements have no maximum")
        shape = [n for i, n in enumerate(a.shape) if i not in axes]
        y, index = self.arrays.empty(shape, a.dtype), self.arrays.empty(shape, np.int32)
        source = a if how.order is None else self.transpose(a, how.order)
        args = source, y, index, how.outer, how.n, how.inner
        threads = 0 if self.simple else row_threads(how.outer, how.n, how.inner)
        if not threads:
            self._each("reduce_max_simple", y.size, *args)
        elif y.size:
            self.launcher.launch("reduce_max_rows<float>", min(y.size, MAX_BLOCKS), threads, args)
        return y, index

    def max_backward(self, dy: Array, index: Array, *, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
        kept = [n for i, n in enumerate(shape) if i not in axes]
        self._expect("max_backward", dy=(dy, kept))
        if index.shape != dy.shape:
            raise ValueError(f"max_backward: index has shape {index.shape} but takes {dy.shape}")
        how = reduction(shape, axes)
        made = shape if how.order is None else tuple(shape[i] for i in how.order)
        dx = self.arrays.empty(made, dy.dtype)
        self._each("max_backward", dx.size, dy, index, dx, how.outer, how.n, how.inner)
        return dx if how.order is None else self.transpose(dx, tuple(int(i) for i in np.argsort(how.order)))

    def transpose(self, a: Array, axes: tuple[int, ...]) -> Array:
        own = view(a.shape)
        turned = View(tuple(a.shape[i] for i in axes), tuple(own.strides[i] for i in axes))
        return self._copied("transpose", a, turned)

    def concatenate(self, arrays: Sequence[Array], axis: int) -> Array:
        first = arrays[0]
        for a in arrays:
            if a.dtype != first.dtype:
                raise TypeError(f"concatenate: arrays are {first.dtype} and {a.dtype} but must be of one dtype")
            if a.ndim != first.ndim or any(
                i != axis and n != m for i, (n, m) in enumerate(zip(a.shape, first.shape, strict=True))
            ):
                raise ValueError(f"concatenate: shapes {first.shape} and {a.shape} differ in more than axis {axis}")
        length = sum(a.shape[axis] for a in arrays)
        y = self.arrays.empty((*first.shape[:axis], length, *first.shape[axis + 1 :]), first.dtype)
        start = 0
        for a in arrays:
            stop = start + a.shape[axis]
            self._copy("concatenate", a, view(a.shape), y, view(y.shape, (*[slice(None)] * axis, slice(start, stop))))
            start = stop
        return y

    def get_slice(self, a: Array, index: Index) -> Array:
        return self._copied("get_slice", a, view(a.shape, index))

    def _copied(self, operation: str, a: Array, part: View) -> Array:
        """A view of `a` as a new array."""
        y = self.arrays.empty(part.shape, a.dtype)
        self._copy(operation, a, part, y, view(part.shape))
        return y

    def put_slice(self, dy: Array, index: Index, *, shape: tuple[int, ...]) -> Array:
        part = view(shape, index)
        if part.shape != dy.shape:
            raise ValueError(f"put_slice: dy has shape {dy.shape} but the index of {shape} takes {part.shape}")
        dx = self.full(shape, 0.0, dy.dtype)
        self._copy("put_slice", dy, view(dy.shape), dx, part)
        return dx

    def take(self, a: Array, rows: Array) -> Array:
        y = self.arrays.empty((*rows.shape, *a.shape[1:]), a.dtype)
        width = prod(a.shape[1:])
        self._each("take", y.size, a, rows, y, rows.size, width, element=self._moved("take", a.dtype))
        return y

    def take_backward(self, dy: Array, order: Array, starts: Array) -> Array:
        element = self._element("take_backward", dy=(dy, (order.size, *dy.shape[1:])))
        count, length, width = order.size, starts.size - 1, prod(dy.shape[1:])
        dx = self.arrays.empty((length, *dy.shape[1:]), dy.dtype)
        if self.simple or count <= SHORT_LIST:
            self._each("take_backward_simple", dx.size, dy, order, starts, dx, length, width, element=element)
            return dx
        part = take_part(count)
        parts = -(-count // part)
        partial = self.arrays.empty((parts, 2, width), np.float32)
        given = dy, order, starts, partial, dx, count, length, width, part
        self._each("take_backward_parts", parts * width, *given, element=element)
        merge = partial, starts, dx, count, length, width, part
        self._each("take_backward_merge", dx.size, *merge, element=element)
        return dx


SHORT_LIST = 64
"""Rows that one thread adds up in `take_backward` without a second launch."""


def take_part(count: int) -> int:
    """Rows of a part of `take_backward`, of `count` rows in all.

    The square root balances the worst case, in which all rows are one: a thread adds the rows of a
    part, and another one adds the parts.
    """
    return max(16, 1 << (isqrt(count).bit_length() - 2))


def row_threads(outer: int, n: int, inner: int) -> int:
    """Return the threads of the block that reduces a row of n elements, a power of two; 0 where
    one thread should: if rows are not contiguous, or are many and short."""
    if inner > 1:
        return 0
    if outer < MANY_ROWS:
        return THREADS
    return 0 if n <= WARP else min(THREADS, max(WARP, 1 << (n // 4 - 1).bit_length()))


MANY_ROWS = 4096
"""Rows that keep a device busy with less than a block of 256 threads for each."""


def sum_chunk(results: int, n: int, *, by_block: bool) -> int:
    """Elements that one block or one thread adds: all n, unless most of a device were idle then.

    It is a pure function of the shape, so that the order of a sum never changes.
    """
    busy, least = (512, 4096) if by_block else (65536, 64)
    if results >= busy or n <= 2 * least:
        return n
    return max(-(-n * results // busy), least)
