"""How long work takes: one interface over the host's clock and a GPU's events.

Work on a GPU is asynchronous: a host's clock around a launch measures the launch. So events are recorded between the runs and
read when all are done. A run that is shorter than its own launches is captured as a graph and replayed.

The two timers of GPUs have not run on one yet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from time import perf_counter
from typing import Any, Protocol

from gpunet.cuda.capture import Recorder

Work = Callable[[], object]


class Timer(Protocol):
    """Runs work where it is timed."""

    rotated: int
    """Bytes that a run should walk through before it comes back to the same ones, so that no cache still holds them."""

    def run(self, work: Work) -> None:
        """Run it once and wait for it."""

    def capture(self, work: Work) -> Work:
        """Something that does what `work` does with as little of the host's time as there is: on a GPU, a graph's replay.

        `work` must have run before, so that nothing is compiled, loaded or copied from the host while it is recorded. On a
        GPU it is not run by this, and what it returns or keeps is computed by each replay.
        """

    def seconds(self, work: Work, repeats: int) -> list[float]:
        """The time of each of `repeats` runs."""


class HostTimer:
    """`time.perf_counter` around each run.

    Args:
        synchronize: waits for the run.
    """

    rotated = 0

    def __init__(self, synchronize: Work = lambda: None):
        self._synchronize = synchronize

    def run(self, work: Work) -> None:
        """See `Timer.run`."""
        work()
        self._synchronize()

    def capture(self, work: Work) -> Work:
        """The work itself."""
        return work

    def seconds(self, work: Work, repeats: int) -> list[float]:
        """See `Timer.seconds`."""
        times = []
        for _ in range(repeats):
            start = perf_counter()
            self.run(work)
            times.append(perf_counter() - start)
        return times


class EventTimer(ABC):
    """Events on one stream, one between each two runs; nothing waits before the last."""

    rotated = 192 << 20
    """Three times the second-level cache of an H200."""

    def run(self, work: Work) -> None:
        """See `Timer.run`."""
        with self.stream():
            work()

    def seconds(self, work: Work, repeats: int) -> list[float]:
        """See `Timer.seconds`. An untimed run comes first, so that the device has work when the first event is recorded."""
        with self.stream():
            work()
            events = [self.record()]
            for _ in range(repeats):
                work()
                events.append(self.record())
        return [1e-3 * self.milliseconds(first, second) for first, second in pairwise(events)]

    @abstractmethod
    def stream(self) -> AbstractContextManager[Any]:
        """Makes the timer's stream the current one; waits for the device before and after."""

    @abstractmethod
    def record(self) -> Any:
        """An event that passes when all that was asked for on the stream is done."""

    @abstractmethod
    def milliseconds(self, first: Any, second: Any) -> float:
        """Between two events that have passed."""

    @abstractmethod
    def capture(self, work: Work) -> Work:
        """See `Timer.capture`."""


class CupyTimer(EventTimer):
    """Events of CuPy and gpunet's own recordings.

    Args:
        arrays: of the device.
    """

    def __init__(self, arrays: Any) -> None:
        self._arrays, self._recorder = arrays, Recorder(arrays)

    def stream(self) -> AbstractContextManager[Any]:
        """See `EventTimer.stream`."""
        return self._recorder.current()

    def record(self) -> Any:
        """See `EventTimer.record`."""
        cuda = self._arrays.cupy.cuda
        event = cuda.Event()
        event.record(cuda.get_current_stream())
        return event

    def milliseconds(self, first: Any, second: Any) -> float:
        """See `EventTimer.milliseconds`."""
        return float(self._arrays.cupy.cuda.get_elapsed_time(first, second))

    def capture(self, work: Work) -> Work:
        """See `Timer.capture`; a recorder for each, so that the memory of the last recording goes with it."""
        self._recorder = Recorder(self._arrays)
        recording, _ = self._recorder.record(work)
        return recording.launch


class TorchTimer(EventTimer):
    """Events and graphs of PyTorch."""

    def __init__(self) -> None:
        import torch

        self._cuda = torch.cuda
        self._stream = torch.cuda.Stream()

    @contextmanager
    def stream(self) -> Iterator[None]:
        """See `EventTimer.stream`."""
        self._cuda.synchronize()
        with self._cuda.stream(self._stream):
            yield
        self._cuda.synchronize()

    def record(self) -> Any:
        """See `EventTimer.record`."""
        event = self._cuda.Event(enable_timing=True)
        event.record(self._stream)
        return event

    def milliseconds(self, first: Any, second: Any) -> float:
        """See `EventTimer.milliseconds`."""
        return float(first.elapsed_time(second))

    def capture(self, work: Work) -> Work:
        """See `Timer.capture`."""
        graph = self._cuda.CUDAGraph()
        with self._cuda.graph(graph, stream=self._stream):
            work()
        return graph.replay
