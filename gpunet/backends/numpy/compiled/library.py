"""The libraries of compiled loops."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gpunet import cplusplus
from gpunet.backends.numpy.threads import NumpyThreads
from gpunet.cache import digest, keep
from gpunet.errors import BackendError, warn

SWITCH = "GPUNET_FAST_CPU"
"""The environment variable that switches the loops off with "0"."""
FOLDER = "loops"
"""The folder of the cache that holds the libraries."""
FLAGS = (
    "-std=gnu++17", cplusplus.NATIVE, "-O3", "-fno-exceptions", "-fno-rtti", "-fno-math-errno", "-fno-trapping-math",
    "-fPIC", "-shared",
)  # fmt: skip
HERE = Path(__file__).parent
DTYPES: dict[Any, str] = {np.dtype(name): name for name in ("float32", "float64")}
"""The dtypes that loops are made for."""
_lock = threading.Lock()
_failed: list[str] = []  # what a compiler has said


class Library:
    """The loops of one source file, for arrays of one dtype."""

    def __init__(self, path: Path, dtype: str):
        self._library = ctypes.CDLL(str(path))
        self._dtype = dtype
        self._functions: dict[str, Any] = {}

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call a loop without the interpreter's lock.

        Args:
            name: the loop's.
            arguments: C-contiguous arrays, `Extents`, None for a null pointer, integers and floats,
                in the order of the loop's parameters.
        """
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = self._found(name)
        function(*map(_passed, arguments))

    def _found(self, name: str) -> Any:
        """The function that the variable of `LOOP` points to."""
        try:
            address = ctypes.c_void_p.in_dll(self._library, f"{name}_{self._dtype}").value
        except ValueError:
            raise AttributeError(f"there is no compiled loop {name} of {self._dtype}") from None
        return ctypes.CFUNCTYPE(None)(address or 0)


class Extents:
    """Integers that a loop reads from memory, as a struct of `long`."""

    def __init__(self, *values: int):
        self._values = (ctypes.c_long * len(values))(*values)
        self.pointer = ctypes.c_void_p(ctypes.addressof(self._values))


def _passed(argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        return ctypes.c_void_p(argument.__array_interface__["data"][0])
    if isinstance(argument, Extents):
        return argument.pointer
    if argument is None:
        return ctypes.c_void_p(None)
    return ctypes.c_double(argument) if isinstance(argument, float) else ctypes.c_long(argument)


class CompiledLoops(NumpyThreads):
    """A backend that computes with compiled loops where they can be had.

    Args:
        threads: as for `NumpyThreads`.
        compiled: whether to use the loops; if None, unless the environment variable
            ``GPUNET_FAST_CPU`` is 0.
    """

    def __init__(self, threads: int | None = None, compiled: bool | None = None):
        super().__init__(threads)
        off = f"{SWITCH} is 0" if compiled is None and os.environ.get(SWITCH) == "0" else ""
        self._why_off = "compiled=False" if compiled is False else off
        self.compiled = not self._why_off

    def _loops(self, topic: str, *arrays: Any) -> Library | None:
        """The loops of a topic; None where NumPy computes: without them, or for other arrays than
        C-contiguous ones of one dtype that they are made for."""
        if not self.compiled:
            return None
        dtypes = {a.dtype if a.flags.c_contiguous else None for a in arrays if a is not None}
        name = DTYPES.get(dtypes.pop()) if len(dtypes) == 1 else None
        return None if name is None else library(topic, name)

    def describe(self) -> dict[str, str]:
        """Also whether there are compiled loops, and why not: some are compiled to find out."""
        why = self._why_off or why_unavailable()
        if not why and library("activation", "float32") is None:
            why = _failed[-1].splitlines()[0]
        return {**super().describe(), "loops": f"NumPy's alone ({why})" if why else "compiled"}


def library(topic: str, dtype: str) -> Library | None:
    """The loops of a topic, which are compiled now if they never were; None where they cannot be."""
    with _lock:  # of several threads that need them, one compiles
        return _library(topic, dtype)


@cache
def _library(topic: str, dtype: str) -> Library | None:
    if why_unavailable():
        return None
    path = cplusplus.compiler("compiled loops need")
    sources = [HERE / f"{topic}.cpp", *sorted(HERE.glob("*.hpp"))]
    made_of = [source.read_bytes() for source in sources]
    name = f"{topic}-{digest(FLAGS, made_of, cplusplus.identity(path), cplusplus.processor())}.so"
    try:
        return Library(keep(FOLDER, name, lambda to: _compile(path, topic, to)), dtype)
    except (RuntimeError, OSError) as error:
        _failed.append(str(error))
        warn(f"NumPy computes alone, more slowly, without compiled loops: {error}", RuntimeWarning)
        return None


def _compile(path: str, topic: str, to: Path) -> None:
    cplusplus.compile_library(path, [HERE / f"{topic}.cpp"], to, FLAGS, what=f"loops for the CPU ({topic}.cpp)")


@lru_cache(maxsize=1)
def why_unavailable() -> str:
    """One line on why no loops can be compiled here; empty if they can."""
    if sys.platform == "win32":
        return "loops are not compiled on Windows"
    try:
        cplusplus.compiler("compiled loops need")
    except BackendError as error:
        return str(error)
    return ""
