"""Elementwise comparisons, which return booleans without a gradient, and logic of booleans."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.autograd import Parameter, Tensor
from gpunet.backends.contract import Array, is_float, real_array
from gpunet.dlpack import exports_array
from gpunet.errors import BackendError
from gpunet.modes import noted


def compare(name: str, a: Any, b: Any) -> Tensor:
    """Compare a and b with broadcasting, as NumPy does -> a tensor of booleans, without a gradient.

    With a tensor of floats, numbers and host arrays are rounded to its dtype, as in arithmetic, and
    integers become floats. Integers and booleans are compared as int64, and as float32 with floats
    of the host.

    Args:
        name: one of `backends.contract.arrays.COMPARISONS`.
        a, b: at least one is a tensor; the other may be an array or a number.
    """
    first = a if isinstance(a, Tensor) else b
    one, other = (_as_tensor(f"{name}: {argument}", value, first) for argument, value in (("a", a), ("b", b)))
    try:
        np.broadcast_shapes(one.shape, other.shape)
    except ValueError:
        raise ValueError(f"{name}: shapes {one.shape} and {other.shape} do not broadcast") from None
    dtype = _common_dtype(name, one, other)
    result = Tensor(first.backend.compare(name, _as_dtype(one, dtype), _as_dtype(other, dtype)), first.backend)
    return noted(name, (one, other), {"dtype": dtype}, result)


def is_comparable(value: Any) -> bool:
    """Whether a tensor can be compared with the value; as in PyTorch, not with None or text."""
    kinds = Tensor | int | float | np.ndarray | np.number | np.bool_ | list | tuple
    return isinstance(value, kinds) or exports_array(value)


def logic(name: str, a: Any, b: Any) -> Tensor:
    """The logic "and", "or" or "xor" of booleans, computed by comparing them."""
    for argument, value in (("a", a), ("b", b)):
        kind = value.dtype if isinstance(value, Tensor) else real_array(f"{name}: {argument}", value).dtype
        if kind != np.bool_:
            raise TypeError(f"{name}: {argument} is {kind} but takes booleans, such as comparisons return")
    if name == "xor":
        return compare("not_equal", a, b)
    return compare("greater" if name == "and" else "greater_equal", a, negate(b))


def negate(x: Any) -> Tensor:
    """True where the boolean x is False."""
    if not isinstance(x, Tensor):
        return ~real_array("invert: x", x)
    if x.dtype != np.bool_:
        raise TypeError(f"invert: x is {x.dtype} but takes booleans, such as comparisons return")
    return compare("equal", x, False)


def _as_tensor(what: str, value: Any, first: Tensor) -> Tensor:
    """The value as a tensor: of `first`'s dtype if that is a float, else of int64 or float32."""
    backend = first.backend
    if isinstance(value, Tensor):
        if value.backend is not backend:
            raise BackendError(f"{what} is on {value.backend.name} but the other on {backend.name}; use .to(…)")
        return value
    array = real_array(what, value)
    dtype = first.dtype if is_float(first.dtype) else np.float32 if is_float(array.dtype) else np.int64
    return Tensor(backend.asarray(array, dtype), backend)


def _common_dtype(name: str, one: Tensor, other: Tensor) -> np.dtype:
    floats = [t for t in (one, other) if is_float(t.dtype)]
    if not floats:
        return one.dtype if one.dtype == other.dtype == np.bool_ else np.dtype(np.int64)
    dtype = next((t for t in floats if not isinstance(t, Parameter)), floats[0]).dtype
    for t in floats:
        if t.dtype != dtype and not (isinstance(t, Parameter) and dtype.name in t.backend.narrow):
            raise TypeError(f"{name}: takes one dtype, got {one.dtype} and {other.dtype}")
    return dtype


def _as_dtype(t: Tensor, dtype: np.dtype) -> Array:
    return t.operand(dtype) if is_float(t.dtype) else t.backend.cast(t.data, dtype)
