"""Inputs of an operation become arrays of one backend and dtype, and its results are checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.backends.contract import Array, Backend, is_float, is_masked, real_array
from gpunet.dlpack import exports_array
from gpunet.errors import BackendError
from gpunet.parameters import Parameter
from gpunet.tensors import Tensor

_PLAIN: dict[Any, str] = {np.dtype(name): name for name in ("float32", "float64")}
"""Dtypes of which no operand is cast, and their names, which NumPy takes long to make."""


def as_operands(
    operation: str, arguments: tuple[str, ...], inputs: tuple[Any, ...], *, moves: bool, single: tuple[str, ...]
) -> tuple[tuple[Tensor | None, ...], tuple[Array | None, ...]]:
    """The inputs of an operation as tensors, and as the arrays of one dtype that it computes with.

    The dtype is that of the first input that is a tensor of floats but no parameter, or else of the
    first parameter: parameters are rounded to the dtype of the data, and integers and booleans are
    cast to it. If no input has floats, the dtype is float32; an operation that only moves elements
    keeps the dtype that its inputs have, or takes int64 if they differ.

    Args:
        operation: the operation's name, for messages.
        arguments: names of the inputs, for messages.
        inputs: tensors; and host arrays, numbers and None, which become tensors beside them.
        moves: whether the operation only moves elements.
        single: names of the inputs that stay float32 where the others have 16 bits.
    Raises:
        TypeError: no input is a tensor, or one has a dtype that does not fit or is not computed.
        BackendError: two inputs are on different backends.
    """
    alike = _alike(inputs)
    if alike is not None:
        return inputs, alike
    given = [t for t in inputs if isinstance(t, Tensor)]
    if not given:
        raise TypeError(f"{operation}: takes at least one tensor; make one with gpunet.tensor(data)")
    floats = [t for t in given if is_float(t.dtype)]
    first = next((t for t in floats if not isinstance(t, Parameter)), (floats or given)[0])
    backend, dtype = first.backend, first.dtype
    if not floats and not moves:
        dtype = np.dtype(np.float32)
    elif not floats and any(t.dtype != dtype for t in given):
        dtype = np.dtype(np.int64)
    tensors: list[Tensor | None] = []
    operands: list[Array | None] = []
    for i, t in enumerate(inputs):
        if t is not None and not isinstance(t, Tensor):
            t = _constant(t, backend, dtype, f"{operation}: {argument_name(arguments, i)}")
        tensors.append(t)
        if t is None:
            operands.append(None)
            continue
        if t.backend is not backend:
            one, other = (argument_name(arguments, n) for n in (i, [t is first for t in inputs].index(True)))
            raise BackendError(f"{operation}: {one} is on {t.backend.name} but {other} on {backend.name}; use .to(…)")
        stays_single = bool(single) and argument_name(arguments, i) in single and dtype.name in backend.narrow
        expected = np.dtype(np.float32) if stays_single else dtype
        operand = t.operand(expected)
        if not is_float(operand.dtype) and operand.dtype != expected:
            operand = backend.cast(operand, expected)
        if operand.dtype != expected:
            raise TypeError(f"{operation}: {argument_name(arguments, i)} is {t.dtype} but the first tensor is {dtype}")
        operands.append(operand)
    if dtype.name not in backend.dtypes and is_float(dtype):
        takes = ", ".join(backend.dtypes)
        raise TypeError(f"{operation}: {dtype} is not computed on {backend.name}, which takes {takes}")
    return tuple(tensors), tuple(operands)


def _alike(inputs: tuple[Any, ...]) -> tuple[Array | None, ...] | None:
    """The arrays of inputs that are tensors of float32 or of float64 on one backend, as they mostly are; None for others."""
    first = inputs[0] if inputs else None
    if not isinstance(first, Tensor) or isinstance(first, Parameter) or first.dtype not in _PLAIN:
        return None
    backend, dtype = first.backend, first.dtype
    for t in inputs:
        if t is not None and not (isinstance(t, Tensor) and t.backend is backend and t.dtype == dtype):
            return None
    if _PLAIN[dtype] not in backend.dtypes:
        return None
    return tuple([None if t is None else t.operand(dtype) for t in inputs])


def _constant(value: Any, backend: Backend, dtype: np.dtype, argument: str) -> Tensor:
    """An input that is no tensor, as a tensor of the operation's backend and dtype."""
    if isinstance(value, int | float):
        return Tensor(backend.full((), as_float(value, argument), dtype), backend)
    if not (isinstance(value, np.ndarray | np.generic | list | tuple) or backend.owns(value) or exports_array(value)):
        raise TypeError(f"{argument} takes a tensor, an array or a number, got {type(value).__name__}")
    array = real_array(argument, value)
    if not is_float(dtype) and not np.can_cast(array.dtype, dtype):
        raise TypeError(f"{argument} is {array.dtype} but the first tensor is {dtype}")
    return Tensor(backend.asarray(array, dtype), backend)


def argument_name(arguments: tuple[str, ...], i: int) -> str:
    """The name of input i; its number if the operation takes many inputs under one name."""
    return arguments[i] if i < len(arguments) else f"argument {i}"


def as_float(value: float, argument: str) -> float:
    """The number as a float; a ValueError that names the argument if a float cannot hold it."""
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{argument} is an integer beyond what a float holds") from None


def checked_result(operation: str, result: str, array: Any, backend: Backend) -> Array:
    """The array that an operation returned; a TypeError if it is none of the backend's.

    A number of NumPy's, such as ``x.sum()``, becomes an array without axes.
    """
    if isinstance(array, np.generic):
        array = np.asarray(array)
    if not backend.owns(array) or is_masked(array):
        raise TypeError(f"{operation}: {result} is {type(array).__name__} but must be an array of {backend.name}")
    return array


def checked_gradient(operation: str, argument: str, t: Tensor, dx: Any) -> Array:
    """The gradient that `backward` returned for `t`, contiguous and of its shape and dtype."""
    result = f"backward's gradient of {argument}"
    dx = checked_result(operation, result, dx, t.backend)
    if tuple(dx.shape) != t.shape:
        raise ValueError(f"{operation}: {result} has shape {tuple(dx.shape)} but must have {t.shape}")
    if dx.dtype != t.dtype:  # sums are float32 where 16 bits are stored
        if not is_float(dx.dtype):
            raise TypeError(f"{operation}: {result} is {dx.dtype} but must be a float dtype")
        return t.backend.cast(dx, t.dtype)
    return dx if dx.flags.c_contiguous else t.backend.asarray(dx)
