"""The libraries of compiled loops."""

from __future__ import annotations

import ctypes
import struct
import sys
import threading
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpunet import cplusplus
from gpunet.cache import digest, keep
from gpunet.errors import BackendError, warn

FOLDER = "loops"
"""The folder of the cache that holds the libraries."""
FLAGS = (
    "-std=gnu++17", cplusplus.NATIVE, "-O3", "-fno-rtti", "-fno-math-errno", "-fno-trapping-math",
    "-fPIC", "-shared",
)  # fmt: skip
HERE = Path(__file__).parent
NUMBERS = (int, float)
_lock = threading.Lock()
_address: Any = ctypes.addressof
_first_byte: Any = ctypes.c_char.from_buffer
failures: list[str] = []
"""What compilers have said."""


class Loop(NamedTuple):
    """One loop, as `LOOP` of loops.hpp makes it callable."""

    address: int
    call: Callable[[int, int, bytes], bool]
    """call(begin, end, arguments), without the interpreter's lock -> whether it could get its memory."""
    pack: Callable[..., bytes]
    """Puts arguments in a row, as the loop reads them."""


class Library:
    """The loops of one source file, for arrays of one dtype.

    Args:
        loaded: the compiled file.
    """

    def __init__(self, loaded: ctypes.CDLL, dtype: str):
        self._loaded = loaded
        self._dtype = dtype
        self._loops: dict[str, Loop] = {}

    def packed(self, name: str, arguments: tuple[Any, ...]) -> tuple[Loop, bytes]:
        """A loop, and its arguments in a row.

        Args:
            arguments: C-contiguous arrays, `Longs`, None for a null pointer, integers and floats,
                in the order of the loop's parameters.
        """
        loop = self._loops.get(name)
        if loop is None:
            loop = self._loops[name] = self._found(name)
        return loop, loop.pack(*[a if type(a) in NUMBERS else 0 if a is None else _passed(a) for a in arguments])

    def _found(self, name: str) -> Loop:
        """The loop that the variables of `LOOP` tell of."""
        try:
            address = ctypes.c_void_p.in_dll(self._loaded, f"{name}_{self._dtype}").value or 0
            takes = ctypes.c_char_p.in_dll(self._loaded, f"{name}_{self._dtype}_takes").value or b""
        except ValueError:
            raise AttributeError(f"there is no compiled loop {name} of {self._dtype}") from None
        call = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_long, ctypes.c_long, ctypes.c_char_p)(address)
        return Loop(address, call, struct.Struct(takes.decode()).pack)


class Longs:
    """Integers of 64 bits that a loop reads from memory, one after another."""

    def __init__(self, *values: int):
        self._values = (ctypes.c_long * len(values))(*values)
        self.address = ctypes.addressof(self._values)


def check(done: bool, name: str) -> None:
    """Raise MemoryError if a loop returned that it could not get the memory that it works in."""
    if not done:
        raise MemoryError(f"the compiled loop {name} cannot get the memory that it works in")


def _passed(argument: Any) -> Any:
    """An array, `Longs` or a number of NumPy's as a loop takes it."""
    if isinstance(argument, np.ndarray):
        try:
            return _address(_first_byte(argument))  # five times as fast as by the interface
        except (TypeError, ValueError):  # the array is read-only, or empty
            return argument.__array_interface__["data"][0]
    return argument.address if isinstance(argument, Longs) else argument


def library(topic: str, dtype: str) -> Library | None:
    """The loops of a topic, which are compiled now if they never were; None where they cannot be."""
    with _lock:  # of several threads that need them, one compiles
        return _library(topic, dtype)


@cache
def _library(topic: str, dtype: str) -> Library | None:
    file = None if why_unavailable() else loaded(topic)
    return None if file is None else Library(file, dtype)


@cache
def loaded(topic: str) -> ctypes.CDLL | None:
    """The compiled file of a topic; None, after a warning, where the compiler fails."""
    path = cplusplus.compiler("compiled loops need")
    sources = [HERE / f"{topic}.cpp", *sorted(HERE.glob("*.hpp"))]
    made_of = [source.read_bytes() for source in sources]
    name = f"{topic}-{digest(FLAGS, made_of, cplusplus.identity(path), cplusplus.processor())}.so"
    try:
        return ctypes.CDLL(str(keep(FOLDER, name, lambda to: _compile(path, topic, to))))
    except (RuntimeError, OSError) as error:
        failures.append(str(error))
        without = "loops run on one thread" if topic == "crew" else "NumPy computes alone, more slowly"
        warn(f"{without}, without what cannot be compiled: {error}", RuntimeWarning)
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
