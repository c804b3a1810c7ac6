"""The threads of `NumpyBackend`.

Work is cut along the batch into parts, which the threads take one after another, and each part into
blocks of images; NumPy and BLAS release the interpreter lock while they compute. BLAS itself runs on
one thread meanwhile. The shapes alone decide what is a part, and partial sums are added in the order
of the parts, so that the number of threads changes no bit of a result.

Blocks are larger than a second-level cache where that costs little. A thread needs the interpreter
lock between two calls. If another thread releases it for only some tens of microseconds, it takes
the lock again before this one is awake, and this one waits until the other is done: measured, two
threads took normalisations in blocks of half a megabyte no faster than one.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from itertools import pairwise
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import numpy as np

from gpunet.backends.host.arrays import HostArrays
from gpunet.backends.numpy.blas import ONE_THREAD
from gpunet.cores import wanted_threads

T = TypeVar("T")
SMALL = 1 << 17
"""Least elements of work of a part; waking a thread takes as long as 50,000."""
PARTS = 16
"""Parts at most, so many threads can share the work. More than two have at least `BLOCK` elements."""
PRODUCTS = 32
"""Multiply-adds of a matrix product that take as long as one element elsewhere."""
BLOCK = 1 << 19
"""Elements that a thread takes at a time, two megabytes of float32: see above on the length of calls."""


class NumpyThreads(HostArrays):
    """Does work in parts, one for each thread.

    Args:
        threads: number of threads; if None, that of the environment variable
            ``GPUNET_NUM_THREADS``, or else the number of cores that this process may use; of ranks on
            one machine, each takes its share of them.
    """

    def __init__(self, threads: int | None = None):
        self.threads = wanted_threads("NumpyBackend") if threads is None else int(threads)
        if self.threads < 1:
            raise ValueError(f"NumpyBackend: threads is {self.threads} but must be at least 1")
        self._teams: dict[int, Team] = {}

    def _team(self) -> Team:
        """The threads of this process, which the first call starts; those of a parent do not
        survive a fork."""
        process = os.getpid()
        team = self._teams.get(process)
        if team is None:
            made = Team(self.threads - 1)
            team = self._teams.setdefault(process, made)  # one step: the same for all that call at once
            if team is made:
                weakref.finalize(self, team.end)
        team.begin()
        return team

    def _parallel(self, work: Callable[[int, int], T], count: int, each: int, most: int = PARTS) -> list[T]:
        """Call work(start, stop) for parts of range(count) on all threads -> the results in order.

        When it returns or raises, even for a Ctrl-C, no thread works on a part any more.

        Args:
            each: elements of work that one of `count` stands for.
            most: parts at most.
        """
        if not count:
            return []
        n = min(count, most, max(1, min(2, count * each // SMALL), count * each // BLOCK))
        if n < count:
            n = 1 << n.bit_length() - 1  # a power of 2, so that 2, 4 or 8 threads have equally many
        bounds = list(pairwise(count * i // n for i in range(n + 1)))
        if n == 1 or self.threads == 1:
            return self._alone(lambda: [work(i, j) for i, j in bounds])
        jobs = self._team().jobs
        parts = [_Part(partial(work, i, j)) for i, j in bounds]
        self._call_threads()
        # BLAS's own threads spin for milliseconds after a product, and would take the cores from
        # these
        return ONE_THREAD.run(partial(_run, parts, jobs))

    def _call_threads(self) -> None:
        """Make the threads look for jobs, if they are waiting anywhere else."""

    def _alone(self, work: Callable[[], T]) -> T:
        """Call work() in this thread, with BLAS on one thread -> its result."""
        return ONE_THREAD.run(partial(_quietly, work))


class Team:
    """The threads of a backend in one process.

    They are daemons, which end with the backend and for which no exit waits; no part of the work is
    lost, for the caller does the parts that no thread has begun.

    Attributes:
        jobs: where they find what to do: objects with a method `attempt`; None ends a thread.
    """

    def __init__(self, threads: int):
        self.jobs: SimpleQueue[Any] = SimpleQueue()
        self._threads = threads
        self._names = [f"gpunet_{i}" for i in range(threads)]  # of those that have not been started

    def begin(self) -> None:
        """Start the threads that have not been started."""
        while self._names:
            try:
                name = self._names.pop()
            except IndexError:  # another caller starts the last one
                return
            threading.Thread(target=_serve, args=(self.jobs,), name=name, daemon=True).start()

    def end(self) -> None:
        """Let the threads end."""
        for _ in range(self._threads):
            self.jobs.put(None)


class _Part(Generic[T]):
    """A part of the work, for a thread of the backend, or for the caller if none has begun it."""

    def __init__(self, work: Callable[[], T]):
        # held by the thread that does the part; a caller that a signal interrupted can take it again
        self._turn = threading.RLock()
        self._work: Callable[[], T] | None = work
        self._result: list[T] = []
        self._error: BaseException | None = None

    def attempt(self) -> None:
        """Do the work, unless another thread does it."""
        if self._turn.acquire(blocking=False):
            try:
                self._do()
            finally:
                self._turn.release()

    def result(self) -> T:
        """The result, after the thread that does the work is done."""
        with self._turn:
            self._do()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its traceback holds this part
        return self._result[0]

    def abandon(self) -> None:
        """Return when no thread does the work, and none will."""
        with self._turn:
            self._work = None

    def _do(self) -> None:
        work, self._work = self._work, None  # a part that still waits in the queue keeps nothing alive
        if work is not None:
            try:
                self._result.append(_quietly(work))
            except BaseException as error:
                self._error = error


def _run(parts: list[_Part[T]], jobs: SimpleQueue[_Part | None]) -> list[T]:
    try:
        for part in parts[1:]:
            jobs.put(part)
        for part in parts:
            part.attempt()
        return [part.result() for part in parts]
    except BaseException:
        _abandon(parts)
        raise


def _abandon(parts: list[_Part[T]]) -> None:
    """Abandon all parts, also while signals arrive; then raise what the last signal raised."""
    interruption: BaseException | None = None
    while True:
        try:
            for part in parts:
                part.abandon()
            break
        except BaseException as error:
            interruption = error
    if interruption is not None:
        raise interruption


def _serve(jobs: SimpleQueue[_Part | None]) -> None:
    ONE_THREAD.limit_this_thread()
    while _attempted(jobs.get()):
        pass


def _attempted(part: _Part | None) -> bool:
    """Do a part -> whether there was one; in a function, so that no name keeps it afterwards."""
    if part is not None:
        part.attempt()
    return part is not None


def _quietly(work: Callable[[], T]) -> T:
    """Call work() without warnings of numbers -> its result. NumPy keeps that setting in a context
    variable, so that it ends with the copied context, even if a signal arrives before it is
    reset."""
    return copy_context().run(_ignoring, work)


def _ignoring(work: Callable[[], T]) -> T:
    with np.errstate(all="ignore"):
        return work()
