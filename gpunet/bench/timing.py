"""Timers, which measure how long work takes: by the host's clock, or by the events of a GPU.

Work on a GPU is asynchronous, so the host's clock around a launch measures only the launch.
Therefore events are recorded between the runs, and read when all runs are done. Launching may take
longer than the work itself, so the work is captured as a graph and replayed. An idle GPU lowers its
clock rate to a fifth or less, so each turn begins with runs that are not counted, until the clock
rate has risen.

The two timers for GPUs have not run on a GPU yet.
"""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from math import ceil, inf
from statistics import median
from time import perf_counter
from typing import Any, Protocol

from gpunet.backends.cuda.backend import CudaBackend
from gpunet.cuda.capture import Recorder, free_unused

Work = Callable[[], object]


class Timer(Protocol):
    """Runs work on a device, and measures its time."""

    rotated_bytes: int
    """Bytes that runs should read before they come back to the same ones, so that no cache holds
    them any more; 0 if caches do not matter."""

    def run(self, work: Work) -> None:
        """Run the work once, and wait for its end."""

    def capture(self, work: Work) -> Work:
        """A function that does what `work` does and costs the host as little time as possible: on a
        GPU, the replay of a graph.

        `work` must have run before, so that nothing is compiled, loaded or copied from the host
        while it is recorded. Capturing on a GPU runs nothing; each replay computes what `work`
        returns or keeps.
        """

    def seconds(self, work: Work, repeats: int) -> list[float]:
        """The seconds of each of `repeats` runs; on a GPU, short work runs more often."""

    def clear(self) -> None:
        """Give back the memory of all captured work, which must not run again."""


class HostTimer:
    """Measures each run by `time.perf_counter`.

    Args:
        synchronize: waits for the end of a run.
    """

    rotated_bytes = 0

    def __init__(self, synchronize: Work = lambda: None):
        self._synchronize = synchronize

    def run(self, work: Work) -> None:
        """See `Timer.run`."""
        work()
        self._synchronize()

    def capture(self, work: Work) -> Work:
        """See `Timer.capture`: there are no graphs on the host, so this returns the work itself."""
        return work

    def seconds(self, work: Work, repeats: int) -> list[float]:
        """See `Timer.seconds`. A run that is not timed comes first, as its threads have to wake up."""
        times = []
        self.run(work)
        for _ in range(repeats):
            start = perf_counter()
            self.run(work)
            times.append(perf_counter() - start)
        return times

    def clear(self) -> None:
        """See `Timer.clear`: nothing is captured, so nothing is given back."""


NOISE = 0.03
"""A time counts as lower than another one if it is lower by this share at least."""
BATCH = 0.01
"""While the clock rate rises, medians are taken over runs of this many seconds together."""
MOST_RUNS, SHORTEST = 1000, 1e-7
"""The most runs in such a batch, and the shortest time of a run in seconds, since events are no
finer."""


class EventTimer(ABC):
    """Measures by events on one stream, with one event between any two runs. Nothing waits before
    the last event."""

    rotated_bytes = 192 << 20
    """Three times the second-level cache of an H200."""
    steady_seconds, settling_seconds = 0.05, 1.0
    """Runs are timed once their time has not fallen for `steady_seconds`, and after
    `settling_seconds` in any case."""
    short_runs, turn_seconds = 200, 1.0
    """Short work runs `short_runs` times in a turn, or as often as fits into `turn_seconds`, if
    that is less."""

    def run(self, work: Work) -> None:
        """See `Timer.run`."""
        with self.stream():
            work()

    def seconds(self, work: Work, repeats: int) -> list[float]:
        """See `Timer.seconds`."""
        run = self._settled(work)
        return self._spans(work, max(repeats, min(self.short_runs, int(self.turn_seconds / run))))

    def _settled(self, work: Work) -> float:
        """Run the work until its time stops falling -> the seconds of a run."""
        lowest, steady, spent, runs = inf, 0.0, 0.0, 1
        while True:
            run = max(median(self._spans(work, runs)), SHORTEST)
            took = run * runs
            spent += took
            if run < (1 - NOISE) * lowest:
                lowest, steady = run, 0.0
            else:
                steady += took
            if steady >= self.steady_seconds or spent >= self.settling_seconds:
                return run
            runs = min(ceil(BATCH / run), MOST_RUNS)

    def _spans(self, work: Work, runs: int) -> list[float]:
        """Time `runs` runs -> the seconds of each. A run that is not timed comes first, so that the
        device is busy when the first event is recorded."""
        with self.stream():
            work()
            events = [self.record()]
            for _ in range(runs):
                work()
                events.append(self.record())
        return [1e-3 * self.milliseconds(first, second) for first, second in pairwise(events)]

    @abstractmethod
    def stream(self) -> AbstractContextManager[Any]:
        """Make the timer's stream current, and wait for the device before and after."""

    @abstractmethod
    def record(self) -> Any:
        """Record an event, which passes when everything before it on the stream is done."""

    @abstractmethod
    def milliseconds(self, first: Any, second: Any) -> float:
        """The time between two events, both of which have passed."""

    @abstractmethod
    def capture(self, work: Work) -> Work:
        """See `Timer.capture`."""

    @abstractmethod
    def clear(self) -> None:
        """See `Timer.clear`."""


class CupyTimer(EventTimer):
    """Measures by CuPy's events, and captures with gpunet's own recorder.

    Args:
        backend: a backend on a GPU.
    """

    def __init__(self, backend: CudaBackend) -> None:
        self._backend = backend
        self._arrays: Any = backend.arrays  # CuPy's, except in a timer of the tests
        self._recorder: Recorder | None = None
        self.clear()

    def clear(self) -> None:
        """See `Timer.clear`. The device's memory is as it was before the first case."""
        self._recorder = None
        gc.collect()  # arrays in a cycle of references are freed only by this
        free_unused(self._arrays)
        self._recorder = self._backend.recorder()

    def stream(self) -> AbstractContextManager[Any]:
        """See `EventTimer.stream`."""
        assert self._recorder is not None
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
        """See `Timer.capture`."""
        assert self._recorder is not None
        recording, _ = self._recorder.record(work)
        return recording.launch


class TorchTimer(EventTimer):
    """Measures by PyTorch's events, and captures PyTorch's graphs."""

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

    def clear(self) -> None:
        """See `Timer.clear`. PyTorch's cache of freed memory is emptied too: other contenders use
        the same device."""
        gc.collect()
        self._cuda.empty_cache()
