"""Reductions over axes."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gpunet.autograd import Function, Tensor
from gpunet.backends.base import Array


class _Sum(Function):
    name = "sum"

    def forward(self, x: Array, *, axes: tuple[int, ...], keepdims: bool) -> Array:
        self.shape, self.kept = tuple(x.shape), _kept_shape(x.shape, axes)
        y = self.backend.sum(x, axes)
        return y.reshape(self.kept) if keepdims else y

    def backward(self, dy: Array) -> Any:
        zeros = self.backend.full(self.shape, 0, dy.dtype)
        return self.backend.binary("add", zeros, dy.reshape(self.kept), out=zeros)


class _Max(Function):
    name = "max"

    def forward(self, x: Array, *, axes: tuple[int, ...], keepdims: bool) -> Array:
        y, self.index = self.backend.max(x, axes)
        self.shape, self.axes = tuple(x.shape), axes
        return y.reshape(_kept_shape(x.shape, axes)) if keepdims else y

    def backward(self, dy: Array) -> Any:
        dy = dy.reshape(self.index.shape)
        return self.backend.max_backward(dy, self.index, shape=self.shape, axes=self.axes)


def _kept_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def axes_of(operation: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """Sorted, non-negative axes of an argument that is None (all), an integer or several."""
    if axis is None:
        return tuple(range(ndim))
    given = (axis,) if isinstance(axis, int | np.integer) else tuple(axis)
    for a in given:
        if not isinstance(a, int | np.integer) or not -ndim <= a < ndim:
            raise ValueError(f"{operation}: axis is {axis} but the tensor has {ndim} axes")
    axes = tuple(sorted({int(a) % ndim for a in given}))
    if len(axes) < len(given):
        raise ValueError(f"{operation}: axis {axis} names an axis twice")
    return axes


def sum(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Sum over an axis, several, or all."""
    axes = axes_of("sum", axis, x.ndim)
    return _Sum.apply(x, axes=axes, keepdims=keepdims) if axes else x


def mean(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Mean over an axis, several, or all."""
    axes = axes_of("mean", axis, x.ndim)
    if prod(x.shape[a] for a in axes) == 0:
        raise ValueError(f"mean: axes {axes} of shape {x.shape} hold no elements")
    return sum(x, axes, keepdims) * (1 / prod(x.shape[a] for a in axes))


def max(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Maximum over an axis, several, or all; the gradient goes to the first of equals."""
    axes = axes_of("max", axis, x.ndim)
    return _Max.apply(x, axes=axes, keepdims=keepdims) if axes else x
