"""Reductions over axes: sums, means, variances, largest and smallest elements and their positions."""

from __future__ import annotations

from math import prod
from numbers import Real
from typing import Any

import numpy as np

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract import Array, is_float
from gpunet.modes import noted

__all__ = ["argmax", "argmin", "max", "mean", "min", "std", "sum", "var"]


class _Sum(Function, name="sum"):
    def forward(self, x: Array, *, axes: tuple[int, ...], keepdims: bool) -> Array:
        self.shape, self.kept = tuple(x.shape), kept_shape(x.shape, axes)
        y = self.backend.sum(x, axes)
        return y.reshape(self.kept) if keepdims else y

    def backward(self, dy: Array) -> Any:
        zeros = self.backend.full(self.shape, 0, dy.dtype)
        return self.backend.binary("add", zeros, dy.reshape(self.kept), out=zeros)


class _Max(Function, name="max"):
    def forward(self, x: Array, *, axes: tuple[int, ...], keepdims: bool, shared: bool) -> Array:
        y, self.index = self.extreme(x, axes)
        self.shape, self.axes, self.shared = tuple(x.shape), axes, shared
        if shared:
            self.save(x, y)
        return y.reshape(kept_shape(x.shape, axes)) if keepdims else y

    def backward(self, dy: Array) -> Any:
        dy = dy.reshape(self.index.shape)
        if self.shared:
            return self._share(dy)
        return self.backend.max_backward(dy, self.index, shape=self.shape, axes=self.axes)

    def _share(self, dy: Array) -> Array:
        """dy divided equally among the elements that equal y, or that are NaN where y is NaN."""
        (x, y), backend = self.saved, self.backend
        kept = kept_shape(self.shape, self.axes)
        equal = backend.compare("equal", x, backend.broadcast(y.reshape(kept), self.shape))
        chosen = backend.compare("greater_equal", equal, backend.compare("equal", x, x))  # equal, or x is not x
        wide = np.dtype(np.float32) if dy.dtype.name in backend.narrow else dy.dtype
        count = backend.sum(backend.cast(chosen, wide), self.axes)
        share = backend.cast(backend.binary("divide", backend.cast(dy, wide), count), dy.dtype)
        return backend.select(chosen, backend.broadcast(share.reshape(kept), self.shape), None)

    def extreme(self, x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
        """(the extreme elements, their positions)."""
        return self.backend.max(x, axes)


class _Min(_Max, name="min"):
    def extreme(self, x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
        y, index = self.backend.max(self.backend.unary("negative", x), axes)
        return self.backend.unary("negative", y), index


def kept_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with the axes kept, of extent 1."""
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def axes_of(operation: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """Sorted, non-negative axes of an argument that is None (for all), an integer or several."""
    if axis is None:
        return tuple(range(ndim))
    given = tuple(axis) if isinstance(axis, tuple | list | str | np.ndarray | range) else (axis,)
    for a in given:
        if not isinstance(a, int | np.integer) or isinstance(a, bool) or not -ndim <= a < ndim:
            raise ValueError(f"{operation}: axis is {axis} but the tensor has {ndim} axes")
    axes = tuple(sorted({int(a) % ndim for a in given}))
    if len(axes) < len(given):
        raise ValueError(f"{operation}: axis {axis} names an axis twice")
    return axes


def axis_of(operation: str, axis: Any, ndim: int) -> int:
    """One non-negative axis of an argument that is an integer."""
    if not isinstance(axis, int | np.integer) or isinstance(axis, bool):
        raise TypeError(f"{operation}: axis takes an integer, got {axis!r}")
    return axes_of(operation, axis, ndim)[0]


def filled_axes(operation: str, x: Tensor, axis: Any) -> tuple[int, ...]:
    """The axes as `axes_of` returns them; ValueError if they hold no elements."""
    axes = axes_of(operation, axis, expect_tensor(operation, "x", x).ndim)
    if prod(x.shape[a] for a in axes) == 0:
        raise ValueError(f"{operation}: axes {axes} of shape {x.shape} hold no elements")
    return axes


def sum(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Sum over one axis, several, or all (None); booleans and integers are added in float32.

    Arguments are those of `mean`; the sum of no elements is 0.
    """
    axes = axes_of("sum", axis, x.ndim)
    return _Sum.apply(x, axes=axes, keepdims=keepdims) if axes else x


def mean(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Mean over one axis, several, or all (None).

    Args:
        x: any shape and float dtype.
        axis: an integer, several in a tuple, or None; negative ones count from the end.
        keepdims: whether the axes are kept, with extent 1; otherwise the result has none of them.
    Raises:
        ValueError: an axis that x does not have, one named twice, or axes without elements.
    """
    axes = filled_axes("mean", x, axis)
    return sum(x, axes, keepdims) / prod(x.shape[a] for a in axes)


def max(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Maximum over one axis, several, or all (None); NaN wins.

    Along one axis the gradient goes to the first of equal elements; along several, or all, equal
    elements share it, as in PyTorch. Arguments and errors are those of `mean`.
    """
    axes = filled_axes("max", x, axis)
    return _Max.apply(x, axes=axes, keepdims=keepdims, shared=not _is_one(axis)) if axes else x


def min(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Minimum over one axis, several, or all (None); NaN wins, and the gradient is as for `max`."""
    axes = filled_axes("min", x, axis)
    return _Min.apply(x, axes=axes, keepdims=keepdims, shared=not _is_one(axis)) if axes else x


def _is_one(axis: Any) -> bool:
    return isinstance(axis, int | np.integer)


def argmax(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Position of the first maximum, or of the first NaN, along an axis: int64, without a gradient.

    Args:
        x: any shape; on a GPU float32.
        axis: one, several or all (None). For more than one, the position counts their elements in
            row-major order.
        keepdims: whether the axes are kept, with extent 1.
    Raises:
        ValueError: as for `mean`.
    """
    return _position("argmax", x, axis, keepdims)


def argmin(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Position of the first minimum, as for `argmax`."""
    return _position("argmin", x, axis, keepdims)


def _position(name: str, x: Tensor, axis: Any, keepdims: bool) -> Tensor:
    axes, backend = filled_axes(name, x, axis), x.backend
    values = x.data if is_float(x.dtype) else backend.cast(x.data, np.float32)
    _, index = backend.max(backend.unary("negative", values) if name == "argmin" else values, axes)
    index = backend.cast(index, np.int64)
    result = Tensor(index.reshape(kept_shape(x.shape, axes)) if keepdims else index, backend)
    return noted(name, (x,), {"axes": axes, "keepdims": keepdims}, result)


class _Variance(Function, name="var"):
    """The sum of squared differences from the mean, divided by `divisor`.

    The mean of large numbers is rounded, so the mean of the differences from it is subtracted as
    well.
    """

    def forward(self, x: Array, *, axes: tuple[int, ...], keepdims: bool, divisor: float) -> Array:
        self.kept, apply = kept_shape(x.shape, axes), self.backend.binary
        count, self.divisor = (self.backend.full((), n, x.dtype) for n in (prod(x.shape[a] for a in axes), divisor))
        for _ in range(2):  # divided before the sum, which could overflow
            x = apply("subtract", x, self.backend.sum(apply("divide", x, count), axes).reshape(self.kept))
        self.d = x
        y = self.deviation(axes)
        return y.reshape(self.kept) if keepdims else y

    def deviation(self, axes: tuple[int, ...]) -> Array:
        """The result, from the differences from the mean."""
        apply = self.backend.binary
        return apply("divide", self.backend.sum(apply("multiply", self.d, self.d), axes), self.divisor)

    def backward(self, dy: Array) -> Any:
        apply, dy = self.backend.binary, dy.reshape(self.kept)
        return apply("multiply", self.d, apply("divide", apply("add", dy, dy), self.divisor))


class _Deviation(_Variance, name="std"):
    """The root of the variance; differences over the largest have squares that do not overflow."""

    def deviation(self, axes: tuple[int, ...]) -> Array:
        backend, apply = self.backend, self.backend.binary
        largest, _ = backend.max(backend.unary("abs", self.d), axes)
        zero, one = (backend.full(largest.shape, n, largest.dtype) for n in (0, 1))
        largest = backend.select(backend.compare("equal", largest, zero), one, largest)
        z = apply("divide", self.d, largest.reshape(self.kept))
        y = apply("divide", backend.sum(apply("multiply", z, z), axes), self.divisor)
        y = apply("multiply", backend.unary("sqrt", y), largest)
        self.y = y.reshape(self.kept)
        return y

    def backward(self, dy: Array) -> Any:
        backend, apply, dy = self.backend, self.backend.binary, dy.reshape(self.kept)
        at_0 = backend.compare("equal", self.y, backend.full((), 0, dy.dtype))  # there the gradient is taken as 0
        share = backend.select(at_0, None, apply("divide", dy, self.divisor))
        y = backend.select(at_0, backend.full(self.kept, 1, dy.dtype), self.y)
        return apply("multiply", apply("divide", self.d, y), share)


def var(x: Tensor, axis: Any = None, keepdims: bool = False, *, correction: float = 1) -> Tensor:
    """Variance over one axis, several, or all (None): squared differences over n - correction.

    Args:
        x: any shape and float dtype.
        axis, keepdims: as for `mean`.
        correction: subtracted from the number of elements n. PyTorch's default is 1, as here;
            NumPy's is 0. Where n - correction is 0, as for one element, the sum of squares is
            divided by 0, and the variance of equal elements is NaN.
    Raises:
        ValueError: as for `mean`, or a correction above n.
    """
    axes, divisor = _divided("var", x, axis, correction)
    return _Variance.apply(x, axes=axes, keepdims=keepdims, divisor=divisor)


def std(x: Tensor, axis: Any = None, keepdims: bool = False, *, correction: float = 1) -> Tensor:
    """Standard deviation, the root of `var`; where it is 0, its gradient is 0, as in PyTorch."""
    axes, divisor = _divided("std", x, axis, correction)
    return _Deviation.apply(x, axes=axes, keepdims=keepdims, divisor=divisor)


def _divided(name: str, x: Tensor, axis: Any, correction: float) -> tuple[tuple[int, ...], float]:
    """(the axes, the divisor of sums over them)."""
    axes = filled_axes(name, x, axis)
    count = prod(x.shape[a] for a in axes)
    if not (isinstance(correction, Real) and correction <= count):
        raise ValueError(f"{name}: correction is {correction!r} but must be a number up to that of elements, {count}")
    return axes, float(count - correction)
