"""Arrays of the emulated device: :class:`gpunet.cuda.arrays.Arrays` in host memory that nothing else may touch.

A :class:`DeviceArray` gives what CuPy's arrays give and `CudaBackend` uses, and refuses everything that would read the device
in passing. Its memory comes filled with NaN, lies between red zones that a write past its end disturbs, and is filled with
NaN again when its last array is gone.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn
from weakref import WeakSet, ref

import numpy as np

from gpunet.emulator.pool import DeviceMemory, Pool
from gpunet.emulator.stream import Stream

ALIGNMENT = 512
"""Bytes: where CuPy's pool starts an array, so that the same kernels are chosen."""
RED_ZONE = 256
"""Bytes before and after an array."""
NAN_BYTE = 0xFF
"""Four of them are a NaN, as are two and eight."""


class Storage:
    """The memory of one allocation, between red zones.

    Args:
        size: in bytes.
        label: what it is in messages: shape and dtype.
        track: whether to note which bytes were written.
        pool: the pool that has counted it.
        taken: the bytes that it counted.
    """

    __slots__ = ("__weakref__", "_pool", "_taken", "_whole", "bytes", "label", "live", "written")

    def __init__(self, size: int, label: str, *, track: bool, pool: Pool, taken: int):
        self._whole = np.full(size + 2 * RED_ZONE + ALIGNMENT, NAN_BYTE, np.uint8)
        start = RED_ZONE + -(self._whole.ctypes.data + RED_ZONE) % ALIGNMENT
        self.bytes = self._whole[start : start + size]
        self.label = label
        self.written = np.zeros(size, np.uint8) if track else None
        self.live = True
        self._pool, self._taken = ref(pool), taken

    @property
    def address(self) -> int:
        """Of the first byte."""
        return self.bytes.ctypes.data

    @property
    def usable(self) -> bool:
        """Whether a replay may touch it: an array still holds it, or it went back to the graph's own pool, which is kept."""
        pool = self._pool()
        return self.live or (pool is not None and pool.captured and not pool.given_back)

    def release(self, nan: int = NAN_BYTE) -> None:  # a default argument outlives the module at the interpreter's end
        """The last array is gone: poison."""
        self.live = False
        pool = self._pool()
        if pool is not None:
            pool.free(self._taken)
        self.bytes.fill(nan)
        if self.written is not None:
            self.written.fill(0)

    def overrun(self) -> str:
        """What was written outside, in words; empty if nothing was."""
        start = self.address - self._whole.ctypes.data
        for zone, side in (
            (self._whole[:start], "before"),
            (self._whole[start + self.bytes.size :], "past the end of"),
        ):
            changed = np.flatnonzero(zone != NAN_BYTE)
            if changed.size:
                self._whole[:start] = self._whole[start + self.bytes.size :] = NAN_BYTE
                away = len(zone) - changed[-1] if side == "before" else changed[0] + 1
                return f"something wrote {side} {self.label}, {away} bytes away"
        return ""


class _Lease:
    """What the arrays of one storage share: its end is theirs."""

    __slots__ = ("storage",)

    def __init__(self, storage: Storage):
        self.storage = storage

    def __del__(self) -> None:
        self.storage.release()


class DeviceArray:
    """An array on the emulated device. Made by :class:`EmulatedArrays`; read by its `to_host` alone."""

    __slots__ = ("__weakref__", "_lease", "_owner", "_view")

    def __init__(self, view: np.ndarray, lease: _Lease, owner: EmulatedArrays):
        self._view, self._lease, self._owner = view, lease, owner

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents."""
        return self._view.shape

    @property
    def dtype(self) -> np.dtype:
        """Of the elements."""
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
        """Bytes of its elements."""
        return self._view.nbytes

    @property
    def strides(self) -> tuple[int, ...]:
        """In bytes."""
        return self._view.strides

    @property
    def flags(self) -> Any:
        """`c_contiguous` among them."""
        return self._view.flags

    def __dlpack_device__(self) -> tuple[int, int]:
        """(2, 0), as DLPack numbers the first CUDA device."""
        return 2, 0

    def reshape(self, *shape: int | Sequence[int]) -> DeviceArray:
        """A view of another shape.

        Raises:
            TypeError: an array that is not contiguous, which CuPy would copy.
        """
        if not self.flags.c_contiguous:
            raise TypeError(f"reshape of a DeviceArray of shape {self.shape} with strides {self.strides} would copy it")
        return DeviceArray(self._view.reshape(*shape), self._lease, self._owner)  # type: ignore[arg-type]

    def __getitem__(self, index: slice) -> DeviceArray:
        """A slice along the first axis, as a view."""
        if not isinstance(index, slice):
            raise TypeError(f"a DeviceArray takes one slice along its first axis, got {index!r}: use Backend.get_slice")
        return DeviceArray(self._view[index], self._lease, self._owner)

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype})"

    __hash__ = object.__hash__
    __array_ufunc__ = None


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
for _name, _what in _REFUSED.items():
    setattr(DeviceArray, _name, _refusal(_what))


class EmulatedArrays:
    """:class:`gpunet.cuda.arrays.Arrays` on the emulated device.

    Args:
        track: note which bytes were ever written, for the check of a checked launch.
        properties: what `describe` adds.
        memory: bytes of the device; None for as many as the host has.
    """

    def __init__(self, *, track: bool = False, properties: dict[str, str] | None = None, memory: int | None = None):
        self.track = track
        self.properties = properties or {}
        self.default_stream = Stream(self, default=True)
        self.capturing: set[Stream] = set()
        self._memory = DeviceMemory(memory)
        self._default_pool = Pool(self._memory)
        self._current = threading.local()
        self._storages: WeakSet[Storage] = WeakSet()
        self.allocations = self.allocated = 0
        """How often memory was taken, and how many bytes in all."""

    @property
    def stream(self) -> Stream:
        """The thread's current stream: a launch goes there."""
        return getattr(self._current, "stream", self.default_stream)

    @stream.setter
    def stream(self, stream: Stream) -> None:
        self._current.stream = stream

    def owns(self, array: object) -> bool:
        """Whether `array` is a DeviceArray of this device."""
        return isinstance(array, DeviceArray) and array._owner is self

    def empty(self, shape: Sequence[int], dtype: Any) -> DeviceArray:
        """An array of NaN, or of all bits set."""
        kind = np.dtype(dtype)
        if kind.hasobject:
            raise TypeError(f"an emulated device holds numbers, not {kind}")
        extents = tuple(int(n) for n in shape)
        size = int(np.prod(extents, dtype=np.int64)) * kind.itemsize
        pool: Pool = getattr(self._current, "pool", None) or self._default_pool
        taken = pool.take(size, capturing=self.stream.capturing)
        label = f"an array of shape {extents}, {kind}"
        storage = Storage(size, label, track=self.track, pool=pool, taken=taken)
        self._storages.add(storage)
        self.allocations += 1
        self.allocated += size
        return DeviceArray(storage.bytes.view(kind).reshape(extents), _Lease(storage), self)

    def asarray(self, data: Any, dtype: Any = None) -> DeviceArray:
        """A C-contiguous array of host data or of a DeviceArray; no copy if it is one of this device."""
        if isinstance(data, DeviceArray):
            if self.owns(data) and data.flags.c_contiguous and (dtype is None or np.dtype(dtype) == data.dtype):
                return data
            self.stream.refuse("a conversion of an array")
            data = data._view
        else:
            self.stream.refuse("a copy of host data to the device")
        host = np.asarray(data, dtype)
        y = self.empty(host.shape, host.dtype)
        y._view[...] = host
        self.mark_written(y)
        return y

    def to_host(self, array: DeviceArray) -> np.ndarray:
        """A copy on the host."""
        if not self.owns(array):
            raise TypeError(f"to_host takes an array of this emulated device, got {type(array).__name__}")
        self.stream.refuse("a host read (to_host)")
        self._check(array._lease.storage)
        return array._view.copy(order="C")

    def pointer(self, array: DeviceArray) -> int:
        """Address of the first element."""
        return array._view.ctypes.data

    def synchronize(self) -> None:
        """Check the red zones of every array; launches are done when they return."""
        for stream in self.capturing:
            stream.refuse("synchronisation")
        self.wait()

    def wait(self) -> None:
        """Check the red zones of every array, as `synchronize`, while other streams may capture."""
        self.stream.refuse("synchronisation")
        for storage in list(self._storages):
            self._check(storage)

    def stream_key(self) -> int:
        """A number that tells the current stream from all others that are there."""
        return id(self.stream)

    def describe(self) -> dict[str, str]:
        """Device and versions."""
        return {"device": f"CUDA emulated on {platform.machine()}", **self.properties}

    def pinned(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Host memory."""
        return np.empty(tuple(shape), dtype)

    def upload(self, host: np.ndarray, array: DeviceArray) -> None:
        """Copy host memory to an array."""
        self.stream.refuse("a copy of host data to the device")
        if host.shape != array.shape or host.dtype != array.dtype:
            raise TypeError(f"upload: {array!r} does not take {host.dtype} of shape {host.shape}")
        array._view[...] = host
        self.mark_written(array)

    def make_stream(self) -> Stream:
        """A stream that can be captured."""
        return Stream(self)

    def on(self, stream: Stream) -> Stream:
        """Make a stream the current one inside a `with`."""
        return stream

    def make_pool(self) -> Pool:
        """Memory for graphs."""
        return Pool(self._memory, of_graph=True)

    @contextmanager
    def using(self, pool: Pool | None) -> Iterator[None]:
        """Take the memory of the thread's arrays from `pool` inside a `with`, as `cupy.cuda.using_allocator` does."""
        before, self._current.pool = getattr(self._current, "pool", None), pool
        try:
            yield
        finally:
            self._current.pool = before

    def empty_pool(self, pool: Pool) -> int:
        """Give back to the device what no array uses of a pool -> the bytes that arrays still use."""
        pool.free_all_blocks()
        return pool.total_bytes()

    def free_cached(self) -> None:
        """Give back to the device what was freed outside of graphs."""
        self._default_pool.free_all_blocks()

    def used_bytes(self) -> int:
        """Bytes of the device that are taken, whether an array uses them or not."""
        return self._memory.used

    def storage(self, array: DeviceArray) -> tuple[Storage, int]:
        """(storage, offset of the first element in it, in bytes)."""
        storage = array._lease.storage
        return storage, self.pointer(array) - storage.address

    def mark_written(self, array: DeviceArray) -> None:
        """Count every byte of an array as written."""
        storage, offset = self.storage(array)
        if storage.written is not None:
            storage.written[offset : offset + array.nbytes] = 1

    @staticmethod
    def _check(storage: Storage) -> None:
        what = storage.overrun()
        if what:
            from gpunet.emulator.machine import KernelFault

            raise KernelFault("out of bounds", f"{what}; a checked launch names the kernel and the line")
