"""Streams of the emulated device, and their capture: launches are recorded, then replayed with the same arguments.

It stands for CuPy's stream capture, with its names: ``with stream:`` makes a stream the current one, `begin_capture` and
`end_capture` make a :class:`Graph`. Each thread has a current stream of its own, as in CuPy. It refuses what cannot be
captured, and what CuPy lets pass to corrupt numbers later: a replay on memory that has been freed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from gpunet.errors import BackendError

if TYPE_CHECKING:
    from gpunet.emulator.arrays import EmulatedArrays
    from gpunet.emulator.launcher import Work


class _Entered(threading.local):
    """What each thread that entered a stream comes back to."""

    def __init__(self) -> None:
        self.before: list[Stream] = []


class Stream:
    """A non-blocking stream. Launches run when they are asked for; there is nothing to wait for.

    Args:
        arrays: the device.
        default: the device's default stream, which cannot be captured.
    """

    def __init__(self, arrays: EmulatedArrays, *, default: bool = False):
        self.arrays = arrays
        self._default = default
        self._recorded: list[tuple[Work, Callable[[Work], None]]] | None = None
        self._refused = ""
        self._entered = _Entered()

    @property
    def capturing(self) -> bool:
        """Whether a capture has begun and not ended."""
        return self._recorded is not None

    def __enter__(self) -> Stream:
        self._entered.before.append(self.arrays.stream)
        self.arrays.stream = self
        return self

    def __exit__(self, *error: object) -> None:
        self.arrays.stream = self._entered.before.pop()

    def submit(self, work: Work, execute: Callable[[Work], None]) -> None:
        """Run a launch, or record it while capturing."""
        if self._recorded is None:
            execute(work)
        else:
            self._recorded.append((work, execute))

    def refuse(self, what: str) -> None:
        """Raise BackendError if this stream is capturing; the capture is then of no use."""
        if self.capturing:
            self._refused = self._refused or what
            raise BackendError(f"{what} cannot be captured: a stream is capturing, and this would wait for the device")

    def synchronize(self) -> None:
        """Wait for the stream."""
        self.refuse("synchronisation")

    def begin_capture(self) -> None:
        """Record launches from here on instead of running them.

        Raises:
            BackendError: the default stream, or one that is capturing already.
        """
        if self._default:
            raise BackendError("the default stream cannot be captured: make a Stream and capture inside `with stream:`")
        if self.capturing:
            raise BackendError("begin_capture: this stream is capturing already")
        self._recorded, self._refused = [], ""
        self.arrays.capturing.add(self)

    def end_capture(self) -> Graph:
        """The launches since `begin_capture`.

        Raises:
            BackendError: no capture was begun, or something in it could not be captured.
        """
        if self._recorded is None:
            raise BackendError("end_capture: no capture was begun on this stream")
        recorded, self._recorded = self._recorded, None
        self.arrays.capturing.discard(self)
        if self._refused:
            raise BackendError(f"end_capture: the capture was invalidated by {self._refused}")
        return Graph(recorded)


class Graph:
    """Recorded launches. Made by :meth:`Stream.end_capture`."""

    def __init__(self, recorded: list[tuple[Work, Callable[[Work], None]]]):
        self._recorded = recorded

    def __len__(self) -> int:
        return len(self._recorded)

    @property
    def kernels(self) -> list[str]:
        """Name expressions of the launches, in order."""
        return [work.kernel for work, _ in self._recorded]

    def launch(self) -> None:
        """Run the launches in their order, with the arguments they were recorded with.

        Raises:
            BackendError: one would touch memory that was freed since and is not a living pool's; nothing is run then.
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
