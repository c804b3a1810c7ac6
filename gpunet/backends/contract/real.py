"""`real_array`: refuses what NumPy would turn into other real numbers without an error."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from gpunet import dlpack
from gpunet.backends.contract.arrays import is_float

__all__ = ["is_masked", "on_device", "real_array"]

_OWN = ("cupy", "gpunet")
"""Packages whose arrays of devices the backends know."""
_KINDS = {"c": "complex numbers", "U": "text", "S": "bytes", "M": "dates", "m": "spans of time", "V": "records"}


def real_array(what: str, data: Any) -> Any:
    """Return `data` as a NumPy array of real numbers, or as CuPy's if it lies on a CUDA device.

    Arrays of other libraries are not copied. Memory that is read-only stays so in NumPy's array;
    CuPy's arrays do not know of such memory, so it is copied.

    NumPy's own conversion to floats loses a mask and an imaginary part, reads numbers from text,
    and turns None into NaN.

    Args:
        what: the operation and the argument, with which each message begins.
        data: an array of any library that exports DLPack or an array interface, nested lists or a
            number.
    Raises:
        TypeError: a masked array, elements that are not real numbers, or an array whose library
            refuses to share it.
        ValueError: nested lists of unequal lengths.
        BackendError: an array on a CUDA device, without CuPy.
    """
    if type(data) is np.ndarray and data.dtype.kind in "fiub":
        return data
    if on_device(data):
        if type(data).__module__.partition(".")[0] not in _OWN:
            data = _from_device(what, data)
        if data.dtype.kind == "c":
            raise TypeError(f"{what} is an array of complex numbers but takes real numbers")
        return data
    if _has_mask(data):
        raise TypeError(f"{what} is a masked array, whose mask would be lost; fill it first: array.filled(value)")
    try:
        array = _from_host(what, data) if _exports_dlpack(data) else np.asarray(data)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise ValueError(f"{what} is of nested sequences of unequal lengths") from None
    if array.dtype.kind not in "fiub" and not is_float(array.dtype):
        raise TypeError(f"{what} is of {_described(array)} but takes real numbers")
    return array


def on_device(data: Any) -> bool:
    """Whether `data` is an array outside the host's memory."""
    return not isinstance(data, np.ndarray) and dlpack.device_of(data)[0] not in dlpack.HOST_MEMORY


def _exports_dlpack(data: Any) -> bool:
    return not isinstance(data, np.ndarray) and hasattr(data, "__dlpack__")


def _from_host(what: str, data: Any) -> np.ndarray:
    """An array that exports DLPack, by it, or else by NumPy's own conversion if it has one."""
    try:
        return dlpack.from_host(data)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        try:
            if hasattr(data, "__array_interface__") or hasattr(data, "__array__"):
                return np.asarray(data)
        except (RuntimeError, TypeError, ValueError):
            pass  # the first error says more
        raise TypeError(f"{what} is {_kind_of(data)}, which is not shared: {one_line(error)}") from error


def _from_device(what: str, data: Any) -> Any:
    """An array of another library on a device, as CuPy's."""
    kind, _ = dlpack.device_of(data)
    if kind not in (dlpack.CUDA, dlpack.CUDA_MANAGED):
        raise TypeError(f"{what} is {_kind_of(data)} on a device of DLPack's kind {kind} but takes the host or CUDA")
    from gpunet.cuda.cupy_arrays import adopted

    try:
        return adopted(data)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"{what} is {_kind_of(data)}, which is not shared: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())


def _kind_of(data: Any) -> str:
    return f"{type(data).__module__}.{type(data).__qualname__}"


def is_masked(data: Any) -> bool:
    """Whether `data` is a masked array; for plain arrays numpy.ma need not be loaded."""
    return isinstance(data, np.ndarray) and type(data) is not np.ndarray and isinstance(data, np.ma.MaskedArray)


def _has_mask(data: Any) -> bool:
    if isinstance(data, list | tuple):
        return any(_has_mask(part) for part in data if isinstance(part, np.ndarray | list | tuple))
    return is_masked(data)


def _described(array: np.ndarray) -> str:
    if array.dtype.kind == "O":
        kinds = (type(value).__name__ for value in array.flat if not isinstance(value, Real))
        return f"objects ({next(kinds, 'int too large for any dtype')})"
    return f"{_KINDS.get(array.dtype.kind, 'elements')} ({array.dtype})"
