"""Variance and standard deviation."""

from __future__ import annotations

from math import prod
from numbers import Real
from typing import Any

from gpunet.autograd import Function, Tensor
from gpunet.backends.contract import Array
from gpunet.functional.reduction import filled_axes, kept_shape

__all__ = ["std", "var"]


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
