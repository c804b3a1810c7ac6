"""Recording launches as a graph: one body for CuPy's streams and an emulator's, which have the same names.

CuPy has no memory of a graph's own. What a recorded launch took from the usual pool and freed would be handed out again while
replays still write to it, so recordings take theirs from a pool that hands out nothing else and lives as long as they do.
CuPy's pools keep their memory even when they are dropped, so it is given back here when the last recording on it is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import RLock
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, finalize, ref

from gpunet.cuda.arrays import Arrays

T = TypeVar("T")


class CapturedGraph:
    """A graph with what it works in.

    Args:
        graph: what a stream's `end_capture` gave.
        memory: of its arrays, which is given back when the last recording on it is gone.
        stream: on which it was recorded, and whose own counters its kernels use, so that no other stream takes its place.
    """

    def __init__(self, graph: Any, memory: GraphMemory, stream: Any):
        self.graph, self._memory, self._stream = graph, memory, stream

    def launch(self) -> None:
        """Replay it on the current stream."""
        self.graph.launch()


class Feed:
    """An array that the host fills and a graph reads.

    Attributes:
        host: NumPy array to write to; of page-locked memory where there is such a thing.
        device: the array that the launches take.
    """

    def __init__(self, arrays: Arrays, shape: Sequence[int], dtype: Any):
        self.host, self.device = arrays.pinned(shape, dtype), arrays.empty(shape, dtype)
        self._arrays = arrays

    def send(self) -> None:
        """Copy `host` to `device` on the current stream; it may not change before that has been waited for."""
        self._arrays.upload(self.host, self.device)


class GraphMemory:
    """A pool for recordings, which is emptied when they are gone.

    Args:
        arrays: the device.
    """

    def __init__(self, arrays: Arrays):
        self.pool = arrays.make_pool()
        finalize(self, _retired_of(arrays).add, self.pool).atexit = False


class RetiredPools:
    """Pools of recordings that are gone, until no array holds memory of theirs.

    The garbage collector may add one at any moment, also while a stream captures, when a wait for the device would spoil the
    capture: then it is emptied when the capture has ended.

    Args:
        arrays: the device.
    """

    def __init__(self, arrays: Arrays):
        self._arrays = ref(arrays)
        self._pools: list[Any] = []
        self._captures = 0
        self._lock = RLock()

    def add(self, pool: Any) -> None:
        """Empty the pool, now or when that is allowed."""
        with self._lock:
            self._pools.append(pool)
        self.empty()

    def empty(self) -> None:
        """Give back to the device all that no array uses."""
        arrays = self._arrays()
        with self._lock:
            if self._captures or not self._pools or arrays is None:
                return
            arrays.synchronize()  # a replay may still be running
            pools, self._pools = self._pools, []  # the collector may add one meanwhile, in this thread too
            self._pools += [pool for pool in pools if arrays.empty_pool(pool)]

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Around a capture: nothing waits for the device."""
        with self._lock:
            self._captures += 1
        try:
            yield
        finally:
            with self._lock:
                self._captures -= 1
            self.empty()


_retired: WeakKeyDictionary[Any, RetiredPools] = WeakKeyDictionary()


def free_unused(arrays: Arrays) -> None:
    """Give back to the device all memory that no array and no recording uses."""
    _retired_of(arrays).empty()
    arrays.free_cached()


def _retired_of(arrays: Arrays) -> RetiredPools:
    """The retired pools of a device."""
    return _retired.setdefault(arrays, RetiredPools(arrays))


class Recorder:
    """A stream of its own, and what is recorded on it.

    Args:
        arrays: the device.
    """

    def __init__(self, arrays: Arrays):
        self._arrays = arrays
        self.stream = arrays.make_stream()
        self._memory: Callable[[], GraphMemory | None] = lambda: None

    @contextmanager
    def current(self) -> Iterator[None]:
        """Inside, launches and copies go to the stream: after all that the thread's current stream was asked for before, and
        before all that it is asked for after. Who has filled arrays on yet another stream waits for that one first."""
        self._arrays.wait()
        with self._arrays.on(self.stream):
            try:
                yield
            finally:
                self._arrays.wait()

    def record(self, work: Callable[[], T]) -> tuple[CapturedGraph, T]:
        """The launches of `work`, which are not run, and what it returns.

        Memory that earlier work has freed is given back to the device first, for the graph's own pool cannot use it.

        Raises:
            BackendError: a read or a copy by the host, or a wait, which cannot be captured.
            MemoryError: the device has not enough memory for the graph.
        """
        free_unused(self._arrays)
        memory = self._memory() or GraphMemory(self._arrays)
        self._memory = ref(memory)
        with _retired_of(self._arrays).capture(), self._arrays.on(self.stream), self._arrays.using(memory.pool):
            self.stream.begin_capture()
            try:
                result = work()
            except BaseException:
                with suppress(Exception):  # it says again that the capture is of no use
                    self.stream.end_capture()
                raise
            return CapturedGraph(self.stream.end_capture(), memory, self.stream), result

    def free_unused(self) -> None:
        """As the function of this name, on the recorder's device."""
        free_unused(self._arrays)

    def feed(self, shape: Sequence[int], dtype: Any) -> Feed:
        """An array that the host fills and a graph reads."""
        return Feed(self._arrays, shape, dtype)


def row(array: Any, i: int) -> Any:
    """array[i] of an array of any kind, as a view."""
    return array[i : i + 1].reshape(array.shape[1:])
