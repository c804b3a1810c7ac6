"""The contract of arrays: how they are made, moved, combined and reduced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["BINARY", "COMPARISONS", "COUNTS", "UNARY", "Array", "Index", "check_name", "is_float", "rows_in_order"]

Array = Any
"""numpy.ndarray, cupy.ndarray or the emulator's array: never mixed."""
Index = tuple[int | slice | None, ...]
BINARY = ("add", "subtract", "multiply", "divide", "power", "maximum", "minimum")
COMPARISONS = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
COUNTS = ("bool", "int32", "int64")
"""Dtypes of masks, labels and positions. Tensors of these have no gradient, and are cast to a float
before arithmetic."""
UNARY = ("negative", "exp", "log", "sqrt", "abs", "sign")


def rows_in_order(rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(order, starts) of `take_backward`, on the host, for numbers (R,) of `length` rows."""
    counts = np.bincount(rows, minlength=length)
    return np.argsort(rows, kind="stable"), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def is_float(dtype: Any) -> bool:
    """Whether a dtype is a float; bfloat16, which NumPy itself does not know, is one too."""
    return np.dtype(dtype).kind == "f" or np.dtype(dtype).name == "bfloat16"


def check_name(operation: str, name: str, names: tuple[str, ...]) -> int:
    """The index of `name` among `names`; ValueError if it is none of them."""
    if name not in names:
        raise ValueError(f"{operation}: name is {name!r} but takes one of {', '.join(names)}")
    return names.index(name)


class ArrayPrimitives(ABC):
    """Primitives that make, move, combine and reduce arrays."""

    # ---- arrays

    @abstractmethod
    def owns(self, array: object) -> bool:
        """Whether `array` is an array of this backend's kind and device."""

    @abstractmethod
    def asarray(self, data: Any, dtype: Any = None) -> Array:
        """A C-contiguous array of lists or of an array of any library (see `real_array`).

        An array that has the dtype, is C-contiguous and lies where the backend computes is not
        copied."""

    @abstractmethod
    def to_numpy(self, array: Array) -> np.ndarray:
        """The array on the host; on a CPU backend the array itself, without a copy."""

    @abstractmethod
    def empty(self, shape: Sequence[int], dtype: Any) -> Array:
        """An array whose elements are not initialised."""

    @abstractmethod
    def full(self, shape: Sequence[int], value: float, dtype: Any) -> Array:
        """An array filled with one value."""

    @abstractmethod
    def copy(self, a: Array, *, out: Array | None = None) -> Array:
        """A copy of `a`, written to `out` if one is given."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all launched work is done."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Device and library versions, for `gpunet info` and for benchmark records."""

    # ---- elementwise, reductions, movement

    @abstractmethod
    def unary(self, name: str, a: Array) -> Array:
        """One of `UNARY`, elementwise."""

    @abstractmethod
    def binary(self, name: str, a: Array, b: Array, *, out: Array | None = None) -> Array:
        """One of `BINARY`, with NumPy's broadcasting, of arrays of one dtype; `out` may be `a`. NaN
        wins a maximum and a minimum."""

    @abstractmethod
    def compare(self, name: str, a: Array, b: Array) -> Array:
        """One of `COMPARISONS`, with broadcasting, of one dtype: a float, int64 or bool."""

    @abstractmethod
    def select(self, condition: Array, a: Array | None, b: Array | None) -> Array:
        """a where the bool `condition` holds, else b, of one shape; one may be None, for zeros."""

    @abstractmethod
    def broadcast(self, a: Array, shape: Sequence[int]) -> Array:
        """`a` repeated to `shape`, as NumPy does, in new memory."""

    @abstractmethod
    def cast(self, a: Array, dtype: Any, *, out: Array | None = None) -> Array:
        """`a` in another float dtype, rounded to the nearest, ties to even.

        The result is written to `out` if one is given; without, it is `a` itself if that has the
        dtype. `a` may also be of one of `COUNTS`, and may then be cast to int64 too."""

    @abstractmethod
    def scale(self, a: Array, by: Array | None, factor: float = 1.0) -> Array:
        """a times `by` times `factor`, rounded once. `by` is one element, float32 or of a's dtype;
        None stands for 1."""

    @abstractmethod
    def sum(self, a: Array, axes: tuple[int, ...]) -> Array:
        """Sum over sorted, non-negative `axes`, which are dropped.

        The relative error of a float32 sum of positive terms is at most 1e-6, however many terms
        there are. The same holds for all sums over samples or pixels inside other primitives.
        """

    @abstractmethod
    def max(self, a: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
        """(y, index): the maximum over `axes`, and its int32 position among the reduced elements in
        row-major order.

        The first of equal elements wins, and NaN wins over all numbers."""

    @abstractmethod
    def max_backward(self, dy: Array, index: Array, *, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
        """dx of `shape`: dy at the winners, 0 elsewhere."""

    @abstractmethod
    def transpose(self, a: Array, axes: tuple[int, ...]) -> Array:
        """Axes in another order, copied into C order."""

    @abstractmethod
    def concatenate(self, arrays: Sequence[Array], axis: int) -> Array:
        """Arrays of one dtype joined one after another along a non-negative `axis`."""

    @abstractmethod
    def get_slice(self, a: Array, index: Index) -> Array:
        """a[index] for integers, slices and None, copied into C order."""

    @abstractmethod
    def put_slice(self, dy: Array, index: Index, *, shape: tuple[int, ...]) -> Array:
        """Zeros of `shape` with dy at [index]."""

    @abstractmethod
    def take(self, a: Array, rows: Array) -> Array:
        """a[rows] for int64 `rows` (R,), each from 0 to len(a) - 1."""

    @abstractmethod
    def take_backward(self, dy: Array, order: Array, starts: Array) -> Array:
        """dx (L, …) from dy (R, …): dx[l] is the sum of dy[order[k]] for k from starts[l] to
        starts[l + 1] - 1, in this order.

        `order` (R,) and `starts` (L + 1,), int64, are those of `rows_in_order`.
        """
