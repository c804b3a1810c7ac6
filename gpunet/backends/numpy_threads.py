"""The threads of `NumpyBackend`.

Work is cut along the batch into one part a thread, and each part into blocks of images; NumPy and BLAS let go of the
interpreter lock while they compute. BLAS itself runs on one thread meanwhile. Partial sums are added in the order of the
parts, so a result depends on the number of threads, and on nothing else.

Blocks are larger than a second-level cache where that costs little. Between two calls a thread needs the interpreter lock; if
the other gives it up for some tens of microseconds only, it has taken it again before this one is awake, and one waits until
the other is done: measured, two threads took normalisations in blocks of half a megabyte no faster than one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from gpunet.backends.host import HostBackend

T = TypeVar("T")

SMALL = 1 << 17
"""Elements of work a thread at least: waking one takes as long as 50,000."""


class NumpyThreads(HostBackend):
    """Work in parts, one a thread.

    Args:
        threads: how many; if None the environment variable ``GPUNET_NUM_THREADS``, else the cores this process may use.
    """

    def __init__(self, threads: int | None = None):
        given = threads if threads is not None else os.environ.get("GPUNET_NUM_THREADS")
        try:
            self.threads = int(given) if given is not None else _cores()
        except ValueError:
            raise ValueError(f"NumpyBackend: GPUNET_NUM_THREADS is {given!r} but takes an integer") from None
        if self.threads < 1:
            raise ValueError(f"NumpyBackend: threads is {self.threads} but must be at least 1")
        self._make_pool()
        self._blas = ThreadpoolController().select(user_api="blas").lib_controllers

    def _make_pool(self) -> None:
        self._process = os.getpid()
        self._pool = ThreadPoolExecutor(self.threads - 1, "gpunet") if self.threads > 1 else None

    def describe(self) -> dict[str, str]:
        """Also the threads and the BLAS with the processor it takes this one for."""
        blas = [
            f"{i['internal_api']} {i['version']} ({i.get('architecture', 'unknown architecture')})"
            for i in (library.info() for library in self._blas)
        ]
        return {**super().describe(), "threads": str(self.threads), "blas": ", ".join(blas) or "unknown"}

    @contextmanager
    def _one_blas_thread(self) -> Iterator[None]:
        before = [library.get_num_threads() for library in self._blas]
        for library in self._blas:
            library.set_num_threads(1)
        try:
            yield
        finally:
            for library, threads in zip(self._blas, before, strict=True):
                library.set_num_threads(threads)

    def _parallel(self, work: Callable[[int, int], T], count: int, each: int) -> list[T]:
        """work(start, stop) on one part of range(count) a thread; the results in the order of the parts.

        Args:
            each: elements of work that one of `count` stands for.
        """
        parts = min(self.threads, count, max(1, count * each // SMALL))
        if self._process != os.getpid():  # threads do not survive a fork
            self._make_pool()
        # BLAS's own threads spin for milliseconds after a product, and would take the cores from these
        with self._one_blas_thread(), np.errstate(all="ignore"):
            if parts <= 1 or self._pool is None:
                return [work(0, count)]
            bounds = [count * i // parts for i in range(parts + 1)]
            waiting = [self._pool.submit(_quietly, work, i, j) for i, j in pairwise(bounds[1:])]
            try:
                first = work(0, bounds[1])
            finally:
                rest = [task.result() for task in waiting]
        return [first, *rest]


def _quietly(work: Callable[[int, int], T], start: int, stop: int) -> T:
    with np.errstate(all="ignore"):  # of this thread: the setting is not inherited
        return work(start, stop)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
