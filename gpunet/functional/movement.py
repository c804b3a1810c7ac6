"""Movement: other shapes, other orders, parts and joins; no arithmetic."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gpunet.autograd import Function, Tensor
from gpunet.backends.base import Array, Index
from gpunet.functional.reduction import axes_of


class _Reshape(Function):
    name = "reshape"
    view = True

    def forward(self, x: Array, *, shape: tuple[int, ...]) -> Array:
        self.shape = tuple(x.shape)
        return x.reshape(shape)

    def backward(self, dy: Array) -> Any:
        return dy.reshape(self.shape)


class _Transpose(Function):
    name = "transpose"

    def forward(self, x: Array, *, axes: tuple[int, ...]) -> Array:
        self.axes = axes
        return self.backend.transpose(x, axes)

    def backward(self, dy: Array) -> Any:
        inverse = tuple(self.axes.index(i) for i in range(len(self.axes)))
        return self.backend.transpose(dy, inverse)


class _Concatenate(Function):
    name = "concatenate"

    def forward(self, *arrays: Array, axis: int) -> Array:
        self.axis = axis
        self.sizes = [a.shape[axis] for a in arrays]
        return self.backend.concatenate(arrays, axis)

    def backward(self, dy: Array) -> Any:
        stops = np.cumsum(self.sizes).tolist()
        before: Index = (slice(None),) * self.axis
        return tuple(
            self.backend.get_slice(dy, (*before, slice(stop - size, stop))) if self.needs(i) else None
            for i, (size, stop) in enumerate(zip(self.sizes, stops, strict=True))
        )


class _Slice(Function):
    name = "index"

    def forward(self, x: Array, *, index: Index) -> Array:
        self.index, self.shape = index, tuple(x.shape)
        return self.backend.get_slice(x, index)

    def backward(self, dy: Array) -> Any:
        return self.backend.put_slice(dy, self.index, shape=self.shape)


class _Take(Function):
    name = "index"

    def forward(self, x: Array, *, rows: Array) -> Array:
        self.rows, self.length = rows, x.shape[0]
        return self.backend.take(x, rows)

    def backward(self, dy: Array) -> Any:
        return self.backend.take_backward(dy, self.rows, length=self.length)


def reshape(x: Tensor, *shape: Any) -> Tensor:
    """The elements in another shape; one extent may be -1. Takes integers or one tuple of them."""
    extents = list(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else list(shape)
    known = prod(n for n in extents if n != -1)
    if extents.count(-1) == 1 and known > 0 and x.size % known == 0:
        extents[extents.index(-1)] = x.size // known
    if prod(extents) != x.size or any(n < 0 for n in extents):
        raise ValueError(f"reshape: {x.size} elements of shape {x.shape} do not fill {tuple(shape)}")
    return _Reshape.apply(x, shape=tuple(extents))


def flatten(x: Tensor) -> Tensor:
    """(N, …) -> (N, the product of the rest), row-major: (h W + w) C + c for an image."""
    if x.ndim < 1:
        raise ValueError("flatten: x has no axes but takes at least one, (N, …)")
    return reshape(x, x.shape[0], prod(x.shape[1:]))


def transpose(x: Tensor, *axes: Any) -> Tensor:
    """Axes in another order, reversed if none are given. Takes integers or one tuple of them."""
    order = tuple(axes[0]) if len(axes) == 1 and isinstance(axes[0], tuple | list) else axes
    order = tuple(a % x.ndim for a in order) if order and x.ndim else tuple(reversed(range(x.ndim)))
    if sorted(order) != list(range(x.ndim)):
        raise ValueError(f"transpose: axes {axes} are no order of the {x.ndim} axes of {x.shape}")
    return _Transpose.apply(x, axes=order)


def concatenate(tensors: Any, axis: int = 0) -> Tensor:
    """Tensors behind one another along `axis`; all other extents equal."""
    tensors = list(tensors)
    if not tensors:
        raise ValueError("concatenate: takes at least one tensor, got none")
    shapes = [tuple(t.shape) for t in tensors]
    (axis,) = axes_of("concatenate", axis, len(shapes[0]))
    if len({(*s[:axis], *s[axis + 1 :], len(s)) for s in shapes}) > 1:
        raise ValueError(f"concatenate: shapes {', '.join(map(str, shapes))} differ beside axis {axis}")
    return _Concatenate.apply(*tensors, axis=axis)


def index(x: Tensor, key: Any) -> Tensor:
    """x[key]: integers, slices, None and Ellipsis; or one sequence of integers, which picks along the first axis."""
    if isinstance(key, list | np.ndarray) or x.backend.owns(key):
        rows = np.asarray(x.backend.to_numpy(key) if x.backend.owns(key) else key)
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or x.ndim == 0:
            raise TypeError(f"index: an array must be of integers with one axis, got {rows.dtype} with {rows.ndim}")
        if rows.size and not (-len(x) <= rows.min() and rows.max() < len(x)):
            raise IndexError(f"index: rows {rows.min()} to {rows.max()} do not fit a first axis of {len(x)}")
        return _Take.apply(x, rows=x.backend.asarray(rows % len(x), np.int64))
    parts = key if isinstance(key, tuple) else (key,)
    if not all(
        p is None or p is Ellipsis or (isinstance(p, slice | int | np.integer) and not isinstance(p, bool))
        for p in parts
    ):
        raise TypeError(f"index: takes integers, slices, None, … or one array of integers, got {key!r}")
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
