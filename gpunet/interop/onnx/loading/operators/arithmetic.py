"""Arithmetic, comparisons and choices, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
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


for _name, _comparison in {
    "Equal": "equal", "Less": "less", "LessOrEqual": "less_equal", "Greater": "greater", "GreaterOrEqual": "greater_equal",
}.items():  # fmt: skip
    operator(_name, numbers=True)(partial(compared, _comparison))


def _logic(name: str, a: Value, b: Value) -> Value:
    if not (a.is_tensor or b.is_tensor):
        return Value(getattr(np, f"logical_{name}")(a.host(), b.host()))
    (one, other), order = aligned(a, b)
    return Value(logic(name, one, other), order)


for _name in ("And", "Or", "Xor"):
    operator(_name)(partial(_logic, _name.lower()))


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


for _name, _on_tensor, _on_host in (
    ("Neg", F.negative, np.negative),
    ("Abs", F.abs, np.abs),
    ("Exp", F.exp, np.exp),
    ("Log", F.log, np.log),
    ("Sqrt", F.sqrt, np.sqrt),
    ("Reciprocal", lambda x: F.divide(1.0, x), np.reciprocal),
):
    operator(_name)(partial(each, _on_tensor, _on_host))


def root(x: Tensor, p: float) -> Tensor:
    """The p-th root of sums that are not negative; its gradient at 0 is 0, as PyTorch's of a norm."""
    zero = F.clip(x, 0.0, 0.0)  # a tensor, for a captured step compares with no number; NaN stays NaN
    above = x > zero
    return F.where(above, F.power(F.where(above, x, 1.0), 1 / p), zero)
