"""What losses have in common: their terms, and how these become one number."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.backend import Backend
from gpunet.functional.arithmetic import cast

REDUCTIONS = ("mean", "sum", "none")
"""What becomes of a loss's terms: their mean, their sum, or nothing."""
_RELU = Activation("relu")


class Weighed(Function):
    """t a, elementwise, and 0 where t is 0, whatever a is; t gets no gradient."""

    name = "weighed"

    def forward(self, a: Array, *, t: Array) -> Array:
        self.t = t
        return self.backend.binary("multiply", t, where_positive(self.backend, self.backend.unary("abs", t), a))

    def backward(self, dy: Array) -> Any:
        return where_positive(
            self.backend, self.backend.unary("abs", self.t), self.backend.binary("multiply", dy, self.t)
        )


def where_positive(backend: Backend, t: Array, a: Array) -> Array:
    """a where t is above 0 or NaN, else 0, whatever a is there: both of one shape and dtype."""
    return backend.activation_backward(a, t, _RELU)  # whose gate is the sign of t


def check_reduction(operation: str, reduction: str, allowed: tuple[str, ...] = REDUCTIONS) -> None:
    """ValueError where a reduction is none of those that a loss has."""
    if reduction not in allowed:
        *names, last = map(repr, allowed)
        raise ValueError(f"{operation}: reduction is {reduction!r} but takes {', '.join(names)} or {last}")


def reduced(operation: str, terms: Tensor, reduction: str) -> Tensor:
    """The mean or the sum of a loss's terms, a tensor of no axes, or the terms themselves.

    Raises:
        ValueError: another reduction, or a mean of nothing; the sum of nothing is 0.
    """
    check_reduction(operation, reduction)
    if reduction == "none":
        return terms
    if reduction == "sum":
        return terms.sum()
    if not terms.size:
        raise ValueError(f"{operation}: terms of shape {terms.shape} hold no elements to take the mean of")
    return terms.mean()


def given_array(backend: Backend, given: Any, dtype: Any) -> tuple[Array, np.ndarray | None]:
    """(the backend's array of an argument, a host array to check its values in): None of one that lies on a device already, for
    reading it would wait for the device."""
    given = given.data if isinstance(given, Tensor) else given
    array = backend.asarray(given, dtype)
    if isinstance(array, np.ndarray):
        return array, array
    return array, None if backend.owns(given) else np.asarray(given, dtype)


def wide(x: Tensor) -> Tensor:
    """x in float32 where 16 bits are only stored: a loss is a sum."""
    return cast(x, np.float32) if x.dtype.name in x.backend.narrow else x


def difference(operation: str, x: Tensor, target: Any) -> Tensor:
    """x - target, both of one shape."""
    shape = tuple(target.shape if hasattr(target, "shape") else np.shape(target))
    if shape != expect_tensor(operation, "x", x).shape:
        raise ValueError(f"{operation}: target has shape {shape} but x {x.shape}")
    return wide(x - target)
