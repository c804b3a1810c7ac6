"""Arithmetic, comparisons and choices, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from gpunet import functional as F
from gpunet.autograd import Tensor
from gpunet.backends.contract import is_float
from gpunet.functional.comparison import compare, logic, negate
from gpunet.interop.onnx.loading.operators.registry import operator
from gpunet.interop.onnx.loading.values import Host, Value, aligned

Join = Callable[[Any, Any], Any]


def joined(on_tensors: Join, on_host: Join, *values: Value) -> Value:
    """The values joined from left to right, by gpunet where one is a tensor, else by NumPy."""

    def pair(one: Value, other: Value) -> Value:
        if any(v.is_tensor and is_float(v.dtype) for v in (one, other)):
            (a, b), order = aligned(one, other)
            return Value(on_tensors(a, b), order)
        with np.errstate(all="ignore"):  # what does not fit is inf or NaN, as ONNX has it
            return Value(np.asarray(on_host(one.host(), other.host())))

    return reduce(pair, values)


@operator("Add", parameters={"a": None, "b": None}, numbers=True)
def add(a: Value, b: Value) -> Value:
    """a + b."""
    return joined(F.add, np.add, a, b)


@operator("Sub", numbers=True)
def subtract(a: Value, b: Value) -> Value:
    """a - b."""
    return joined(F.subtract, np.subtract, a, b)


@operator("Mul", parameters={"a": None, "b": None}, numbers=True)
def multiply(a: Value, b: Value) -> Value:
    """a b."""
    return joined(F.multiply, np.multiply, a, b)


@operator("Div", numbers=True)
def divide(a: Value, b: Value) -> Value:
    """a / b; of integers the part before the point."""

    def quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if a.dtype.kind not in "iu":
            return np.divide(a, b)
        if not b.all():
            raise ValueError("division of integers by 0")
        whole = np.floor_divide(a, b)
        return whole + ((whole < 0) & (whole * b != a)).astype(whole.dtype)  # toward 0, not down

    return joined(F.divide, quotient, a, b)


@operator("Pow", numbers=True)
def power(a: Value, b: Value) -> Value:
    """a to the power of b, in a's dtype."""
    if is_float(a.dtype) and (a.is_tensor or (b.is_tensor and is_float(b.dtype))):
        if not b.is_tensor and b.array.size == 1 and b.ndim <= a.ndim:
            return Value(F.power(a.array, b.number()), a.order)
        (base, exponent), order = aligned(a, b)
        return Value(F.power(base, exponent), order)
    with np.errstate(all="ignore"):
        return Value(np.asarray(np.power(a.host(), b.host())).astype(a.dtype))


@operator("Max", numbers=True)
def maximum(*values: Value) -> Value:
    """The largest of the values, elementwise; NaN wins."""
    return joined(F.maximum, np.maximum, *values)


@operator("Min", numbers=True)
def minimum(*values: Value) -> Value:
    """The smallest of the values, elementwise; NaN wins."""
    return joined(F.minimum, np.minimum, *values)


@operator("Sum", numbers=True)
def sum_of(*values: Value) -> Value:
    """The sum of the values, elementwise."""
    return joined(F.add, np.add, *values)


@operator("Mean", numbers=True)
def mean_of(*values: Value) -> Value:
    """The mean of the values, elementwise."""
    total = sum_of(*values)
    return divide(total, Value(np.asarray(len(values), total.dtype)))


@operator("Clip")
def clip(
    x: Value, low: Host | None = None, high: Host | None = None, *, min: float | None = None, max: float | None = None
) -> Value:
    """x between two limits, which are attributes up to opset 10 and inputs later."""
    least, most = (attribute if given is None else given.number() for given, attribute in ((low, min), (high, max)))
    if least is None and most is None:
        return x
    if x.is_tensor and is_float(x.dtype):
        return Value(F.clip(x.array, least, most), x.order)
    values = x.host()
    values = values if least is None else np.maximum(values, np.asarray(least, values.dtype))
    return Value(values if most is None else np.minimum(values, np.asarray(most, values.dtype)))


@operator("Where", numbers=True)
def where(condition: Value, a: Value, b: Value) -> Value:
    """a where the condition holds, else b."""
    if not any(v.is_tensor for v in (condition, a, b)) or not (is_float(a.dtype) and is_float(b.dtype)):
        return Value(np.where(condition.host(), a.host(), b.host()))
    (mask, one, other), order = aligned(condition, a, b)
    return Value(F.where(mask, one, other), order)


def compared(name: str, a: Value, b: Value) -> Value:
    """A comparison by its name in NumPy."""
    if a.dtype.kind == "b" and b.dtype.kind == "b" and (a.is_tensor or b.is_tensor):
        (one, other), order = aligned(a, b)
        return Value(compare(name, one, other), order)
    return joined(lambda one, other: compare(name, one, other), getattr(np, name), a, b)


@operator("Equal", numbers=True)
def equal(a: Value, b: Value) -> Value:
    """Whether a equals b."""
    return compared("equal", a, b)


@operator("Less", numbers=True)
def less(a: Value, b: Value) -> Value:
    """Whether a is less than b."""
    return compared("less", a, b)


@operator("LessOrEqual", numbers=True)
def less_equal(a: Value, b: Value) -> Value:
    """Whether a is at most b."""
    return compared("less_equal", a, b)


@operator("Greater", numbers=True)
def greater(a: Value, b: Value) -> Value:
    """Whether a is greater than b."""
    return compared("greater", a, b)


@operator("GreaterOrEqual", numbers=True)
def greater_equal(a: Value, b: Value) -> Value:
    """Whether a is at least b."""
    return compared("greater_equal", a, b)


def _logic(name: str, a: Value, b: Value) -> Value:
    if not (a.is_tensor or b.is_tensor):
        return Value(getattr(np, f"logical_{name}")(a.host(), b.host()))
    (one, other), order = aligned(a, b)
    return Value(logic(name, one, other), order)


@operator("And")
def logical_and(a: Value, b: Value) -> Value:
    """Whether both hold."""
    return _logic("and", a, b)


@operator("Or")
def logical_or(a: Value, b: Value) -> Value:
    """Whether one holds or both."""
    return _logic("or", a, b)


@operator("Xor")
def logical_xor(a: Value, b: Value) -> Value:
    """Whether exactly one holds."""
    return _logic("xor", a, b)


@operator("Not")
def logical_not(x: Value) -> Value:
    """Whether it does not hold."""
    return Value(negate(x.array), x.order) if x.is_tensor else Value(~x.host())


def each(on_tensor: Callable[[Tensor], Tensor], on_host: Callable[[Any], Any], x: Value) -> Value:
    """A function of each element, in whatever order they lie."""
    if x.is_tensor and is_float(x.dtype):
        return Value(on_tensor(x.array), x.order)
    with np.errstate(all="ignore"):
        values = x.host()
        return Value(np.asarray(on_host(values)).astype(values.dtype))


@operator("Neg")
def negative(x: Value) -> Value:
    """-x."""
    return each(F.negative, np.negative, x)


@operator("Abs")
def absolute(x: Value) -> Value:
    """x without its sign."""
    return each(F.abs, np.abs, x)


@operator("Exp")
def exp(x: Value) -> Value:
    """e to the power of x."""
    return each(F.exp, np.exp, x)


@operator("Log")
def log(x: Value) -> Value:
    """The natural logarithm."""
    return each(F.log, np.log, x)


@operator("Sqrt")
def sqrt(x: Value) -> Value:
    """The square root."""
    return each(F.sqrt, np.sqrt, x)


@operator("Reciprocal")
def reciprocal(x: Value) -> Value:
    """1 / x."""
    return each(lambda x: F.divide(1.0, x), np.reciprocal, x)
