# ruff: noqa: N802 - the names are CUDA's
"""CUDA's runtime as CuPy calls it: the functions of `cupy_backends/cuda/api/runtime.pyx`."""

from __future__ import annotations

import ctypes
from typing import Any

from standin.device import Machine
from standin.errors import RUNTIME, runtime_error
from standin.graphs import Capture, Graph
from standin.streams import LEGACY, RELAXED, Event, Stream

H2D, D2H, D2D, DEFAULT = 1, 2, 3, 4
"""The values of cudaMemcpyKind."""
NON_BLOCKING, DISABLE_TIMING = 1, 2
"""cudaStreamNonBlocking, cudaEventDisableTiming."""
VERSION = 13000


class Runtime:
    """The runtime's functions, on the stand-in's machine."""

    def __init__(self, machine: Machine):
        self.machine = machine

    # ---- versions and devices

    def driverGetVersion(self) -> int:
        return VERSION

    def runtimeGetVersion(self) -> int:
        return VERSION

    def getDeviceCount(self) -> int:
        return len(self.machine.devices)

    def getDevice(self) -> int:
        return self.machine.current

    def setDevice(self, device: int) -> None:
        self.machine.current = device

    def _ensure_context(self) -> None:
        self.machine.check()

    def deviceGetAttribute(self, attribute: int, device: int) -> int:
        """Return an attribute; the numbers are those of cudaDeviceAttr in driver_types.h."""
        major, minor = divmod(self.machine.capability, 10)
        values = {
            1: 1024, 2: 1024, 3: 1024, 4: 64, 5: 2**31 - 1, 6: 65535, 7: 65535, 8: 49152, 10: 32, 12: 65536, 16: 132, 39: 2048,
            75: major, 76: minor, 83: 0, 88: 0, 97: self._shared_limit(), 106: 32, 115: 0,
        }  # fmt: skip
        self._device(device)
        if attribute not in values:
            raise runtime_error("InvalidValue")
        return values[attribute]

    def getDeviceProperties(self, device: int) -> dict[str, Any]:
        major, minor = divmod(self.machine.capability, 10)
        self._device(device)
        return {
            "name": b"CUDA stand-in", "totalGlobalMem": self.machine.devices[device].memory.total, "major": major,
            "minor": minor, "multiProcessorCount": 132,
            "warpSize": 32, "maxThreadsPerBlock": 1024, "sharedMemPerBlock": 49152,
            "sharedMemPerBlockOptin": self._shared_limit(), "sharedMemPerMultiprocessor": 228 * 1024,
            "regsPerBlock": 65536, "l2CacheSize": 2**22,
        }  # fmt: skip

    def deviceGetPCIBusId(self, device: int) -> str:
        self._device(device)
        return f"0000:{device:02X}:00.0"

    def deviceCanAccessPeer(self, device: int, peer: int) -> int:
        return 0

    def deviceSynchronize(self) -> None:
        """Wait for the device; an error while one of its streams is being captured."""
        self.machine.check()
        queue = self.machine.device.queue
        queue.refuse_wait(queue.capturing())
        queue.drain()
        self.machine.check()

    def _device(self, number: int) -> None:
        if not 0 <= number < len(self.machine.devices):
            raise runtime_error("InvalidDevice")

    def _shared_limit(self) -> int:
        from gpunet.emulator.machine import SHARED_LIMITS

        return SHARED_LIMITS[self.machine.capability] * 1024

    # ---- memory

    def malloc(self, size: int) -> int:
        self._unsafe()
        address = self.machine.device.memory.allocate(size)
        if not address:
            raise runtime_error("MemoryAllocation")
        return address

    def free(self, address: int) -> None:
        """Free memory, after everything that may still use it: cudaFree waits for the device."""
        for device in self.machine.devices:
            if device.memory.room(address):
                device.queue.refuse_unsafe()
                device.queue.drain()
                if device.memory.free(address):
                    return
        raise runtime_error("InvalidValue")

    def hostAlloc(self, size: int, flags: int) -> int:
        self._unsafe()
        return self.machine.pinned.allocate(size)

    def freeHost(self, address: int) -> None:
        """Free page-locked memory, after all devices are done."""
        for device in self.machine.devices:
            device.queue.drain()
        if not self.machine.pinned.free(address):
            raise runtime_error("InvalidValue")

    def memGetInfo(self) -> tuple[int, int]:
        self.machine.check()
        memory = self.machine.device.memory
        assert memory.total is not None
        return memory.total - memory.used, memory.total

    def pointerGetMemoryType(self, address: int) -> int:
        """Return the cudaMemoryType: 0 for unknown memory, 1 for page-locked, 2 for a device's."""
        return 2 if self.machine.room(address) else 1 if self.machine.pinned.room(address) else 0

    def pointerGetAttributes(self, address: int) -> Any:
        """Return the attributes of memory of the one device, or of page-locked memory of the host."""
        from cupy_backends.cuda.api.runtime import PointerAttributes

        kind = self.pointerGetMemoryType(address)
        return PointerAttributes(0, address if kind == 2 else 0, address if kind != 2 else 0, kind)

    def memcpy(self, target: int, source: int, size: int, kind: int) -> None:
        """Copy on the default stream, and wait for it."""
        self._unsafe()
        self.memcpyAsync(target, source, size, kind, 0)
        self.streamSynchronize(0)

    def memcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        """Copy on a stream.

        Page-locked memory is read and written when the stream comes to the copy. Pageable memory is
        read now, and a copy to it waits for the stream; neither can be captured.
        """
        self.machine.check()
        queue, to = self.machine.stream(stream)
        kind = self._kind(target, source, size, kind)
        host = {H2D: source, D2H: target}.get(kind)
        pageable = host is not None and self.machine.pinned.room(host) is None
        if pageable and to.capture:
            queue.refuse_wait([to])
        data = ctypes.string_at(source, size) if pageable and kind == H2D else source
        queue.submit(to, lambda: self.machine.copy(target, data, size))
        if pageable and kind == D2H:
            self.streamSynchronize(stream)

    def _kind(self, target: int, source: int, size: int, kind: int) -> int:
        """Return the kind of a copy, which cudaMemcpyDefault leaves open.

        Raises:
            CUDARuntimeError: source or target is not what the kind says, or too short.
        """
        rooms = self.machine.room(source), self.machine.room(target)
        found = {(False, True): H2D, (True, False): D2H, (True, True): D2D, (False, False): 0}[
            rooms[0] is not None, rooms[1] is not None
        ]
        if (kind != DEFAULT and kind != found) or any(room is not None and room < size for room in rooms):
            raise runtime_error("InvalidValue")
        return found

    def memset(self, address: int, value: int, size: int) -> None:
        self._unsafe()
        self.memsetAsync(address, value, size, 0)

    def memsetAsync(self, address: int, value: int, size: int, stream: int) -> None:
        self.machine.check()
        if (self.machine.room(address) or 0) < size:
            raise runtime_error("InvalidValue")
        queue, to = self.machine.stream(stream)
        queue.submit(to, lambda: self.machine.copy(address, bytes([value & 0xFF]) * size, size))

    def _unsafe(self) -> None:
        self.machine.check()
        self.machine.device.queue.refuse_unsafe()

    # ---- streams

    def streamCreate(self) -> int:
        return self.streamCreateWithPriority(0, 0)

    def streamCreateWithFlags(self, flags: int) -> int:
        return self.streamCreateWithPriority(flags, 0)

    def streamCreateWithPriority(self, flags: int, priority: int) -> int:
        self.machine.check()
        stream = Stream(self.machine.current, blocking=not flags & NON_BLOCKING, priority=priority)
        self.machine.device.queue.streams.add(stream)
        return self.machine.new(stream)

    def streamGetFlags(self, stream: int) -> int:
        return 0 if self.machine.stream(stream)[1].blocking else NON_BLOCKING

    def streamGetPriority(self, stream: int) -> int:
        return self.machine.stream(stream)[1].priority

    def streamDestroy(self, stream: int) -> None:
        """Destroy a stream; the work on it is still done."""
        dropped = self.machine.drop(stream)
        if dropped is not None:
            self.machine.devices[dropped.device].queue.streams.discard(dropped)

    def streamSynchronize(self, stream: int) -> None:
        self.machine.check()
        queue, which = self.machine.stream(stream)
        queue.refuse_legacy(which)
        queue.refuse_wait([which])
        if which is queue.legacy:
            for other in list(queue.streams):
                if other.blocking and other.last is not None:
                    other.last.finish()
        if which.last is not None:
            which.last.finish()
        self.machine.check()

    def streamQuery(self, stream: int) -> int:
        """Return the state as a number; CuPy does not raise here.

        Each query lets the stream do its work, so that a loop of queries ends.
        """
        _, which = self.machine.stream(stream)
        if which.capture:
            which.capture.valid = False
            return RUNTIME["StreamCaptureUnsupported"]
        if which.last is None or which.last.done:
            return 0
        which.last.finish()
        return RUNTIME["NotReady"]

    def streamWaitEvent(self, stream: int, event: int, flags: int = -1) -> None:
        queue, which = self.machine.stream(stream)
        queue.wait(which, self.machine.get(event))

    def launchHostFunc(self, stream: int, callback: Any, argument: int) -> None:
        queue, which = self.machine.stream(stream)
        queue.submit(which, lambda: callback(argument))

    def _launchHostFuncUnmanaged(self, stream: int, pair: tuple[Any, Any]) -> None:
        queue, which = self.machine.stream(stream)
        queue.submit(which, lambda: pair[0](pair[1]))

    # ---- events

    def eventCreate(self) -> int:
        return self.eventCreateWithFlags(0)

    def eventCreateWithFlags(self, flags: int) -> int:
        self.machine.check()
        return self.machine.new(Event(timed=not flags & DISABLE_TIMING))

    def eventDestroy(self, event: int) -> None:
        self.machine.drop(event)

    def eventRecord(self, event: int, stream: int) -> None:
        self.machine.check()
        queue, which = self.machine.stream(stream)
        queue.record(self.machine.get(event), which)

    def eventQuery(self, event: int) -> int:
        """Return the state as a number, as streamQuery does."""
        which = self.machine.get(event)
        if which.capture:
            which.capture.valid = False
            return RUNTIME["CapturedEvent"]
        if which.task is None or which.task.done:
            return 0
        which.task.finish()
        return RUNTIME["NotReady"]

    def eventSynchronize(self, event: int) -> None:
        self.machine.check()
        which = self._passed(event)
        if which.task is not None:
            which.task.finish()
        self.machine.check()

    def eventElapsedTime(self, start: int, end: int) -> float:
        """Return the time between two events, in milliseconds."""
        first, second = self._passed(start), self._passed(end)
        if not (first.timed and second.timed and first.task and second.task):
            raise runtime_error("InvalidResourceHandle")
        if not (first.task.done and second.task.done):
            raise runtime_error("NotReady")
        return 1e3 * (second.time - first.time)

    def _passed(self, event: int) -> Event:
        which: Event = self.machine.get(event)
        if which.capture:
            which.capture.valid = False
            raise runtime_error("CapturedEvent")
        return which

    # ---- capture

    def streamBeginCapture(self, stream: int, mode: int = RELAXED) -> None:
        """Begin a capture, which neither the default stream nor one that is captured already
        can."""
        self.machine.check()
        _, which = self.machine.stream(stream)
        if stream in LEGACY:
            raise runtime_error("StreamCaptureUnsupported")
        if which.capture:
            raise runtime_error("IllegalState")
        Capture(which, RELAXED if mode == -1 else mode)

    def streamEndCapture(self, stream: int) -> int:
        queue, which = self.machine.stream(stream)
        return self.machine.new(queue.end_capture(which))

    def streamIsCapturing(self, stream: int) -> bool:
        """Return whether a stream is being captured; CuPy raises its own error if it is invalid."""
        queue, which = self.machine.stream(stream)
        queue.refuse_legacy(which)
        if which.capture and not which.capture.valid:
            raise RuntimeError("the stream was capturing, but an error has invalidated the capture sequence")
        return which.capture is not None

    def graphInstantiate(self, graph: int) -> int:
        captured = self.machine.get(graph)
        return self.machine.new(Graph(captured.late, captured.early))

    def graphDestroy(self, graph: int) -> None:
        self.machine.drop(graph)

    def graphExecDestroy(self, graph: int) -> None:
        """Destroy an executable graph; replays that have begun are still done."""
        self.machine.drop(graph)

    def graphLaunch(self, graph: int, stream: int) -> None:
        self.machine.check()
        queue, which = self.machine.stream(stream)
        queue.launch(self.machine.get(graph), which)

    def graphUpload(self, graph: int, stream: int) -> None:
        self.machine.check()
        self.machine.get(graph)
        self.machine.stream(stream)
