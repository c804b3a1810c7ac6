"""Device arrays in CuPy. CuPy is imported only when a device is opened."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpunet.cores import local_rank
from gpunet.cuda.description import Description
from gpunet.dlpack import Producer, device_of
from gpunet.errors import BackendError

INSTALL = 'pip install "gpunet[cuda13]" (or "gpunet[cuda12]" for a driver older than CUDA 13)'


def own_device() -> int:
    """The number of this process's device: its rank on this machine, modulo the number of devices.

    So ranks of one machine take one device each as long as there are enough. A launcher that shows
    each rank a device of its own numbers it 0, which is what this gives then.
    """
    if not (rank := local_rank()):
        return 0
    try:
        import cupy

        return rank % cupy.cuda.runtime.getDeviceCount()
    except (ImportError, RuntimeError):  # `why_unavailable` says what is wrong
        return 0


def why_unavailable(device: int = 0) -> str:
    """Return one line on why a device cannot be used and what to do; empty if it answers.

    Args:
        device: its number.
    """
    try:
        import cupy
    except ImportError as error:
        return f"CUDA needs CuPy, which cannot be imported ({error}): {INSTALL}"
    runtime = cupy.cuda.runtime
    try:
        count, reason = runtime.getDeviceCount(), ""
    except runtime.CUDARuntimeError as error:
        count, reason = 0, str(error)
    if count:
        shown = f"CUDA device {device} is not there: this machine shows {count}, counted from 0"
        return "" if device < count else shown
    driver = runtime.driverGetVersion()
    if not driver:
        return f"CUDA needs an NVIDIA driver, and none answers on this machine: install one, then {INSTALL}"
    if "InsufficientDriver" in reason:
        return f"CUDA needs a newer NVIDIA driver than this one, of CUDA {_version(driver)}: update it, or {INSTALL}"
    return (
        f"CUDA needs an NVIDIA GPU, and the driver shows no device{f' ({reason})' if reason else ''}: "
        f"see nvidia-smi and CUDA_VISIBLE_DEVICES; for GPU support, {INSTALL}"
    )


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def adopted(array: Any) -> Any:
    """A CuPy array on the memory of another library's array on a CUDA device.

    Memory that is read-only is copied, for CuPy's arrays do not know of such memory. CuPy's current
    stream waits for the stream on which the other library computes.

    Args:
        array: exports DLPack or the CUDA array interface.
    Raises:
        BackendError: no CuPy, or no such device.
    """
    _, number = device_of(array)
    if why := why_unavailable(number):
        raise BackendError(why)
    import cupy

    with cupy.cuda.Device(number):
        if hasattr(array, "__dlpack__"):
            producer = Producer(array, words=False)
            made = cupy.from_dlpack(producer)
            return made.copy() if producer.read_only else made
        made = cupy.asarray(array)
        return made.copy() if array.__cuda_array_interface__["data"][1] else made


class CupyArrays:
    """:class:`gpunet.cuda.arrays.Arrays` in CuPy, on one device.

    Args:
        device: its number.
    """

    def __init__(self, device: int):
        import cupy

        why = why_unavailable(device)
        if why:
            raise BackendError(why)
        self.cupy = cupy
        self.device = cupy.cuda.Device(device)

    def owns(self, array: object) -> bool:
        """Return whether `array` is a CuPy array on this device."""
        return isinstance(array, self.cupy.ndarray) and array.device.id == self.device.id

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """Allocate an array whose elements are not set."""
        with self.device:
            return self.cupy.empty(tuple(shape), dtype)

    def asarray(self, data: Any, dtype: Any = None) -> Any:
        """Return a C-contiguous array of host or device data; no copy if it is one already."""
        if not isinstance(data, self.cupy.ndarray):
            self._refuse("a copy of host data to the device")
        with self.device:
            return self.cupy.array(data, dtype=dtype, copy=None, order="C")

    def to_host(self, array: Any) -> np.ndarray:
        """Return a copy of the array on the host, once it is computed."""
        self._refuse("a host read (to_host)")
        return array.get()

    def pointer(self, array: Any) -> int:
        """Return the address of the first element."""
        return array.data.ptr

    def synchronize(self) -> None:
        """Wait for the device."""
        self._refuse("synchronisation")
        self.device.synchronize()

    def wait(self) -> None:
        """Wait for the current stream."""
        self._refuse("synchronisation")
        with self.device:
            self.cupy.cuda.get_current_stream().synchronize()

    def used_bytes(self) -> int:
        """Return the bytes of the device that this program and others have taken."""
        with self.device:
            free, total = self.cupy.cuda.runtime.memGetInfo()
        return total - free

    def free_cached(self) -> None:
        """Give the memory of freed arrays in CuPy's default pool back to the device."""
        with self.device:
            self.cupy.get_default_memory_pool().free_all_blocks()

    def describe(self) -> dict[str, str]:
        """Describe the device, the driver and the versions."""
        runtime = self.cupy.cuda.runtime
        properties = runtime.getDeviceProperties(self.device.id)
        return {
            "device": properties["name"].decode(),
            "compute capability": self.device.compute_capability,
            "memory": f"{properties['totalGlobalMem'] / 2**30:.1f} GiB",
            "driver": _version(runtime.driverGetVersion()),
            "runtime": _version(runtime.runtimeGetVersion()),
            "cupy": self.cupy.__version__,
        }

    def description(self) -> Description:
        """Return the numbers of the device by which launches are laid out."""
        found = self.cupy.cuda.runtime.getDeviceProperties(self.device.id)
        return Description(
            found["multiProcessorCount"], found["sharedMemPerBlockOptin"], found["sharedMemPerMultiprocessor"],
            10 * found["major"] + found["minor"],
        )  # fmt: skip

    # ---- for capture

    def pinned(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Allocate page-locked host memory."""
        import cupyx

        return cupyx.empty_pinned(tuple(shape), dtype)

    def upload(self, host: np.ndarray, array: Any) -> None:
        """Copy page-locked memory to an array on the current stream; do not wait."""
        self._refuse("a copy of host data to the device")
        with self.device:
            array.data.copy_from_host_async(host.ctypes.data, host.nbytes)

    def make_stream(self) -> Any:
        """Make a stream that does not wait for the default one."""
        with self.device:
            return self.cupy.cuda.Stream(non_blocking=True)

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        """Make a stream of this device the current one inside a `with`."""
        with self.device, stream:
            yield

    def stream_key(self) -> Hashable:
        """Return the stream's pointer, and the thread's number if each has its own default."""
        runtime = self.cupy.cuda.runtime
        with self.device:
            pointer = self.cupy.cuda.get_current_stream().ptr
        return (pointer, threading.get_ident()) if pointer == runtime.streamPerThread else pointer

    def make_pool(self) -> Any:
        """Make a memory pool that gives nothing back to the device until it is emptied.

        When one of CuPy's pools finds no more memory, it gives its free blocks back to the device
        and tries again. During a capture, however, its free blocks are those that captured launches
        use. CuPy does this if the device's allocator raises CUDARuntimeError or if the pool has a
        limit. So the allocator of this pool raises another error, and it has no limit.
        """
        pool = self.cupy.cuda.MemoryPool(self._allocate)
        with self.device:
            pool.set_limit(size=0)
        return pool

    def _allocate(self, size: int) -> Any:
        cuda = self.cupy.cuda
        try:
            return cuda.MemoryPointer(cuda.Memory(size), 0)
        except cuda.runtime.CUDARuntimeError as error:
            raise MemoryError(f"out of memory allocating {size} bytes for a graph: {error}") from error

    def using(self, pool: Any) -> Any:
        """Take the memory of new arrays from a pool inside a `with`."""
        return self.cupy.cuda.using_allocator(pool.malloc)

    def empty_pool(self, pool: Any) -> int:
        """Give a pool's unused memory back to the device -> the bytes that arrays still use."""
        with self.device:
            pool.free_all_blocks()
            return int(pool.total_bytes())

    def _refuse(self, what: str) -> None:
        """Raise BackendError during a capture, as CUDA would, but name what cannot be captured."""
        with self.device:
            stream = self.cupy.cuda.get_current_stream()
            capturing = stream.ptr and stream.is_capturing()
        if capturing:
            raise BackendError(f"{what} cannot be captured: a stream is capturing, and this would wait for the device")
