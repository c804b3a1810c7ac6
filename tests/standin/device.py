"""The stand-in's machine: its devices, and the handles that CuPy holds of streams, events and modules.

runtime.py and driver.py offer its functions under the names and with the arguments of CuPy 14.2's
`cupy_backends/cuda/api/runtime.pyx` and `driver.pyx`, which wrap the CUDA functions of the same
names. What a function does and refuses follows the CUDA Runtime and Driver API references, and the
chapter on stream capture in the CUDA C++ Programming Guide. A function that is missing here stays
CuPy's own, and raises because there is no driver.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import threading
from collections.abc import Sequence
from typing import Any

from gpunet.emulator.launches import Settings
from gpunet.emulator.machine import KernelFault, capability
from standin.errors import runtime_error
from standin.memory import Memory
from standin.streams import LEGACY, Queue, Stream

GIB = 2**30
DEVICES = "GPUNET_TEST_STANDIN_DEVICES"
"""The environment variable with the number of devices; 1 if it is not set."""


class Device:
    """One device.

    Args:
        number: its number.
    """

    def __init__(self, number: int):
        self.memory = Memory(total=4 * GIB)
        self.queue = Queue(number)


class Machine:
    """All devices and all handles. A process has one, for CuPy keeps handles until the process ends.

    Attributes:
        fault: the error with which the devices answer every call: that of the first faulty kernel.
        launches: how many kernels have run.
    """

    def __init__(self) -> None:
        self.settings = Settings.from_environment()
        self.devices = [Device(number) for number in range(int(os.environ.get(DEVICES, "1")))]
        self.pinned = Memory()
        self.fault: tuple[str, str] | None = None
        self.launches = 0
        self.lock = threading.RLock()
        self._handles: dict[int, Any] = {}
        self._next = itertools.count(0x1000)
        self._thread = threading.local()

    @property
    def capability(self) -> int:
        """The compute capability: 80 for 8.0."""
        return capability(self.settings.architecture)

    @property
    def current(self) -> int:
        """The number of the calling thread's device."""
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
        """Return a new handle for an object."""
        handle = next(self._next)
        self._handles[handle] = thing
        return handle

    def get(self, handle: int) -> Any:
        """Return the object of a handle.

        Raises:
            CUDARuntimeError: there is none.
        """
        if handle not in self._handles:
            raise runtime_error("InvalidResourceHandle")
        return self._handles[handle]

    def drop(self, handle: int) -> Any:
        """Forget a handle."""
        return self._handles.pop(handle, None)

    def stream(self, handle: int) -> tuple[Queue, Stream]:
        """Return the stream of a handle, and its device's queue.

        Raises:
            CUDARuntimeError: there is no such stream, or it belongs to another device.
        """
        queue = self.device.queue
        if handle in LEGACY:
            return queue, queue.legacy
        stream = self.get(handle)
        if not isinstance(stream, Stream) or stream.device != self.current:
            raise runtime_error("InvalidResourceHandle")
        return queue, stream

    def check(self) -> None:
        """Raise the first fault's error, with which a device answers every call from then on."""
        if self.fault is not None:
            name, detail = self.fault
            raise runtime_error(name) from KernelFault("fault", detail)

    def fail(self, name: str, detail: str) -> None:
        """Keep the first fault."""
        self.fault = self.fault or (name, detail)

    def room(self, address: int) -> int | None:
        """Return what `Memory.room` returns on the device that has the address."""
        found = (device.memory.room(address) for device in self.devices)
        return next((room for room in found if room is not None), None)

    def run_kernel(
        self, function: Any, grid: Sequence[int], block: Sequence[int], params: Sequence[bytes], shared: int
    ) -> None:
        """Run a kernel now; the next call to the device raises the error of a fault."""
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
        """Put the machine back to its state at the start, except for memory that is still in
        use."""
        for device in self.devices:
            for stream in device.queue.capturing():
                stream.capture = None
            device.queue.drain()
            device.queue.late, device.memory.unit, device.memory.total = True, 512, 4 * GIB
        self.fault = None
        gc.collect()
