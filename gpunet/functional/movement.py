"""Movement of elements without arithmetic: other shapes, other orders of axes, and joins."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract import Array, Index, real_array
from gpunet.functional.reduction import axes_of, axis_of

__all__ = ["concatenate", "flatten", "reshape", "squeeze", "stack", "transpose", "unsqueeze"]


class _Reshape(Function, name="reshape", view=True, moves=True):
    def forward(self, x: Array, *, shape: tuple[int, ...]) -> Array:
        self.shape = tuple(x.shape)
        return x.reshape(shape)

    def backward(self, dy: Array) -> Any:
        return dy.reshape(self.shape)


class _Transpose(Function, name="transpose", moves=True):
    def forward(self, x: Array, *, axes: tuple[int, ...]) -> Array:
        self.axes = axes
        return self.backend.transpose(x, axes)

    def backward(self, dy: Array) -> Any:
        inverse = tuple(self.axes.index(i) for i in range(len(self.axes)))
        return self.backend.transpose(dy, inverse)


class _Concatenate(Function, name="concatenate", moves=True):
    def forward(self, *arrays: Array, axis: int) -> Array:
        self.axis = axis
        self.sizes = [a.shape[axis] for a in arrays]
        return self.backend.concatenate(arrays, axis)

    def backward(self, dy: Array) -> Any:
        stops = np.cumsum(self.sizes).tolist()
        before: Index = (slice(None),) * self.axis
        spans = (slice(stop - size, stop) for size, stop in zip(self.sizes, stops, strict=True))
        cut = self.backend.get_slice
        return tuple(cut(dy, (*before, span)) if self.needs(i) else None for i, span in enumerate(spans))


def reshape(x: Tensor, *shape: Any) -> Tensor:
    """x in another shape, given as integers or one tuple; one extent may be -1, and is computed.

    Raises:
        ValueError: a shape of another number of elements.
    """
    extents = list(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else list(shape)
    if not all(isinstance(n, int | np.integer) for n in extents):
        raise TypeError(f"reshape: takes integers, got {tuple(shape)}")
    known = prod(n for n in extents if n != -1)
    if extents.count(-1) == 1 and known > 0 and x.size % known == 0:
        extents[extents.index(-1)] = x.size // known
    if prod(extents) != x.size or any(n < 0 for n in extents):
        raise ValueError(f"reshape: {x.size} elements of shape {x.shape} do not fill {tuple(shape)}")
    return _Reshape.apply(x, shape=tuple(extents))


def flatten(x: Tensor) -> Tensor:
    """(N, …) -> (N, product of the rest), row-major: (h, w, c) goes to (h W + w) C + c."""
    if x.ndim < 1:
        raise ValueError("flatten: x has no axes but takes at least one, (N, …)")
    return reshape(x, x.shape[0], prod(x.shape[1:]))


def transpose(x: Tensor, *axes: Any) -> Tensor:
    """x with its axes in another order, given as integers or one tuple; reversed if none are given.

    Each axis is named once, or a ValueError is raised; negative numbers count from the end.
    """
    given: Any = axes[0] if len(axes) == 1 and isinstance(axes[0], tuple | list) else axes
    if not axes or axes == (None,):
        given = range(-1, -x.ndim - 1, -1)
    fits = all(isinstance(a, int | np.integer) and not isinstance(a, bool) and -x.ndim <= a < x.ndim for a in given)
    order = tuple(int(a) % x.ndim for a in given) if fits else ()
    if not fits or sorted(order) != list(range(x.ndim)):
        raise ValueError(f"transpose: axes {axes} are no order of the {x.ndim} axes of {x.shape}")
    return _Transpose.apply(x, axes=order)


def squeeze(x: Tensor, axis: Any = None) -> Tensor:
    """x without axes of extent 1: the one or several that are given, or all (None).

    Raises:
        ValueError: an axis of another extent, as in NumPy.
    """
    ones = tuple(i for i, n in enumerate(expect_tensor("squeeze", "x", x).shape) if n == 1)
    axes = ones if axis is None else axes_of("squeeze", axis, x.ndim)
    if not set(axes) <= set(ones):
        raise ValueError(f"squeeze: axis {axis} of shape {x.shape} is not of extent 1")
    return reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in axes))


def unsqueeze(x: Tensor, axis: int) -> Tensor:
    """x with a new axis of extent 1; `axis` is its place in the shape of the result."""
    at = axis_of("unsqueeze", axis, expect_tensor("unsqueeze", "x", x).ndim + 1)
    return reshape(x, (*x.shape[:at], 1, *x.shape[at:]))


def concatenate(tensors: Any, axis: int = 0) -> Tensor:
    """Join tensors along `axis`; some of them may be host arrays.

    Raises:
        ValueError: no tensors, or tensors that differ in another extent than that of `axis`.
    """
    tensors, shapes = _listed("concatenate", tensors)
    axis = axis_of("concatenate", axis, len(shapes[0]))
    if len({(*s[:axis], *s[axis + 1 :], len(s)) for s in shapes}) > 1:
        raise ValueError(f"concatenate: shapes {', '.join(map(str, shapes))} differ in more than axis {axis}")
    return _Concatenate.apply(*tensors, axis=axis)


def stack(tensors: Any, axis: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis of the result; some of them may be host arrays.

    Raises:
        ValueError: no tensors, or tensors of different shapes.
    """
    tensors, shapes = _listed("stack", tensors)
    if len(set(shapes)) > 1:
        raise ValueError(f"stack: takes one shape, got {', '.join(map(str, shapes))}")
    at = axis_of("stack", axis, len(shapes[0]) + 1)
    return concatenate([unsqueeze(t, at) if isinstance(t, Tensor) else np.expand_dims(t, at) for t in tensors], at)


def _listed(operation: str, tensors: Any) -> tuple[list[Any], list[tuple[int, ...]]]:
    """(the tensors, and everything else as host arrays; their shapes)."""
    if isinstance(tensors, Tensor) or not isinstance(tensors, Iterable):
        raise TypeError(f"{operation}: takes a list or tuple of tensors, got {type(tensors).__name__}")
    listed = [t if isinstance(t, Tensor) else real_array(f"{operation}: a part", t) for t in tensors]
    if not listed:
        raise ValueError(f"{operation}: takes at least one tensor, got none")
    return listed, [tuple(t.shape) for t in listed]
