"""Keeps BLAS on one thread while gpunet computes, from whichever thread it is called.

OpenBLAS has one number of threads for the whole process, MKL one for each thread. threadpoolctl
finds the libraries. From 3.8 on its setter obeys only the thread that called it first, so
OpenBLAS's own functions are called here instead.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple, TypeVar

from threadpoolctl import ThreadpoolController

T = TypeVar("T")
LONGEST_WAIT = 10.0
"""Seconds that a fork waits for the products of other threads: many times what one product
takes."""


class Library(NamedTuple):
    """One BLAS library: functions that read and set its number of threads."""

    get: Callable[[], int]
    set: Callable[[int], object]
    shared: bool
    """Whether the number holds for all threads of the process, or only for the one that sets it."""


class OneThread:
    """Runs work with BLAS on one thread, and restores its threads when no such work runs any more.

    A number that other code sets meanwhile stays; code that reads OpenBLAS's number meanwhile gets
    1. A Ctrl-C may arrive between any two steps, so each step can be repeated. A fork waits for the
    work of other threads, since they could hold locks of BLAS that nothing in the child would ever
    release.
    """

    def __init__(self, libraries: list[Library] | None = None):
        if libraries is not None:
            self.libraries = libraries
        self._entry = threading.RLock()  # held during a fork, so that no thread enters
        self._state = threading.RLock()
        self._inside: dict[int, list[int] | None] = {}  # by thread: numbers of libraries that are not shared
        self._before: list[int] | None = None  # numbers of shared libraries, while a thread is inside

    @cached_property
    def libraries(self) -> list[Library]:
        """The libraries that were loaded when the first backend was made; NumPy's is among them."""
        return [_library(controller) for controller in controllers()]

    @cached_property
    def _shared(self) -> list[Library]:
        return [library for library in self.libraries if library.shared]

    @cached_property
    def _own(self) -> list[Library]:
        return [library for library in self.libraries if not library.shared]

    def run(self, work: Callable[[], T]) -> T:
        """Call work() with BLAS on one thread -> its result."""
        thread = threading.get_ident()
        if thread in self._inside:
            return work()
        try:
            self._enter(thread)
            return work()
        finally:
            try:
                self._leave(thread)
            except BaseException:  # a Ctrl-C meanwhile
                self._leave(thread)
                raise

    def limit_this_thread(self) -> None:
        """Limit BLAS for good in a thread of gpunet, in libraries that count each thread's."""
        for library in self._own:
            library.set(1)

    def _enter(self, thread: int) -> None:
        with self._entry, self._state:
            self._inside[thread] = None
            now = [library.get() for library in self._shared]
            before = self._before or now
            self._before = [was if n == 1 else n for was, n in zip(before, now, strict=True)]
            self._inside[thread] = [library.get() for library in self._own]
            for library in self.libraries:
                library.set(1)

    def _leave(self, thread: int) -> None:
        with self._state:
            numbers = self._inside.get(thread)
            if numbers is not None:
                for library, number in zip(self._own, numbers, strict=True):
                    library.set(number)
            if self._inside.keys() <= {thread}:
                self._restore()
            self._inside.pop(thread, None)

    def _restore(self) -> None:
        if self._before is not None:
            for library, number in zip(self._shared, self._before, strict=True):
                if library.get() == 1:  # otherwise other code has set it meanwhile
                    library.set(number)
        self._before = None

    def before_fork(self) -> None:
        """Wait until no other thread is inside, and let no thread enter."""
        thread, deadline = threading.get_ident(), time.monotonic() + LONGEST_WAIT
        self._entry.acquire()
        while self._inside.keys() - {thread} and time.monotonic() < deadline:
            time.sleep(0.0005)
        self._state.acquire()

    def after_fork(self) -> None:
        """Let other threads enter again; in the child, too, this thread owns the locks."""
        self._state.release()
        self._entry.release()

    def after_fork_in_child(self) -> None:
        """Forget the other threads, which do not exist in the child."""
        for thread in self._inside.keys() - {threading.get_ident()}:
            del self._inside[thread]
        if not self._inside:
            self._restore()
        self.after_fork()


def controllers() -> list[Any]:
    """threadpoolctl's controllers of the loaded BLAS libraries."""
    return ThreadpoolController().select(user_api="blas").lib_controllers


def _library(controller: Any) -> Library:
    if controller.internal_api == "mkl" or controller.threading_layer == "openmp":
        return Library(controller.get_num_threads, controller.set_num_threads, shared=False)
    return Library(_function(controller, "get_num_threads"), _function(controller, "set_num_threads"), shared=True)


def _function(controller: Any, name: str) -> Callable[..., Any]:
    """OpenBLAS's own function of a name, or threadpoolctl's for another library."""
    if controller.internal_api == "openblas":
        for prefix, suffix in product(("", "scipy_"), ("", "64_", "_64")):
            function = getattr(controller.dynlib, f"{prefix}openblas_{name}{suffix}", None)
            if function is not None:
                return function
    return getattr(controller, name)


ONE_THREAD = OneThread()
"""One for all backends of the process; two backends that each restored what they found would
restore the other's limit."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=ONE_THREAD.before_fork,
        after_in_parent=ONE_THREAD.after_fork,
        after_in_child=ONE_THREAD.after_fork_in_child,
    )
