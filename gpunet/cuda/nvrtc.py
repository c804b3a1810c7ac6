"""Compiling with NVRTC, which needs no GPU: one file for one architecture, as CuPy compiles it.

CuPy is imported only when something is compiled.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gpunet.cuda import source
from gpunet.errors import BackendError

_ENTRY = re.compile(r"Compiling entry function '([^']+)'")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


class CompileError(Exception):
    """A kernel that does not compile; the message is the compiler's log."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What one compiled instance takes, in registers a thread and bytes."""

    registers: int
    shared: int
    spills: int
    stack: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """One file for one architecture."""

    cubin: bytes
    log: str
    names: dict[str, str]
    """Mangled name of each name expression."""
    resources: dict[str, Resources]
    """By name expression."""


@cache
def options() -> tuple[str, ...]:
    """The options that CuPy compiles a RawModule with, without the architecture.

    Raises:
        BackendError: an include folder outside this Python environment: a system's CUDA would mix two releases.
    """
    from cupy._core import core

    found = core.assemble_cupy_compiler_options(())
    for option in found:
        if option.startswith("-I"):
            check_include_folder(Path(option[2:]))
    fixed = ("-std=c++17", "-ftz=true", "--device-as-default-execution-space")
    return (*found, *(o for o in fixed if o not in found))


def check_include_folder(folder: Path) -> None:
    """Raise BackendError unless `folder` lies in this Python environment."""
    places = {Path(p).resolve() for p in (sys.prefix, *(p for p in sys.path if p.endswith("-packages")))}
    if not any(place in folder.resolve().parents for place in places):
        raise BackendError(
            f"CUDA headers at {folder} lie outside this Python environment ({sys.prefix}), so releases could mix: "
            'unset CUDA_PATH, or install them with pip install "gpunet[cuda13]"'
        )


def compile_source(file: str, text: str, architecture: str, expressions: tuple[str, ...]) -> Compiled:
    """Compile `text` for `architecture`, as in ``"sm_90"``.

    Args:
        file: the name that messages give it.
        expressions: the instances to make.
    Raises:
        CompileError: with the compiler's log.
    """
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(text, file, (), ())
    try:
        for expression in expressions:
            nvrtc.addNameExpression(program, expression)
        try:
            nvrtc.compileProgram(program, (*options(), f"-arch={architecture}", "--ptxas-options=-v"))
        except nvrtc.NVRTCError as error:
            raise CompileError(f"{file} for {architecture}: {nvrtc.getProgramLog(program) or error}") from error
        log = nvrtc.getProgramLog(program)
        names = {e: nvrtc.getLoweredName(program, e) for e in expressions}
        cubin = nvrtc.getCUBIN(program)
    finally:
        nvrtc.destroyProgram(program)
    used = parse_log(log)
    return Compiled(cubin, log, names, {e: used[name] for e, name in names.items()})


def compile(file: str, architecture: str, expressions: tuple[str, ...]) -> Compiled:
    """Compile one `.cu` file of the package; as :func:`compile_source`."""
    return compile_source(file, source.read(file), architecture, expressions)


def parse_log(log: str) -> dict[str, Resources]:
    """Resources by mangled name, from a log of ``--ptxas-options=-v``."""
    found = {}
    _, *parts = _ENTRY.split(log)
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        registers, shared, stack = (p.search(text) for p in (_REGISTERS, _SHARED, _STACK))
        if registers is None or stack is None:
            raise ValueError(f"cannot read the compiler's log of {name}: {text!r}")
        frame, stores, loads = map(int, stack.groups())
        found[name] = Resources(int(registers[1]), int(shared[1]) if shared else 0, stores + loads, frame)
    return found
