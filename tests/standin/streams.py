"""Streams, events and graphs of the stand-in.

Work on a stream is kept in order and done late: when something waits for it, and not before. A real
device may be as slow as that. So a program that reads too early, changes page-locked memory too
early, or relies on an order between two streams that nothing makes, gets wrong numbers here on
every run.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from standin.errors import runtime_error
from standin.graphs import Capture, Graph, Node

LEGACY = (0, 1)
"""The handles of the default stream. It waits for all blocking streams, and they wait for it."""
PENDING = 1024
"""Most tasks that a device keeps; if there are more, the oldest is done."""
RELAXED = 2
"""The value of cudaStreamCaptureModeRelaxed."""


@contextmanager
def _host_stands_still() -> Iterator[None]:
    """Turn the garbage collector off while the device works in the host's thread.

    Otherwise finalizers would call the device in the middle of its work. One that waits for the
    device would do later work before the task that is marked as done and has not run yet.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class Task:
    """A piece of work, and the tasks that must be done before it."""

    __slots__ = ("after", "done", "run")

    def __init__(self, run: Callable[[], None], after: list[Task]):
        self.run, self.after, self.done = run, after, False

    def finish(self) -> None:
        """Do the work, after the tasks that it waits for."""
        with _host_stands_still():
            path = [self]
            while path:
                task = path[-1]
                task.after = [a for a in task.after if not a.done]
                if task.after:
                    path += task.after
                    continue
                path.pop()
                if not task.done:
                    task.done = True  # set first, for the work may come back to this task
                    task.run()


class Stream:
    """A stream of one device."""

    def __init__(self, device: int, *, blocking: bool, priority: int = 0):
        self.device, self.blocking, self.priority = device, blocking, priority
        self.last: Task | None = None
        self.capture: Capture | None = None


class Event:
    """A point in a stream."""

    def __init__(self, *, timed: bool):
        self.timed = timed
        self.task: Task | None = None
        self.capture: Capture | None = None
        self.node: Node | None = None
        self.time = 0.0


class Queue:
    """All streams of one device.

    Args:
        device: its number.
        late: whether work is done when something waits for it; otherwise it is done at once.
    """

    def __init__(self, device: int, *, late: bool = True):
        self.device, self.late = device, late
        self.legacy = Stream(device, blocking=True)
        self.streams: set[Stream] = {self.legacy}
        self._pending: deque[Task] = deque()

    def capturing(self) -> list[Stream]:
        """Return the streams that are being captured."""
        return [stream for stream in self.streams if stream.capture]

    def submit(self, stream: Stream, run: Callable[[], None], after: list[Task] | None = None) -> Task | None:
        """Put work at the end of a stream, or record it if the stream is being captured.

        Args:
            after: other tasks that it waits for.
        """
        if stream.capture:
            stream.capture.add(stream, run)
            return None
        self.refuse_legacy(stream)
        if stream is self.legacy:
            before = [s.last for s in self.streams if s.blocking]
        else:
            before = [stream.last, self.legacy.last if stream.blocking else None]
        task = Task(run, [t for t in (*before, *(after or ())) if t is not None and not t.done])
        stream.last = task
        self._pending.append(task)
        if not self.late:
            task.finish()
        while self._pending and (self._pending[0].done or len(self._pending) > PENDING):
            self._pending.popleft().finish()
        return task

    def refuse_legacy(self, stream: Stream) -> None:
        """Raise if `stream` is the default stream and a blocking stream is being captured."""
        broken = [s.capture for s in self.capturing() if s.blocking] if stream is self.legacy else []
        for capture in filter(None, broken):
            capture.valid = False
        if broken:
            raise runtime_error("StreamCaptureImplicit")

    def refuse_unsafe(self) -> None:
        """Raise for a call that may wait for the device, unless all captures are relaxed."""
        strict = [s.capture for s in self.capturing() if s.capture and s.capture.mode != RELAXED]
        for capture in strict:
            capture.valid = False
        if strict:
            raise runtime_error("StreamCaptureUnsupported")

    def refuse_wait(self, streams: list[Stream]) -> None:
        """Raise, and make the captures invalid, if one of the streams to wait for is captured."""
        caught = [s.capture for s in streams if s.capture]
        for capture in caught:
            capture.valid = False
        if caught:
            raise runtime_error("StreamCaptureUnsupported")

    def drain(self) -> None:
        """Do all work that is left."""
        while self._pending:
            self._pending.popleft().finish()

    def record(self, event: Event, stream: Stream) -> None:
        """Put an event at the end of a stream."""

        def pass_it() -> None:
            event.time = perf_counter()

        event.capture, event.task, event.node = stream.capture, None, None
        if stream.capture:
            event.node = stream.capture.add(stream, pass_it)
        else:
            event.task = self.submit(stream, pass_it)

    def wait(self, stream: Stream, event: Event) -> None:
        """Make a stream wait for an event."""
        if event.capture is not None:
            if stream is self.legacy:
                raise runtime_error("StreamCaptureUnsupported")
            event.capture.let_wait(stream, event)
            return
        if stream.capture and event.task is not None:
            stream.capture.valid = False
            raise runtime_error("StreamCaptureIsolation")
        if event.task is not None and not event.task.done:
            self.submit(stream, lambda: None, [event.task])

    def end_capture(self, stream: Stream) -> Graph:
        """End a capture, and return the captured work."""
        if stream.capture is None:
            raise runtime_error("IllegalState")
        if stream is not stream.capture.origin:
            stream.capture.valid = False
            raise runtime_error("StreamCaptureUnmatched")
        return stream.capture.end()

    def launch(self, graph: Graph, stream: Stream) -> None:
        """Replay captured work."""
        task = self.submit(stream, graph.replay, [graph.last] if graph.last else None)
        graph.last = task or graph.last
