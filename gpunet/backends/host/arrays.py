"""Arrays of the CPU backends: how numpy.ndarrays are combined, moved and reduced."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from gpunet.backends.contract import BINARY, COMPARISONS, UNARY, Array, Backend, Index, check_name, is_float
from gpunet.backends.contract.gradients import Grads, Into
from gpunet.backends.contract.real import on_device, real_array

QUIET = np.errstate(all="ignore")
"""Primitives give no warnings of infinities and NaN, which are values as on a GPU; the loss shows
them."""


class HostArrays(Backend):
    """Primitives on numpy.ndarray, by NumPy's functions of the same names."""

    def owns(self, array: object) -> bool:
        return isinstance(array, np.ndarray)

    def asarray(self, data: Any, dtype: Any = None) -> Array:
        array = real_array("asarray: data", data)
        if on_device(array):  # a CuPy array copies itself to the host
            array = array.get()
        with np.errstate(over="ignore"):  # a value beyond the dtype becomes infinite
            return np.ascontiguousarray(array, dtype) if array.ndim else np.asarray(array, dtype)

    def to_numpy(self, array: Array) -> np.ndarray:
        return array

    def empty(self, shape: Sequence[int], dtype: Any) -> Array:
        return np.empty(shape, dtype)

    def full(self, shape: Sequence[int], value: float, dtype: Any) -> Array:
        with np.errstate(over="ignore"):
            return np.zeros(shape, dtype) if value == 0 else np.full(shape, value, dtype)

    def copy(self, a: Array, *, out: Array | None = None) -> Array:
        if out is None:
            return a.copy()
        out[...] = a
        return out

    def synchronize(self) -> None:
        """Do nothing, for all work on the host is done when its call returns."""

    def describe(self) -> dict[str, str]:
        return {"device": _processor(), "numpy": np.__version__}

    @QUIET
    def unary(self, name: str, a: Array) -> Array:
        check_name("unary", name, UNARY)
        return np.asarray(getattr(np, name)(a))

    @QUIET
    def binary(self, name: str, a: Array, b: Array, *, out: Array | None = None) -> Array:
        check_name("binary", name, BINARY)
        return np.asarray(getattr(np, name)(a, b, out=out))

    @QUIET
    def compare(self, name: str, a: Array, b: Array) -> Array:
        check_name("compare", name, COMPARISONS)
        return np.asarray(getattr(np, name)(a, b))

    def select(self, condition: Array, a: Array | None, b: Array | None) -> Array:
        kind = (b if a is None else a).dtype.type  # type: ignore[union-attr]
        return np.where(condition, kind(0) if a is None else a, kind(0) if b is None else b)

    def broadcast(self, a: Array, shape: Sequence[int]) -> Array:
        return np.broadcast_to(a, tuple(shape)).copy()

    @QUIET
    def cast(self, a: Array, dtype: Any, *, out: Array | None = None) -> Array:
        return a.astype(dtype, copy=False) if out is None else self.copy(a, out=out)

    @QUIET
    def scale(self, a: Array, by: Array | None, factor: float = 1.0) -> Array:
        return np.asarray(a * (factor if by is None else by * factor), a.dtype)

    @QUIET
    def sum(self, a: Array, axes: tuple[int, ...]) -> Array:
        if not is_float(a.dtype):
            return np.asarray(a.sum(axis=axes))
        return np.asarray(a.sum(axis=axes, dtype=np.float64)).astype(a.dtype)

    def max(self, a: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
        rows = self._reduced_last(a, axes)
        if rows.shape[-1] == 0:
            raise ValueError(f"max: a has shape {a.shape}, and no elements have no maximum")
        index = rows.argmax(axis=-1)  # NumPy's argmax takes the first maximum, and NaN before all
        y = np.take_along_axis(rows, index[..., None], axis=-1)[..., 0]
        return np.asarray(y), np.asarray(index, np.int32)

    def max_backward(self, dy: Array, index: Array, *, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
        dx = np.zeros(shape, dy.dtype)
        kept = [i for i in range(len(shape)) if i not in axes]
        inside = np.unravel_index(index, [shape[i] for i in axes])
        where: list[Any] = [None] * len(shape)
        for place, axis in enumerate(kept):
            where[axis] = np.arange(shape[axis]).reshape([-1 if i == place else 1 for i in range(len(kept))])
        for axis, coordinate in zip(axes, inside, strict=True):
            where[axis] = coordinate
        dx[tuple(where)] = dy
        return dx

    def transpose(self, a: Array, axes: tuple[int, ...]) -> Array:
        return np.ascontiguousarray(a.transpose(axes))

    def concatenate(self, arrays: Sequence[Array], axis: int) -> Array:
        return np.concatenate(arrays, axis)

    def get_slice(self, a: Array, index: Index) -> Array:
        return np.array(a[index], order="C")

    def put_slice(self, dy: Array, index: Index, *, shape: tuple[int, ...]) -> Array:
        dx = np.zeros(shape, dy.dtype)
        dx[index] = dy
        return dx

    def take(self, a: Array, rows: Array) -> Array:
        return a[rows]

    def take_backward(self, dy: Array, order: Array, starts: Array) -> Array:
        length = len(starts) - 1
        dx = np.zeros((length, *dy.shape[1:]), np.float64)  # for a row may be the sum of many
        np.add.at(dx, np.repeat(np.arange(length), np.diff(starts)), dy[order])
        return dx.astype(dy.dtype)

    @staticmethod
    def _reduced_last(a: Array, axes: tuple[int, ...]) -> Array:
        """`a` with the reduced axes moved to the end and joined: (…, reduced elements)."""
        kept = [i for i in range(a.ndim) if i not in axes]
        moved = a.transpose(*kept, *axes)
        return moved.reshape(*(a.shape[i] for i in kept), prod(a.shape[i] for i in axes))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def deliver(value: Array, out: Array | None, accumulate: bool) -> Array:
    """Write or add `value` to `out` -> `out`; without an `out`, and where it stands there, the value itself."""
    if out is None or out is value:
        return value
    if accumulate:
        out += value
    else:
        out[...] = value
    return out


def deliver_both(dw: Array, db: Array | None, into: Into, dtype: Any) -> Grads:
    """`deliver` the gradients of a weight and of a bias, in one dtype; db may be None."""
    weight = deliver(dw.astype(dtype, copy=False), into.weight, into.add)
    return weight, None if db is None else deliver(db.astype(dtype, copy=False), into.bias, into.add)
