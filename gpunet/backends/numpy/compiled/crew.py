"""Threads that share a loop: crew.cpp."""

from __future__ import annotations

import ctypes
import os
import weakref
from functools import cache
from queue import SimpleQueue
from typing import Any

from gpunet.backends.numpy.compiled.library import Loop, loaded

PATIENCE = 1000
"""Microseconds that a thread waits awake for the next loop; between two loops of a training step pass
tens or some hundreds."""


class Crew:
    """A backend's threads, which take parts of loops while they attend.

    Args:
        threads: how many there are besides the caller.
        jobs: where threads that sleep find what to do.
    """

    def __init__(self, threads: int, jobs: SimpleQueue[Any]):
        self._functions = _functions()
        self._jobs = jobs
        self._address = self._functions.crew_make()
        self._process = os.getpid()
        freed = weakref.finalize(self, _free, self._address, self._process)
        freed.atexit = False  # a thread may still attend then
        self._threads = threads
        self._here: list[None] = []  # one for each thread that attends; append and pop are single steps

    def share(self, loop: Loop, arguments: bytes, count: int, parts: int) -> bool:
        """Call a loop for range(count) in so many parts, and return when all are done -> whether each
        of them could get its memory."""
        missing = min(parts - 1, self._threads) - len(self._here) - self._jobs.qsize()
        for _ in range(missing):
            self._jobs.put(_Attendance(self, self._functions.crew_dismissals(self._address)))
        return bool(self._functions.crew_share(self._address, loop.address, arguments, count, parts))

    def dismiss(self) -> None:
        """Make the threads that attend, or are about to, look for other jobs."""
        if self._process == os.getpid() and (self._here or not self._jobs.empty()):
            self._functions.crew_dismiss(self._address)


class _Attendance:
    """The job of a thread that waits for loops."""

    def __init__(self, crew: Crew, dismissals: int):
        self._crew = crew
        self._dismissals = dismissals

    def attempt(self) -> None:
        """Take parts of loops, until the crew is dismissed."""
        crew = self._crew
        crew._here.append(None)
        try:
            crew._functions.crew_attend(crew._address, self._dismissals, PATIENCE)
        finally:
            crew._here.pop()


def _free(address: int, process: int) -> None:
    """Free a crew. In a forked child its threads are gone, and what they hold is never released."""
    if process == os.getpid():
        _functions().crew_free(address)


def can_share() -> bool:
    """Whether crew.cpp could be compiled."""
    return loaded("crew") is not None


@cache
def _functions() -> Any:
    functions = loaded("crew")
    assert functions is not None, "can_share comes first"
    functions.crew_make.restype = ctypes.c_void_p
    functions.crew_dismissals.restype = ctypes.c_long
    functions.crew_share.restype = ctypes.c_bool
    for function in (functions.crew_free, functions.crew_dismissals, functions.crew_dismiss):
        function.argtypes = (ctypes.c_void_p,)
    functions.crew_share.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_long, ctypes.c_long)
    functions.crew_attend.argtypes = (ctypes.c_void_p, ctypes.c_long, ctypes.c_long)
    for function in (functions.crew_free, functions.crew_dismiss, functions.crew_attend):
        function.restype = None
    return functions
