"""The stand-in's machine: its devices, and what CuPy asks of CUDA's runtime and driver, function by function.

The names and arguments are those of CuPy 14.2's `cupy_backends/cuda/api/runtime.pyx` and `driver.pyx`, which are thin covers of
the CUDA functions of the same names; what these do and refuse follows the CUDA Runtime and Driver API references and the
chapter on stream capture in the CUDA C++ Programming Guide. What is not here stays CuPy's own and raises for want of a driver.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import threading
from collections.abc import Sequence
from typing import Any

from gpunet.emulator.launches import Settings
from gpunet.emulator.machine import KernelFault, capability
from standin.errors import runtime_error
from standin.memory import Memory
from standin.streams import LEGACY, Queue, Stream

GIB = 2**30


class Device:
    """One device.

    Args:
        number: its own.
    """

    def __init__(self, number: int):
        self.memory = Memory(total=4 * GIB)
        self.queue = Queue(number)


class Machine:
    """All devices and all handles. There is one of it in a process, for CuPy keeps handles for as long.

    Attributes:
        fault: why the devices answer nothing but an error any more: the first kernel that did wrong.
        launches: how many kernels have been run.
    """

    def __init__(self) -> None:
        self.settings = Settings.from_environment()
        self.devices = [Device(0)]
        self.pinned = Memory()
        self.fault: tuple[str, str] | None = None
        self.launches = 0
        self.lock = threading.RLock()
        self._handles: dict[int, Any] = {}
        self._next = itertools.count(0x1000)
        self._thread = threading.local()

    @property
    def capability(self) -> int:
        """80 for compute capability 8.0."""
        return capability(self.settings.architecture)

    @property
    def current(self) -> int:
        """The calling thread's device."""
        return getattr(self._thread, "device", 0)

    @current.setter
    def current(self, number: int) -> None:
        if not 0 <= number < len(self.devices):
            raise runtime_error("InvalidDevice")
        self._thread.device = number

    @property
    def device(self) -> Device:
        """The calling thread's device."""
        return self.devices[self.current]

    def new(self, thing: object) -> int:
        """A handle of something."""
        handle = next(self._next)
        self._handles[handle] = thing
        return handle

    def get(self, handle: int) -> Any:
        """What a handle stands for.

        Raises:
            CUDARuntimeError: nothing.
        """
        if handle not in self._handles:
            raise runtime_error("InvalidResourceHandle")
        return self._handles[handle]

    def drop(self, handle: int) -> Any:
        """Forget a handle."""
        return self._handles.pop(handle, None)

    def stream(self, handle: int) -> tuple[Queue, Stream]:
        """The stream of a handle, with its device's queue.

        Raises:
            CUDARuntimeError: no stream, or another device's.
        """
        queue = self.device.queue
        if handle in LEGACY:
            return queue, queue.legacy
        stream = self.get(handle)
        if not isinstance(stream, Stream) or stream.device != self.current:
            raise runtime_error("InvalidResourceHandle")
        return queue, stream

    def check(self) -> None:
        """A device that has faulted answers every call with its error, until the process ends."""
        if self.fault is not None:
            name, detail = self.fault
            raise runtime_error(name) from KernelFault("fault", detail)

    def fail(self, name: str, detail: str) -> None:
        """Note the first fault."""
        self.fault = self.fault or (name, detail)

    def room(self, address: int) -> int | None:
        """As Memory.room, on any device."""
        found = (device.memory.room(address) for device in self.devices)
        return next((room for room in found if room is not None), None)

    def run_kernel(
        self, function: Any, grid: Sequence[int], block: Sequence[int], params: Sequence[bytes], shared: int
    ) -> None:
        """Run a kernel now; what it does wrong is found by whoever asks the device next."""
        if self.fault is not None:
            return
        for number, param in enumerate(params):
            if len(param) == 8 and self.room(int.from_bytes(param, "little")) == 0:
                self.fail("IllegalAddress", f"{function.name}: parameter {number} is an address of freed memory")
                return
        try:
            function.run(grid, block, params, shared)
        except KernelFault as error:
            self.fail("LaunchFailure", str(error))
        self.launches += 1

    def copy(self, target: int, source: int | bytes, size: int) -> None:
        """Copy bytes now."""
        for address in (target, source):
            if isinstance(address, int) and (self.room(address) == 0 or self.pinned.room(address) == 0):
                self.fail("IllegalAddress", f"a copy of {size} bytes from or to freed memory")
                return
        if self.fault is None:
            ctypes.memmove(target, source, size)

    def reset(self) -> None:
        """As after a start of the machine, but for memory that somebody still holds."""
        for device in self.devices:
            for stream in device.queue.capturing():
                stream.capture = None
            device.queue.drain()
            device.queue.late, device.memory.unit, device.memory.total = True, 512, 4 * GIB
        self.fault = None
        gc.collect()
