"""`real_array`: refuses what NumPy would turn into other real numbers without an error."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from gpunet.backends.contract.arrays import is_float

__all__ = ["is_masked", "on_device", "real_array"]

_KINDS = {"c": "complex numbers", "U": "text", "S": "bytes", "M": "dates", "m": "spans of time", "V": "records"}


def real_array(what: str, data: Any) -> Any:
    """Return `data` as a NumPy array of real numbers; an array on a device stays as it is.

    NumPy's own conversion to floats loses a mask and an imaginary part, reads numbers from text,
    and turns None into NaN.

    Args:
        what: the operation and the argument, with which each message begins.
        data: a host array, nested lists or a number, or an array on a device.
    Raises:
        TypeError: a masked array, or elements that are not real numbers.
        ValueError: nested lists of unequal lengths.
    """
    if type(data) is np.ndarray and data.dtype.kind in "fiub":
        return data
    if on_device(data):
        if getattr(data.dtype, "kind", "f") == "c":
            raise TypeError(f"{what} is an array of complex numbers but takes real numbers")
        return data
    if _has_mask(data):
        raise TypeError(f"{what} is a masked array, whose mask would be lost; fill it first: array.filled(value)")
    try:
        array = np.asarray(data)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise ValueError(f"{what} is of nested sequences of unequal lengths") from None
    if array.dtype.kind not in "fiub" and not is_float(array.dtype):
        raise TypeError(f"{what} is of {_described(array)} but takes real numbers")
    return array


def on_device(data: Any) -> bool:
    """Whether `data` is an array outside the host's memory."""
    return not isinstance(data, np.ndarray) and hasattr(data, "__dlpack_device__") and data.__dlpack_device__()[0] != 1


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
