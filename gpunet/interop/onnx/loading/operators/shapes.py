"""Shapes and constants, which the host computes, and conversions of dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpunet import functional as F
from gpunet.autograd import Tensor
from gpunet.backends.contract import is_float
from gpunet.interop.onnx.loading.operators.registry import operator
from gpunet.interop.onnx.loading.values import Host, Value, check_size
from gpunet.interop.onnx.package import TensorProto

DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 11: "float64",
    12: "uint32", 13: "uint64",
}  # fmt: skip
"""Dtypes by their numbers in ONNX, as far as values of graphs may have them."""


def dtype_of(number: int) -> np.dtype:
    """The dtype with a number of ONNX's TensorProto.DataType."""
    if number not in DTYPES:
        names = {v: k for k, v in TensorProto.DataType.items()}
        raise TypeError(f"dtype {names.get(number, number)} is not one of {', '.join(DTYPES.values())}")
    return np.dtype(DTYPES[number])


@operator("Constant")
def constant(
    *,
    value: np.ndarray | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
) -> Value:
    """A value that stands in the file."""
    if value is not None:
        return Value(value)
    floats = value_float if value_float is not None else value_floats
    if floats is not None:
        return Value(np.asarray(floats, np.float32))
    integers = value_int if value_int is not None else value_ints
    if integers is None:
        raise ValueError("takes a value, of numbers, but has none")
    return Value(np.asarray(integers, np.int64))


@operator("ConstantOfShape")
def constant_of_shape(shape: Host, *, value: np.ndarray | None = None) -> Value:
    """An array of one value, a float 0 unless it is given."""
    extents = check_size(shape.integers())
    one = np.zeros(1, np.float32) if value is None else value
    if one.size != 1:
        raise ValueError(f"attribute value has shape {one.shape} but takes one element")
    return Value(np.full(extents, one.reshape(-1)[0], one.dtype))


@operator("Shape")
def shape(x: Value, *, start: int = 0, end: int | None = None) -> Value:
    """The extents of x, or those of a part of its axes."""
    return Value(np.array(x.shape[slice(start, end)], np.int64))


@operator("Size")
def size(x: Value) -> Value:
    """The number of elements."""
    return Value(np.array(int(np.prod(x.shape, dtype=np.int64)), np.int64))


@operator("Range")
def range_(start: Host, limit: Host, delta: Host) -> Value:
    """Numbers from start to below limit."""
    first, last, step = (v.host().reshape(-1)[0] for v in (start, limit, delta))
    if step == 0:
        raise ValueError("delta is 0")
    check_size([max(int(np.ceil((last - first) / step)), 0)])
    return Value(np.arange(first, last, step, dtype=start.dtype))


def converted(x: Value, dtype: np.dtype) -> Value:
    """x in another dtype: floats of a tensor stay a tensor, integers are computed on the host."""
    if x.dtype == dtype:
        return x
    array = x.array
    if isinstance(array, Tensor):
        if is_float(dtype) and is_float(array.dtype):
            return Value(F.cast(array, dtype), x.order)
        if is_float(dtype) and dtype.name in array.backend.dtypes:
            return Value(Tensor(array.backend.cast(array.data, dtype), array.backend), x.order)
        if dtype == np.bool_:
            return Value(array != 0, x.order)
    with np.errstate(all="ignore"):
        return Value(x.host().astype(dtype))


@operator("Cast")
def cast(x: Value, *, to: int, saturate: int = 1, round_mode: str = "up") -> Value:
    """x in another dtype."""
    return converted(x, dtype_of(to))


@operator("CastLike")
def cast_like(x: Value, like: Value, *, saturate: int = 1, round_mode: str = "up") -> Value:
    """x in the dtype of another value."""
    return converted(x, like.dtype)


def _rounded(x: Value, function: Any) -> Value:
    """A step function of each element, computed on the host; it has no gradient."""
    values = function(x.host())
    if x.is_tensor:
        backend = x.array.backend
        return Value(Tensor(backend.asarray(values, values.dtype), backend))
    return Value(values)


@operator("Floor")
def floor(x: Value) -> Value:
    """The largest whole number up to x."""
    return _rounded(x, np.floor)


@operator("Ceil")
def ceil(x: Value) -> Value:
    """The smallest whole number from x on."""
    return _rounded(x, np.ceil)


@operator("Round")
def round_(x: Value) -> Value:
    """The nearest whole number, halves to the even one."""
    return _rounded(x, np.rint)
