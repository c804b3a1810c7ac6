"""What the classes of compiled loops share: when there are any, and how threads take parts of them."""

from __future__ import annotations

import os
import weakref
from typing import Any

import numpy as np

from gpunet.backends.numpy.compiled.crew import Crew, can_share
from gpunet.backends.numpy.compiled.library import Library, check, failures, library, why_unavailable
from gpunet.backends.numpy.threads import NumpyThreads

SWITCH = "GPUNET_FAST_CPU"
"""The environment variable that switches the loops off with "0"."""
DTYPES: dict[Any, str] = {np.dtype(name): name for name in ("float32", "float64")}
"""The dtypes that loops are made for."""
LEAST = 1 << 14
"""Least elements of work of a part: a thread that is awake begins it in a microsecond."""


def why_switched_off() -> str:
    """One line on what switches the loops off; empty if nothing does."""
    return f"{SWITCH} is 0" if os.environ.get(SWITCH) == "0" else ""


class CompiledLoops(NumpyThreads):
    """A backend that computes with compiled loops where they can be had.

    Args:
        threads: as for `NumpyThreads`.
        compiled: whether to use the loops; if None, unless the environment variable
            ``GPUNET_FAST_CPU`` is 0.
    """

    def __init__(self, threads: int | None = None, compiled: bool | None = None):
        super().__init__(threads)
        if compiled is None:
            self._why_off = why_switched_off()
        else:
            self._why_off = "" if compiled else "compiled=False"
        self.compiled = not self._why_off
        self._crews: dict[int, Crew] = {}

    def _loops(self, topic: str, *arrays: Any) -> Library | None:
        """The loops of a topic; None where NumPy computes: without them, or for other arrays than
        C-contiguous ones of one dtype that they are made for."""
        if not self.compiled:
            return None
        dtype = None
        for a in arrays:
            if a is None:
                continue
            if not a.flags.c_contiguous or (dtype is not None and a.dtype != dtype):
                return None
            dtype = a.dtype
        name = DTYPES.get(dtype)
        return None if name is None else library(topic, name)

    def _spread(self, loops: Library, name: str, count: int, each: int, *arguments: Any) -> None:
        """Call a loop for range(count), a part of which each thread takes.

        Args:
            each: elements of work that one of `count` stands for.
            arguments: as for `Library.packed`.
        Raises:
            MemoryError: a part of the loop cannot get the memory that it works in.
        """
        parts = min(self.threads, count, count * each // LEAST)
        loop, given = loops.packed(name, arguments)
        alone = parts <= 1 or not can_share()
        check(loop.call(0, count, given) if alone else self._crew().share(loop, given, count, parts), name)

    def _crew(self) -> Crew:
        """The threads of this process, as they share loops."""
        jobs, process = self._team().jobs, os.getpid()
        crew = self._crews.get(process)
        if crew is None:
            made = Crew(self.threads - 1, jobs)
            crew = self._crews.setdefault(process, made)  # one step: the same for all that call at once
            if crew is made:
                weakref.finalize(self, crew.dismiss)
        return crew

    def _call_threads(self) -> None:
        crew = self._crews.get(os.getpid())
        if crew is not None:
            crew.dismiss()

    def describe(self) -> dict[str, str]:
        """Also whether there are compiled loops, and why not: some are compiled to find out."""
        why = self._why_off or why_unavailable()
        if not why and library("activation", "float32") is None:
            why = failures[-1].splitlines()[0]
        return {**super().describe(), "loops": f"NumPy's alone ({why})" if why else "compiled"}
