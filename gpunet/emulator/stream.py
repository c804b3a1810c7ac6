"""Streams of the emulated device, and the capture of launches as a graph that can be replayed.

They stand for CuPy's streams and have the same methods: ``with stream:`` makes a stream the current
one, and `begin_capture` and `end_capture` make a graph. Each thread has a current stream of its
own, as in CuPy. A capture refuses everything that CUDA cannot capture. A replay refuses what CuPy
lets pass: memory that has been freed and may hold other arrays by now.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from gpunet.emulator.launches import Work
from gpunet.errors import BackendError

Execute = Callable[[Work], None]
"""Runs a launch."""


class Device(Protocol):
    """A stream's view of its device: the thread's current stream, and all that are captured."""

    stream: DeviceStream
    capturing: set[DeviceStream]


class _Entered(threading.local):
    """The streams that each thread returns to when it leaves this one, the last one first."""

    def __init__(self) -> None:
        self.before: list[DeviceStream] = []


class DeviceStream:
    """A non-blocking stream. A launch runs at once, so there is never anything to wait for.

    Args:
        device: the device.
        default: whether it is the device's default stream, which cannot be captured.
    """

    def __init__(self, device: Device, *, default: bool = False):
        self._device = device
        self._default = default
        self._recorded: list[tuple[Work, Execute]] | None = None
        self._refused = ""
        self._entered = _Entered()

    @property
    def capturing(self) -> bool:
        """Whether a capture has begun and not ended."""
        return self._recorded is not None

    def __enter__(self) -> DeviceStream:
        self._entered.before.append(self._device.stream)
        self._device.stream = self
        return self

    def __exit__(self, *error: object) -> None:
        self._device.stream = self._entered.before.pop()

    def submit(self, work: Work, execute: Execute) -> None:
        """Run a launch; during a capture, record it instead."""
        if self._recorded is None:
            execute(work)
        else:
            self._recorded.append((work, execute))

    def refuse(self, what: str) -> None:
        """Raise BackendError, and make the capture invalid, if this stream is being captured."""
        if self.capturing:
            self._refused = self._refused or what
            raise BackendError(f"{what} cannot be captured: a stream is capturing, and this would wait for the device")

    def synchronize(self) -> None:
        """Wait for the stream."""
        self.refuse("synchronisation")

    def begin_capture(self) -> None:
        """Record the following launches instead of running them.

        Raises:
            BackendError: the default stream, or one that is being captured already.
        """
        if self._default:
            raise BackendError("the default stream cannot be captured: make a stream and capture inside `with stream:`")
        if self.capturing:
            raise BackendError("begin_capture: this stream is capturing already")
        self._recorded, self._refused = [], ""
        self._device.capturing.add(self)

    def end_capture(self) -> LaunchGraph:
        """Return the launches since `begin_capture`.

        Raises:
            BackendError: no capture was begun, or it contains something that cannot be captured.
        """
        if self._recorded is None:
            raise BackendError("end_capture: no capture was begun on this stream")
        recorded, self._recorded = self._recorded, None
        self._device.capturing.discard(self)
        if self._refused:
            raise BackendError(f"end_capture: the capture was invalidated by {self._refused}")
        return LaunchGraph(recorded)


class LaunchGraph:
    """The launches of one capture, in order. :meth:`DeviceStream.end_capture` makes it."""

    def __init__(self, recorded: list[tuple[Work, Execute]]):
        self._recorded = recorded

    def __len__(self) -> int:
        return len(self._recorded)

    @property
    def kernels(self) -> list[str]:
        """Name expressions of the launches, in order."""
        return [work.kernel for work, _ in self._recorded]

    def launch(self) -> None:
        """Run the launches in order, with the arguments that were recorded.

        Raises:
            BackendError: a launch would touch memory that was freed after the capture and that no
                living pool keeps. No launch is run then.
        """
        for work, _ in self._recorded:
            for argument in work.arguments:
                if not argument.storage.usable:
                    raise BackendError(
                        f"a replay of {work.kernel} would touch {argument.name}, {argument.storage.label}, which was "
                        "freed since the capture: keep the array, or capture on a Pool that is kept with the graph"
                    )
        for work, execute in self._recorded:
            execute(work)
