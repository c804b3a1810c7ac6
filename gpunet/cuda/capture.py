"""Captures launches as a graph, on CuPy's streams and on the emulator's, which are used alike.

CuPy has no memory pools that belong to a graph. Memory that a captured launch took from the usual
pool would be handed out again once its array is freed, while replays still write to it. So captures
take their memory from a pool of their own, which lives as long as their graphs. CuPy's pools do not
give memory back when they are dropped, so this module empties a pool when its last graph is gone.
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
    """A graph, together with what must live as long as it does.

    Args:
        graph: the result of a stream's `end_capture`.
        memory: the memory of its arrays. It is given back when its last graph is gone.
        stream: the stream of the capture. The graph's kernels use counters that are kept for this
            stream, so it must not be replaced by a new one while the graph lives.
    """

    def __init__(self, graph: Any, memory: GraphMemory, stream: Any):
        self.graph, self._memory, self._stream = graph, memory, stream

    def launch(self) -> None:
        """Replay the graph on the current stream."""
        self.graph.launch()


class Feed:
    """An input of a graph: the host writes it, `send` copies it, and the graph reads it.

    Attributes:
        host: the NumPy array to write to; page-locked memory on a GPU.
        device: the array that the launches take.
    """

    def __init__(self, arrays: Arrays, shape: Sequence[int], dtype: Any):
        self.host, self.device = arrays.pinned(shape, dtype), arrays.empty(shape, dtype)
        self._arrays = arrays

    def send(self) -> None:
        """Copy `host` to `device` on the current stream; it may not change before that is done."""
        self._arrays.upload(self.host, self.device)


class GraphMemory:
    """A memory pool for graphs, which is emptied when they are gone.

    Args:
        arrays: the device.
    """

    def __init__(self, arrays: Arrays):
        self.pool = arrays.make_pool()
        finalize(self, _retired_of(arrays).add, self.pool).atexit = False


class RetiredPools:
    """The pools of graphs that are gone, until no array uses their memory any more.

    The garbage collector may add a pool at any time, even during a capture. To empty a pool one
    must wait for the device, which would make a capture invalid, so it is emptied after the
    capture.

    Args:
        arrays: the device.
    """

    def __init__(self, arrays: Arrays):
        self._arrays = ref(arrays)
        self._pools: list[Any] = []
        self._captures = 0
        self._lock = RLock()

    def add(self, pool: Any) -> None:
        """Empty the pool, now or after the captures that are running."""
        with self._lock:
            self._pools.append(pool)
        self.empty()

    def empty(self) -> None:
        """Give the memory that no array uses back to the device."""
        arrays = self._arrays()
        with self._lock:
            if self._captures or not self._pools or arrays is None:
                return
            arrays.synchronize()  # a replay may still be running
            pools, self._pools = self._pools, []  # the collector may add to the list meanwhile
            self._pools += [pool for pool in pools if arrays.empty_pool(pool)]

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Keep pools from being emptied, and so from waiting for the device, inside a `with`."""
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
    """Give all memory that no array and no graph uses back to the device."""
    _retired_of(arrays).empty()
    arrays.free_cached()


def _retired_of(arrays: Arrays) -> RetiredPools:
    """Return the retired pools of a device."""
    return _retired.setdefault(arrays, RetiredPools(arrays))


class Recorder:
    """Captures graphs on a stream of its own.

    Args:
        arrays: the device.
    """

    def __init__(self, arrays: Arrays):
        self._arrays = arrays
        self.stream = arrays.make_stream()
        self._memory: Callable[[], GraphMemory | None] = lambda: None

    @contextmanager
    def current(self) -> Iterator[None]:
        """Send launches and copies to the recorder's stream inside a `with`.

        They run after everything that was submitted to the thread's current stream before, and
        before everything that is submitted to it later. A caller that has written arrays on a third
        stream must wait for that one first.
        """
        self._arrays.wait()
        with self._arrays.on(self.stream):
            try:
                yield
            finally:
                self._arrays.wait()

    def record(self, work: Callable[[], T]) -> tuple[CapturedGraph, T]:
        """Capture the launches of `work`, which do not run -> the graph, and the result of `work`.

        Memory that earlier work has freed is given back to the device first, for the graph's own
        pool cannot use it.

        Raises:
            BackendError: `work` reads or copies on the host, or waits, which cannot be captured.
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
                with suppress(Exception):  # a second error about the same capture
                    self.stream.end_capture()
                raise
            return CapturedGraph(self.stream.end_capture(), memory, self.stream), result

    def free_unused(self) -> None:
        """Give all memory of the device that no array and no graph uses back to it."""
        free_unused(self._arrays)

    def feed(self, shape: Sequence[int], dtype: Any) -> Feed:
        """Make an input that the host writes and a graph reads."""
        return Feed(self._arrays, shape, dtype)


def row(array: Any, i: int) -> Any:
    """Return array[i] as a view, for an array of any backend."""
    return array[i : i + 1].reshape(array.shape[1:])
