"""Arrays of the emulated device, and the guarded host memory that they live in.

A :class:`DeviceArray` offers the attributes of CuPy's arrays that a CUDA backend uses. It refuses
every operation that would quietly read the device from the host. Its memory is filled with NaN when
it is allocated and again when its last array is gone, and it lies between red zones in which a
write out of bounds leaves a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn
from weakref import ref

import numpy as np

from gpunet.emulator.pool import Pool

ALIGNMENT = 512
"""The alignment of an allocation in bytes: CuPy's, so that the same kernels are selected."""
RED_ZONE = 256
"""Bytes before and after an allocation that belong to no array."""
NAN_BYTE = 0xFF
"""Two, four or eight bytes of this value are a NaN."""
CLEAN = bytes([NAN_BYTE]) * (RED_ZONE + ALIGNMENT)
"""Red zones into which nothing was written; a real one may be shorter."""


class Storage:
    """The memory of one allocation, between two red zones.

    Args:
        size: in bytes.
        made_for: the shape and the dtype of its first array, for messages.
        track: whether to keep a map of the bytes that were written.
        pool: the pool that the memory is taken from.
        taken: the bytes that `pool.take` counted for it.
    Attributes:
        address: the address of the first byte.
    """

    __slots__ = (
        "__weakref__", "_made_for", "_pool", "_start", "_taken", "_whole", "address", "bytes", "live", "written",
    )  # fmt: skip

    def __init__(self, size: int, made_for: tuple[tuple[int, ...], np.dtype], *, track: bool, pool: Pool, taken: int):
        self._whole = np.full(size + 2 * RED_ZONE + ALIGNMENT, NAN_BYTE, np.uint8)
        begin: int = self._whole.ctypes.data
        self._start = start = RED_ZONE + -(begin + RED_ZONE) % ALIGNMENT
        self.address = begin + start
        self.bytes = self._whole[start : start + size]
        self._made_for = made_for
        self.written = np.zeros(size, np.uint8) if track else None
        self.live = True
        self._pool, self._taken = ref(pool), taken

    @property
    def label(self) -> str:
        """The words that messages use for it."""
        return "an array of shape {}, {}".format(*self._made_for)

    @property
    def usable(self) -> bool:
        """Whether a replay may touch the memory: an array or the graph's pool holds it."""
        pool = self._pool()
        return self.live or (pool is not None and pool.captured and not pool.given_back)

    def release(self, nan: int = NAN_BYTE) -> None:  # at exit a default outlives its module
        """Give the memory back to its pool and fill it with NaN: its last array is gone."""
        self.live = False
        pool = self._pool()
        if pool is not None:
            pool.free(self._taken)
        self.bytes.fill(nan)
        if self.written is not None:
            self.written.fill(0)

    def overrun(self) -> str:
        """Describe what was written into the red zones, and restore them; empty if nothing was."""
        before, past = self._whole[: self._start], self._whole[self._start + self.bytes.size :]
        for zone, side in ((before, "before"), (past, "past the end of")):
            if not CLEAN.startswith(zone.tobytes()):
                changed = np.flatnonzero(zone != NAN_BYTE)
                away = len(zone) - changed[-1] if side == "before" else changed[0] + 1
                before.fill(NAN_BYTE)
                past.fill(NAN_BYTE)
                return f"something wrote {side} {self.label}, {away} bytes away"
        return ""


class Lease:
    """The claim on a storage that all its arrays share; its end releases the storage."""

    __slots__ = ("storage",)

    def __init__(self, storage: Storage):
        self.storage = storage

    def __del__(self) -> None:
        self.storage.release()


class DeviceArray:
    """An array on the emulated device. :class:`EmulatedArrays` makes it and alone reads it.

    Args:
        view: the elements, in the storage's memory.
        lease: the claim on that storage.
        owner: the device. Arrays of two devices are told apart by it.
    """

    __slots__ = ("__weakref__", "_lease", "_owner", "_view")

    def __init__(self, view: np.ndarray, lease: Lease, owner: object):
        self._view, self._lease, self._owner = view, lease, owner

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of each axis."""
        return self._view.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the elements."""
        return self._view.dtype

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._view.size

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._view.ndim

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._view.nbytes

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes between neighbours along each axis."""
        return self._view.strides

    @property
    def flags(self) -> Any:
        """NumPy's flags, `c_contiguous` among them."""
        return self._view.flags

    def __dlpack_device__(self) -> tuple[int, int]:
        """(12, 0), which is DLPack's name for a device that only an extension knows."""
        return 12, 0

    def __dlpack__(self, **_: object) -> NoReturn:
        """Raise BufferError: other libraries would read the memory while launches are checked."""
        raise BufferError(
            f"a DeviceArray (shape {self.shape}, {self.dtype}) lives on the emulated device, whose memory is not shared: "
            "export a copy on the host, Backend.to_numpy(array) or tensor.numpy()"
        )

    def reshape(self, *shape: int | Sequence[int]) -> DeviceArray:
        """Return a view of another shape.

        Raises:
            TypeError: the array is not contiguous, and CuPy would copy it.
        """
        if not self.flags.c_contiguous:
            raise TypeError(f"reshape of a DeviceArray of shape {self.shape} with strides {self.strides} would copy it")
        return DeviceArray(self._view.reshape(*shape), self._lease, self._owner)  # type: ignore[arg-type]

    def __getitem__(self, index: slice) -> DeviceArray:
        """Return a slice along the first axis, as a view."""
        if not isinstance(index, slice):
            raise TypeError(f"a DeviceArray takes one slice along its first axis, got {index!r}: use Backend.get_slice")
        return DeviceArray(self._view[index], self._lease, self._owner)

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype})"

    __hash__ = object.__hash__
    __array_ufunc__ = None


def locate(array: DeviceArray) -> tuple[Storage, int]:
    """Return an array's storage, and the offset of its first element in it, in bytes."""
    storage = array._lease.storage
    return storage, array._view.ctypes.data - storage.address


def _refusal(what: str) -> Callable[..., NoReturn]:
    def refuse(self: DeviceArray, *args: object, **options: object) -> NoReturn:
        raise TypeError(
            f"{what} of a DeviceArray (shape {self.shape}, {self.dtype}): it lives on the emulated device; compute with a "
            "backend's primitives, and read it with to_host (Backend.to_numpy)"
        )

    return refuse


_OPERATORS = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift",
)  # fmt: skip
_REFUSED = {
    **{f"__{name}__": f"{name}()" for name in ("float", "int", "bool", "complex", "index", "round", "iter")},
    **{f"__{name}__": "a comparison" for name in ("eq", "ne", "lt", "le", "gt", "ge", "contains")},
    **{f"__{side}{name}__": "arithmetic" for side in ("", "r", "i") for name in _OPERATORS if (side, name) != ("i", "divmod")},
    **{f"__{name}__": "arithmetic" for name in ("neg", "pos", "abs", "invert")},
    "__array__": "conversion to NumPy", "__array_function__": "a NumPy function", "__setitem__": "assignment",
    "item": "item()", "tolist": "tolist()", "get": "get()",
}  # fmt: skip
"""Methods that would read or compute on the host, and what the error calls them."""
for _name, _what in _REFUSED.items():
    setattr(DeviceArray, _name, _refusal(_what))
