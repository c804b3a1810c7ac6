"""How long work takes: one interface over the host's clock and a GPU's events.

Work on a GPU is asynchronous: a host's clock around a launch measures the launch. So events are recorded between the runs and
read when all are done. A run that is shorter than its own launches is captured as a graph and replayed. An idle GPU turns its
clock down, to a fifth and less, so each turn begins with runs that are not counted, until the clock has risen.

The two timers of GPUs have not run on one yet.
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
        """The time of each of `repeats` runs; on a GPU of more, where they are short."""

    def clear(self) -> None:
        """Give back the memory of what was captured, which must not run again."""


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

    def clear(self) -> None:
        """See `Timer.clear`; there is none."""


NOISE = 0.03
"""A time that is lower by less has not fallen."""
BATCH = 0.01
"""Seconds of the runs whose median is compared with those before, while a clock rises."""
MOST_RUNS, SHORTEST = 1000, 1e-7
"""Of such a batch, and seconds of a run: events are no finer."""


class EventTimer(ABC):
    """Events on one stream, one between each two runs; nothing waits before the last."""

    rotated = 192 << 20
    """Three times the second-level cache of an H200."""
    steady_seconds, settling_seconds = 0.05, 1.0
    """How long runs must take no less than before until they are timed, and after how long they are in any case."""
    short_runs, turn_seconds = 200, 1.0
    """Runs of a turn, if no more were asked for: so many, or as many as take so long."""

    def run(self, work: Work) -> None:
        """See `Timer.run`."""
        with self.stream():
            work()

    def seconds(self, work: Work, repeats: int) -> list[float]:
        """See `Timer.seconds`."""
        run = self._settled(work)
        return self._spans(work, max(repeats, min(self.short_runs, int(self.turn_seconds / run))))

    def _settled(self, work: Work) -> float:
        """Run the work until its time has stopped falling -> seconds of a run."""
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
        """Seconds of each run. An untimed one comes first, so that the device has work when the first event is recorded."""
        with self.stream():
            work()
            events = [self.record()]
            for _ in range(runs):
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

    @abstractmethod
    def clear(self) -> None:
        """See `Timer.clear`."""


class CupyTimer(EventTimer):
    """Events of CuPy and gpunet's own recordings.

    Args:
        backend: on a GPU.
    """

    def __init__(self, backend: CudaBackend) -> None:
        self._backend = backend
        self._arrays: Any = backend.arrays  # CuPy's, or the tests' timer says what an event is
        self._recorder: Recorder | None = None
        self.clear()

    def clear(self) -> None:
        """See `Timer.clear`. The next case finds the device's memory as the last one did."""
        self._recorder = None
        gc.collect()  # what a cycle of references holds is still there
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

    def clear(self) -> None:
        """See `Timer.clear`. What PyTorch keeps for later goes too, since other contenders need memory on the same device."""
        gc.collect()
        self._cuda.empty_cache()
