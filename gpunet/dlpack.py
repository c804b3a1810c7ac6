"""Memory that is shared with other libraries: by DLPack, also of bfloat16, and by array interfaces.

DLPack describes memory by a small struct in a capsule, and the capsule's deleter keeps the memory
alive. NumPy and CuPy read and write such capsules, so that only two things are left to this module:
a capsule of bfloat16 is relabelled as one of 16-bit integers on its way to NumPy, or back; and the
struct's flag of read-only memory is noted, which CuPy passes over. Offsets are those of
`DLManagedTensorVersioned` and, before version 1, `DLManagedTensor` in dlpack.h.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

HOST_MEMORY = (1, 3)
"""DLPack's numbers of the host's memory and of its page-locked memory."""
CUDA, CUDA_MANAGED = 2, 13
"""DLPack's numbers of CUDA's memory."""
BFLOAT16, WORD = (4, 16, 1), (1, 16, 1)
"""(code, bits, lanes) of bfloat16 and of uint16."""

_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]


class _Kind(ctypes.Structure):
    """The struct DLDataType."""

    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class Producer:
    """An array that exports DLPack, on its way to NumPy or CuPy.

    Args:
        array: has `__dlpack__` and `__dlpack_device__`.
        words: whether to relabel bfloat16 as 16-bit integers.
    Attributes:
        read_only: whether the last capsule said that its memory must not be written to.
        relabelled: whether the last capsule was of bfloat16.
    """

    def __init__(self, array: Any, *, words: bool):
        self._array, self._words = array, words
        self.read_only = self.relabelled = False

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        capsule = _capsule(self._array, options)
        kind, self.read_only = _struct(capsule)
        if self._words and (kind.code, kind.bits, kind.lanes) == BFLOAT16:
            kind.code, self.relabelled = WORD[0], True
        return capsule


def from_host(array: Any) -> np.ndarray:
    """A NumPy array on the memory of an array that exports DLPack.

    It is read-only where the exporter says so. A capsule of before version 1 cannot say, and NumPy
    takes its memory for read-only; but the exporter's own conversion to NumPy may say, where it
    shares the same memory.

    Args:
        array: has `__dlpack__` and `__dlpack_device__`.
    Raises:
        BufferError, RuntimeError: the exporter refuses, or NumPy has no such dtype.
    """
    producer = Producer(array, words=True)
    values = np.from_dlpack(producer)
    if producer.relabelled:
        from ml_dtypes import bfloat16

        values = values.view(bfloat16)
    if values.flags.writeable or producer.read_only or not hasattr(array, "__array__"):
        return values
    try:
        converted = np.asarray(array)
    except (RuntimeError, TypeError, ValueError):
        return values
    same = converted.flags.writeable and converted.dtype == values.dtype and np.may_share_memory(converted, values)
    return converted if same else values


def export(array: Any, **options: Any) -> Any:
    """A capsule of a NumPy or CuPy array, also of bfloat16.

    Args:
        array: an array with `__dlpack__`.
        options: those of `__dlpack__`; None stands for the exporter's own choice.
    """
    if not isinstance(array, np.ndarray) or array.dtype.name != "bfloat16":
        return _capsule(array, options)
    capsule = _capsule(array.view(np.uint16), options)
    kind, _ = _struct(capsule)
    kind.code = BFLOAT16[0]
    return capsule


def exports_array(value: Any) -> bool:
    """Whether a value shows its memory by DLPack or by one of the array interfaces."""
    return any(hasattr(value, name) for name in ("__dlpack__", "__array_interface__", "__cuda_array_interface__"))


def writable(array: Any) -> Any:
    """The array, or a copy if it is NumPy's and its memory may only be read."""
    return array.copy() if isinstance(array, np.ndarray) and not array.flags.writeable else array


def device_of(value: Any) -> tuple[int, int]:
    """(kind, number) of the memory that an array lies in, as DLPack counts; (1, 0) is the host."""
    if isinstance(value, np.ndarray):
        return 1, 0
    if hasattr(value, "__dlpack_device__"):
        kind, number = value.__dlpack_device__()
        return int(kind), int(number)
    return (CUDA if hasattr(value, "__cuda_array_interface__") else 1), 0


def _capsule(array: Any, options: dict[str, Any]) -> Any:
    """`array.__dlpack__` with those options that are given, or that it knows.

    An exporter of before version 1 takes no `max_version`, and may then answer as it always did.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return array.__dlpack__(**given)
    except TypeError:
        if "max_version" not in given or given.get("copy") or "dl_device" in given:
            raise
        return array.__dlpack__(**{name: value for name, value in given.items() if name == "stream"})


def _struct(capsule: Any) -> tuple[_Kind, bool]:
    """(the capsule's dtype, which can be changed in place; whether its memory is read-only)."""
    if _is_valid(capsule, b"dltensor_versioned"):
        start = _get_pointer(capsule, b"dltensor_versioned")
        return _Kind.from_address(start + 52), bool(ctypes.c_uint64.from_address(start + 24).value & 1)
    start = _get_pointer(capsule, b"dltensor")
    return _Kind.from_address(start + 20), False


class SharedMemory:
    """Shows the array of a tensor to other libraries, which may read and write its memory.

    A tensor that requires grad is not shown: no tape would see what another library computes from
    it or writes to it.

    Attributes:
        data: the array.
        requires_grad: whether operations on the tensor are recorded.
    """

    data: Any
    requires_grad: bool

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None
    ) -> Any:
        """A DLPack capsule of the tensor's memory; the options are those of the array API.

        Raises:
            BufferError: a tensor that requires grad, one on the emulated backend, or a device to
                which the array is not copied.
        """
        if self.requires_grad:
            raise BufferError("__dlpack__: a tensor that requires grad is not shared; write tensor.detach()")
        return export(self.data, stream=stream, max_version=max_version, dl_device=dl_device, copy=copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        """(kind, number) of the device, as DLPack counts; (1, 0) on the CPU backends."""
        return device_of(self.data)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """NumPy's description of the memory, on the CPU backends."""
        return self._interface("__array_interface__")

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """CUDA's description of the memory, on the backends of CUDA devices."""
        return self._interface("__cuda_array_interface__")

    def _interface(self, name: str) -> Any:
        if self.requires_grad or self.data.dtype.name == "bfloat16":  # for which interfaces have no name
            raise AttributeError(f"a tensor of {self.data.dtype}, or that requires grad, has no {name}")
        return getattr(self.data, name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The values for NumPy's functions; on a CPU backend without a copy.

        Raises:
            TypeError: a tensor on a device, from which nothing is copied unless it is asked for, or
                one that requires grad.
        """
        if self.requires_grad:
            raise TypeError("a tensor that requires grad is not converted to a NumPy array; write tensor.numpy()")
        if not isinstance(self.data, np.ndarray):
            raise TypeError("a tensor on a device is not converted to a NumPy array implicitly; write tensor.numpy()")
        return np.array(self.data, dtype, copy=copy)
