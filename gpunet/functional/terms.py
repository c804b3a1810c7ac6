"""What losses share: labels as vectors, and terms that become one number."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends import get_backend
from gpunet.backends.contract import COUNTS, Activation, Array, Backend, real_array
from gpunet.functional.arithmetic import cast

__all__ = ["one_hot"]

REDUCTIONS = ("mean", "sum", "none")
"""What a loss may return: the mean of its terms, their sum, or the terms themselves."""
_RELU = Activation("relu")


class Weighed(Function, name="weighed"):
    """t a, elementwise, and 0 where t is 0 even if a is infinite or NaN; t gets no gradient."""

    def forward(self, a: Array, *, t: Array) -> Array:
        self.t = t
        return self.backend.binary("multiply", t, where_positive(self.backend, self.backend.unary("abs", t), a))

    def backward(self, dy: Array) -> Any:
        slope = self.backend.binary("multiply", dy, self.t)
        return where_positive(self.backend, self.backend.unary("abs", self.t), slope)


def where_positive(backend: Backend, t: Array, a: Array) -> Array:
    """a where t is above 0 or NaN, 0 elsewhere even if a is NaN; both of one shape and dtype."""
    return backend.activation_backward(a, t, _RELU)  # the gradient of ReLU looks at the sign of t


def check_reduction(operation: str, reduction: str, allowed: tuple[str, ...] = REDUCTIONS) -> None:
    """Raise ValueError unless the reduction is one of those that the loss has."""
    if reduction not in allowed:
        *names, last = map(repr, allowed)
        raise ValueError(f"{operation}: reduction is {reduction!r} but takes {', '.join(names)} or {last}")


def reduced(operation: str, terms: Tensor, reduction: str) -> Tensor:
    """The mean or the sum of the terms of a loss, a tensor of no axes, or the terms themselves.

    Raises:
        ValueError: an unknown reduction, or the mean of no terms. The sum of no terms is 0.
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
    """(the argument as an array of the backend, a host array in which its values can be checked).

    The second is None if the argument lies on a device already, because reading it would wait for
    the device.
    """
    given = real_array("asarray: data", given.data if isinstance(given, Tensor) else given)
    array = backend.asarray(given, dtype)
    if isinstance(array, np.ndarray):
        return array, array
    return array, np.asarray(given, dtype) if isinstance(given, np.ndarray) else None


def wide(x: Tensor) -> Tensor:
    """x in float32 where the backend only stores 16 bits, because a loss is a sum."""
    return cast(x, np.float32) if x.dtype.name in x.backend.narrow else x


def difference(operation: str, x: Tensor, target: Any) -> Tensor:
    """x - target; ValueError unless both have one shape."""
    if not isinstance(target, Tensor):
        target = real_array(f"{operation}: target", target)
    shape = tuple(target.shape)
    if shape != expect_tensor(operation, "x", x).shape:
        raise ValueError(f"{operation}: target has shape {shape} but x {x.shape}")
    return wide(x - target)


def one_hot(labels: Any, num_classes: int, *, backend: str | Backend = "numpy", dtype: Any = np.float32) -> Tensor:
    """1 at each label's class, 0 elsewhere: (…) -> (…, K), without a gradient.

    Args:
        labels: integers from 0 to K - 1. Host arrays and lists are checked. An int32 array on a
            device is not read: there a label that is no class makes its row NaN, so that a loss of
            it is not finite.
        num_classes: K.
        backend, dtype: those of the result.
    Raises:
        TypeError: labels that are no integers.
        ValueError: a label of the host out of range.
    """
    target = get_backend(backend)
    counted = isinstance(labels, Tensor) and labels.dtype.name in COUNTS
    given = real_array("one_hot: labels", labels.data if counted else labels)
    on_host = isinstance(given, np.ndarray)
    if np.dtype(given.dtype).kind not in "iub":
        raise TypeError(f"one_hot: labels are {given.dtype} but take integers")
    if on_host and given.size and not 0 <= given.min() <= given.max() < num_classes:
        raise ValueError(f"one_hot: labels must be from 0 to {num_classes - 1}, got {given.min()} to {given.max()}")
    rows = target.asarray(given.reshape(-1), np.int32)
    ones = target.full((given.size,), 1, dtype)
    made = target.max_backward(ones, rows, shape=(given.size, num_classes), axes=(1,))  # 1 at the label
    if not on_host:  # a row without a 1 becomes 0 / 0
        made = target.binary("divide", made, target.sum(made, (1,)).reshape(-1, 1))
    return Tensor(made.reshape(*given.shape, num_classes), target)
