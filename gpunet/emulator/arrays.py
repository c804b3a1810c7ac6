"""The emulated device: its arrays in guarded host memory, its streams and its memory pools.

Its methods are those that `gpunet.cuda.arrays.Arrays` asks of a device, so that a CUDA backend runs
on it as on CuPy.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any
from weakref import WeakSet

import numpy as np

from gpunet.emulator.device_array import DeviceArray, Lease, Storage, locate
from gpunet.emulator.machine import KernelFault
from gpunet.emulator.pool import DeviceMemory, Pool
from gpunet.emulator.stream import DeviceStream


class EmulatedArrays:
    """An emulated device, without its launcher.

    Args:
        track: keep a map of the bytes that were ever written, which a checked launch needs.
        properties: entries that `describe` adds to its own.
        memory: bytes of the device; None for no limit but the host's.
    Attributes:
        capturing: the streams that are being captured.
        allocations: how often memory was taken.
        allocated: how many bytes were taken in all.
    """

    def __init__(self, *, track: bool = False, properties: dict[str, str] | None = None, memory: int | None = None):
        self.track = track
        self.properties = properties or {}
        self.default_stream = DeviceStream(self, default=True)
        self.capturing: set[DeviceStream] = set()
        self._memory = DeviceMemory(memory)
        self._default_pool = Pool(self._memory)
        self._current = threading.local()
        self._storages: WeakSet[Storage] = WeakSet()
        self.allocations = self.allocated = 0

    @property
    def stream(self) -> DeviceStream:
        """The calling thread's current stream, to which its launches go."""
        return getattr(self._current, "stream", self.default_stream)

    @stream.setter
    def stream(self, stream: DeviceStream) -> None:
        self._current.stream = stream

    def owns(self, array: object) -> bool:
        """Whether `array` is a DeviceArray of this device."""
        return isinstance(array, DeviceArray) and array._owner is self

    def empty(self, shape: Sequence[int], dtype: Any) -> DeviceArray:
        """Allocate an array whose bytes are all 0xFF: NaN in every float dtype."""
        kind = np.dtype(dtype)
        if kind.hasobject:
            raise TypeError(f"an emulated device holds numbers, not {kind}")
        extents = tuple(int(n) for n in shape)
        size = prod(extents) * kind.itemsize
        pool: Pool = getattr(self._current, "pool", None) or self._default_pool
        taken = pool.take(size, capturing=self.stream.capturing)
        storage = Storage(size, (extents, kind), track=self.track, pool=pool, taken=taken)
        self._storages.add(storage)
        self.allocations += 1
        self.allocated += size
        return DeviceArray(storage.bytes.view(kind).reshape(extents), Lease(storage), self)

    def asarray(self, data: Any, dtype: Any = None) -> DeviceArray:
        """Return a C-contiguous array of host or device data; no copy if it is one already."""
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
        self._mark_written(y)
        return y

    def to_host(self, array: DeviceArray) -> np.ndarray:
        """Return a copy of the array on the host."""
        if not self.owns(array):
            raise TypeError(f"to_host takes an array of this emulated device, got {type(array).__name__}")
        self.stream.refuse("a host read (to_host)")
        _check_red_zones(locate(array)[0])
        return array._view.copy(order="C")

    def pointer(self, array: DeviceArray) -> int:
        """Return the address of the first element."""
        return array._view.ctypes.data

    def synchronize(self) -> None:
        """Check the red zones of every array. A launch ends before it returns, so none runs."""
        for stream in self.capturing:
            stream.refuse("synchronisation")
        self.wait()

    def wait(self) -> None:
        """Check the red zones of every array. Other streams may be capturing."""
        self.stream.refuse("synchronisation")
        for storage in list(self._storages):
            _check_red_zones(storage)

    def stream_key(self) -> int:
        """Return a number that differs from those of all other living streams."""
        return id(self.stream)

    def describe(self) -> dict[str, str]:
        """Return the device's name and its properties."""
        return {"device": f"CUDA emulated on {platform.machine()}", **self.properties}

    def pinned(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Return host memory; the emulated device needs none that is page-locked."""
        return np.empty(tuple(shape), dtype)

    def upload(self, host: np.ndarray, array: DeviceArray) -> None:
        """Copy a host array to a device array of the same shape and dtype."""
        self.stream.refuse("a copy of host data to the device")
        if host.shape != array.shape or host.dtype != array.dtype:
            raise TypeError(f"upload: {array!r} does not take {host.dtype} of shape {host.shape}")
        array._view[...] = host
        self._mark_written(array)

    def make_stream(self) -> DeviceStream:
        """Make a stream that can be captured."""
        return DeviceStream(self)

    def on(self, stream: DeviceStream) -> DeviceStream:
        """Make a stream the current one inside a `with`."""
        return stream

    def make_pool(self) -> Pool:
        """Make a memory pool for graphs."""
        return Pool(self._memory, of_graph=True)

    @contextmanager
    def using(self, pool: Pool | None) -> Iterator[None]:
        """Take the memory of the thread's new arrays from `pool` inside a `with`.

        `cupy.cuda.using_allocator` does the same for CuPy's arrays.
        """
        before, self._current.pool = getattr(self._current, "pool", None), pool
        try:
            yield
        finally:
            self._current.pool = before

    def empty_pool(self, pool: Pool) -> int:
        """Give a pool's unused memory back to the device -> the bytes that arrays still use."""
        pool.free_all_blocks()
        return pool.total_bytes()

    def free_cached(self) -> None:
        """Give the unused memory of the default pool back to the device."""
        self._default_pool.free_all_blocks()

    def used_bytes(self) -> int:
        """Return how many bytes of the device all pools hold, whether arrays use them or not."""
        return self._memory.used

    def _mark_written(self, array: DeviceArray) -> None:
        """Count every byte of an array as written."""
        storage, offset = locate(array)
        if storage.written is not None:
            storage.written[offset : offset + array.nbytes] = 1


def _check_red_zones(storage: Storage) -> None:
    what = storage.overrun()
    if what:
        raise KernelFault("out of bounds", f"{what}; a checked launch names the kernel and the line")
