"""Recording launches as a graph: one body for CuPy's streams and an emulator's, which have the same names.

CuPy has no memory of a graph's own. What a recorded launch took from the usual pool and freed would be handed out again while
replays still write to it, so recordings take theirs from a pool that hands out nothing else and lives as long as they do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from gpunet.cuda.arrays import Arrays

T = TypeVar("T")


class Recording(NamedTuple):
    """A graph with the memory that it works in."""

    graph: Any
    pool: Any

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


class Recorder:
    """A stream of its own, and what is recorded on it.

    Args:
        arrays: the device.
    """

    def __init__(self, arrays: Arrays):
        self._arrays = arrays
        self._stream, self._pool = arrays.make_stream(), arrays.make_pool()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Inside, launches and copies go to the stream: after all that was asked for before, and before all that is after."""
        self._arrays.synchronize()
        with self._arrays.on(self._stream):
            try:
                yield
            finally:
                self._arrays.synchronize()

    def record(self, work: Callable[[], T]) -> tuple[Recording, T]:
        """The launches of `work`, which are not run, and what it returns.

        Raises:
            BackendError: a read or a copy by the host, or a wait, which cannot be captured.
        """
        with self._arrays.on(self._stream), self._arrays.using(self._pool):
            self._stream.begin_capture()
            try:
                result = work()
            except BaseException:
                with suppress(Exception):  # it says again that the capture is of no use
                    self._stream.end_capture()
                raise
            return Recording(self._stream.end_capture(), self._pool), result

    def feed(self, shape: Sequence[int], dtype: Any) -> Feed:
        """An array that the host fills and a graph reads."""
        return Feed(self._arrays, shape, dtype)


def row(array: Any, i: int) -> Any:
    """array[i] of an array of any kind, as a view."""
    return array[i : i + 1].reshape(array.shape[1:])
