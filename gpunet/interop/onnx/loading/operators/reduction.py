"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from gpunet import functional as F
from gpunet.autograd import Tensor
from gpunet.backends.contract import is_float
from gpunet.interop.onnx.loading.operators.arithmetic import root
from gpunet.interop.onnx.loading.operators.registry import operator
from gpunet.interop.onnx.loading.values import Host, Value, without_axes

Reduction = Callable[[Any, tuple[int, ...]], Any]
"""(array, axes) -> the array with these axes reduced to extent 1."""


def reduced(
    on_tensor: Reduction, on_host: Reduction, x: Value, axes_in: Value | None, axes: Sequence[int] | None, keepdims: int,
    noop: int,
) -> Value:  # fmt: skip
    """x reduced over its axes, which are an attribute in old files and an input in new ones."""
    given = axes_in.integers() if axes_in is not None else tuple(axes or ())
    along = {x.axis(axis) for axis in given} if given or noop else set(range(x.ndim))
    places = tuple(sorted(along))
    if x.is_tensor and is_float(x.dtype) and prod(x.array.shape[i] for i in places) > 0:
        y = on_tensor(x.array, places)
    else:
        array = x.host().transpose(x.order)
        with np.errstate(all="ignore"):  # the mean of no elements is NaN
            y = np.asarray(on_host(array, places)).astype(array.dtype)
        if x.is_tensor:
            y = Tensor(x.array.backend.asarray(y, y.dtype), x.array.backend)
    if keepdims:
        return Value(y, x.order)
    return without_axes(Value(y, x.order), {x.order[i] for i in along})


def _enter(name: str, on_tensor: Reduction, on_host: Reduction, what: str) -> None:
    def reduce(
        x: Value,
        axes_in: Host | None = None,
        *,
        axes: Sequence[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Value:
        return reduced(on_tensor, on_host, x, axes_in, axes, keepdims, noop_with_empty_axes)

    reduce.__doc__ = what
    operator(name)(reduce)


def _largest(x: np.ndarray, axes: tuple[int, ...], *, sign: int) -> np.ndarray:
    """The largest elements, or the smallest (sign -1); of no elements, the dtype's least (or largest)."""
    function = np.max if sign > 0 else np.min
    if x.dtype.kind == "b":
        least: Any = sign < 0
    elif x.dtype.kind in "iu":
        least = np.iinfo(x.dtype).min if sign > 0 else np.iinfo(x.dtype).max
    else:
        least = -sign * np.inf
    return function(x, axis=axes, keepdims=True, initial=least)


def _product(x: Any, axes: tuple[int, ...]) -> Any:
    """The product of integers on the host: shapes are what it is used for."""
    if isinstance(x, Tensor):
        raise TypeError(f"takes integers of the host, such as shapes, got a tensor of {x.dtype}")
    return np.prod(x, axis=axes, keepdims=True)


def _total(x: Any, axes: tuple[int, ...]) -> Any:
    return F.sum(x, axes, True) if isinstance(x, Tensor) else np.sum(x, axis=axes, keepdims=True)


def _mean(x: Any, axes: tuple[int, ...]) -> Any:
    return _total(x, axes) / prod(x.shape[axis] for axis in axes)


_enter("ReduceSum", _total, _total, "The sum.")
_enter("ReduceMean", lambda x, axes: F.mean(x, axes, True), _mean, "The mean.")
_enter("ReduceMax", lambda x, axes: F.max(x, axes, True), lambda x, axes: _largest(x, axes, sign=1), "The largest.")
_enter("ReduceMin", lambda x, axes: F.min(x, axes, True), lambda x, axes: _largest(x, axes, sign=-1), "The smallest.")
_enter(
    "ReduceL1",
    lambda x, axes: _total(abs(x), axes),
    lambda x, axes: _total(abs(x), axes),
    "The sum of absolute values.",
)
_enter(
    "ReduceSumSquare", lambda x, axes: _total(x * x, axes), lambda x, axes: _total(x * x, axes), "The sum of squares."
)
_enter(
    "ReduceL2",
    lambda x, axes: root(_total(x * x, axes), 2),
    lambda x, axes: np.sqrt(_total(x * x, axes)),
    "The root of the sum of squares.",
)
_enter("ReduceProd", _product, _product, "The product.")


@operator("ArgMax")
def arg_max(x: Value, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Value:
    """Where the largest element of an axis stands: the first of equal ones, or the last."""
    return _position(F.argmax, np.argmax, x, axis, keepdims, select_last_index)


@operator("ArgMin")
def arg_min(x: Value, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Value:
    """Where the smallest element of an axis stands: the first of equal ones, or the last."""
    return _position(F.argmin, np.argmin, x, axis, keepdims, select_last_index)


def _position(on_tensor: Any, on_host: Any, x: Value, axis: int, keepdims: int, last: int) -> Value:
    at, array = x.axis(axis), x.array
    if last:  # the first from behind
        array = array[(*(slice(None),) * at, slice(None, None, -1))]
    tensor = isinstance(array, Tensor) and is_float(array.dtype)
    places = on_tensor(array, at, True) if tensor else on_host(Value(array).host(), at, keepdims=True)
    if last:
        behind = places.numpy() if isinstance(places, Tensor) else places
        places = array.shape[at] - 1 - behind
    if not isinstance(places, Tensor):  # the host's arrays are in ONNX's order
        places = np.ascontiguousarray(places.transpose(np.argsort(x.order)))
        return Value(places if keepdims else places.squeeze(axis % x.ndim))
    y = Value(places, x.order)
    return y if keepdims else without_axes(y, {axis % x.ndim})
