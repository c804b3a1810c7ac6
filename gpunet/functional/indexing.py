"""Indexing as in NumPy: by integers, slices, new axes, and arrays of integers or booleans."""

from __future__ import annotations

from math import prod
from typing import Any, NoReturn

import numpy as np

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract import Array, Backend, Index, on_device, real_array, rows_in_order
from gpunet.dlpack import exports_array
from gpunet.errors import BackendError
from gpunet.functional.movement import reshape

__all__ = ["index"]


class _Slice(Function, name="index", moves=True):
    def forward(self, x: Array, *, index: Index) -> Array:
        self.index, self.shape = index, tuple(x.shape)
        return self.backend.get_slice(x, index)

    def backward(self, dy: Array) -> Any:
        return self.backend.put_slice(dy, self.index, shape=self.shape)


class _Take(Function, name="index", moves=True):
    def forward(self, x: Array, *, rows: np.ndarray) -> Array:
        self.rows, self.length = rows, x.shape[0]
        return self.backend.take(x, self.backend.asarray(rows, np.int64))

    def backward(self, dy: Array) -> Any:
        order, starts = (self.backend.asarray(a) for a in rows_in_order(self.rows, self.length))
        return self.backend.take_backward(dy, order, starts)


def index(x: Tensor, key: Any) -> Tensor:
    """x[key] as a copy: integers, slices, None, Ellipsis, and arrays of integers or booleans.

    The gradient of each element goes to the place that it was taken from; where an element was
    taken several times, they add up.

    Args:
        x: any shape and dtype.
        key: the index. Its arrays may be lists, host arrays, or tensors and arrays of any backend.
            Integers may be of any width (uint8 too) and negative; booleans have the shape of the
            axes that they select from. The host computes the positions, so arrays on a device are
            read, which a capture refuses.
    Raises:
        IndexError: a number beyond its axis, more axes than x has, or a mask of another shape.
        TypeError: a key of any other kind, such as floats.
    """
    expect_tensor("index", "x", x)
    parts = tuple(_part(part, x.backend) for part in (key if isinstance(key, tuple) else (key,)))
    if any(isinstance(part, np.ndarray) for part in parts):
        return _gathered(x, parts)
    taken = len([p for p in parts if p is not None and p is not Ellipsis])
    if taken > x.ndim or parts.count(Ellipsis) > 1:
        raise IndexError(f"index: {key!r} names {taken} axes of a tensor of shape {x.shape}")
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts = (*parts[:at], *(slice(None),) * (x.ndim - taken), *parts[at + 1 :])
    axis = 0
    for part in parts:
        if isinstance(part, int | np.integer) and not -x.shape[axis] <= part < x.shape[axis]:
            raise IndexError(f"index: {part} does not fit axis {axis} of {x.shape}")
        axis += part is not None
    return _Slice.apply(x, index=parts)


def refuse_assignment(x: Tensor, key: Any, value: Any) -> NoReturn:
    """Raise TypeError, for x[key] = value would change what the tape has saved."""
    raise TypeError(
        "a tensor's elements cannot be assigned, for gradients would not see it: "
        "write functional.where(mask, value, t), or change t.data before operations use it"
    )


def _part(part: Any, backend: Backend) -> Any:
    """One part of a key: arrays and lists as a host array, everything else as it is."""
    if part is None or part is Ellipsis or (isinstance(part, int | np.integer) and not isinstance(part, bool)):
        return part
    if isinstance(part, slice):
        try:
            part.indices(0)
        except (TypeError, ValueError) as error:
            raise type(error)(f"index: {error}, got {part!r}") from None
        return part
    if not isinstance(part, Tensor | np.ndarray | list | tuple | range | bool | np.bool_) and not exports_array(part):
        raise TypeError(f"index: takes integers, slices, None, … and arrays of integers or booleans, got {part!r}")
    array = real_array("index: an array", _on_host(part, backend))
    if isinstance(part, list | tuple | range) and not array.size:
        array = array.astype(np.int64)  # NumPy makes an empty list an array of floats
    if array.dtype.kind not in "iub":
        raise TypeError(f"index: an array must be of integers or booleans, got {array.dtype} of shape {array.shape}")
    return array if array.ndim or array.dtype.kind == "b" else int(array)


def _on_host(part: Any, backend: Backend) -> Any:
    """The part on the host, read from a device if needed; `backend` is the indexed tensor's."""
    if isinstance(part, Tensor):
        part, backend = part.data, part.backend
    if not on_device(part):
        return part
    try:
        if backend.owns(part):
            return backend.to_numpy(part)
        return real_array("index: an array", part).get()  # one that is not the backend's is CuPy's
    except BackendError as error:
        raise BackendError(f"index: the host must read an index array to count what it picks: {error}") from error


def _gathered(x: Tensor, parts: tuple[Any, ...]) -> Tensor:
    """x[parts] with arrays among the parts: NumPy finds the positions of the rows to take."""
    while parts and (parts[-1] is Ellipsis or (isinstance(parts[-1], slice) and parts[-1] == slice(None))):
        parts = parts[:-1]  # whole axes at the end stay part of the rows
    named = sum(p.ndim if isinstance(p, np.ndarray) and p.dtype == np.bool_ else p is not None for p in parts)
    lead = x.shape if any(p is Ellipsis for p in parts) else x.shape[:named]
    rest = x.shape[len(lead) :]
    try:
        positions = np.arange(prod(lead)).reshape(lead)[parts]
    except IndexError as error:
        raise IndexError(f"index: {error} (a tensor of shape {x.shape})") from None
    rows = reshape(x, prod(lead), *rest)
    return reshape(_Take.apply(rows, rows=positions.reshape(-1)), *positions.shape, *rest)
