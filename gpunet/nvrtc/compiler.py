"""Compiles CUDA C++ with NVRTC, which needs no GPU.

The gate and the emulator compile here, through NVIDIA's own Python binding, which needs no CuPy. On
a GPU, CuPy compiles with the same library and the same options; a test checks that they are the
same. The binding is imported only when something is compiled.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpunet.errors import BackendError
from gpunet.nvrtc import source
from gpunet.progress import working

INSTALL = 'pip install "gpunet[emulator]" (or "gpunet[cuda13]", for a GPU too)'

COMPILING = "compiling CUDA kernels, once for this machine"
"""What is done, as those who wait for it read it."""

_ENTRY = re.compile(r"Compiling entry function '([^']+)'")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


class CompileError(Exception):
    """A source does not compile; the message is the compiler's log."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What one compiled instance takes: registers per thread; shared, spilled and stack bytes."""

    registers: int
    shared: int
    spills: int
    stack: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """One source, compiled for one architecture."""

    cubin: bytes
    names: dict[str, str]
    """The mangled name of each name expression."""
    resources: dict[str, Resources]
    """The resources of each name expression."""


def why_unavailable() -> str:
    """Return one line on why NVRTC cannot be used here and what to do about it; empty if it can."""
    try:
        _binding()
        options()
    except BackendError as error:
        return str(error)
    return ""


@cache
def options() -> tuple[str, ...]:
    """Return the options with which CuPy compiles a RawModule, but for the architecture.

    If CuPy is installed, its headers come before NVIDIA's, in the order in which CuPy itself finds
    them.

    Raises:
        BackendError: there are no CUDA headers, or they lie outside of this Python environment,
            where they may belong to another release.
    """
    folders: list[Path] = []
    cupy = find_spec("cupy")
    if cupy is not None and cupy.origin:
        own = Path(cupy.origin).parent / "_core" / "include"
        folders += [own / "cupy" / "_cccl" / part for part in ("cub", "thrust", "libcudacxx")]
        folders.append(own)
    folders.append(_headers())
    for folder in folders:
        check_include_folder(folder)
    return (*(f"-I{f}" for f in folders), "-std=c++17", "-ftz=true", "--device-as-default-execution-space")


def _headers() -> Path:
    try:
        from cuda.pathfinder import find_nvidia_header_directory
    except ImportError as error:
        raise BackendError(f"NVRTC needs cuda-pathfinder, which cannot be imported ({error}): {INSTALL}") from error
    folder = find_nvidia_header_directory("cudart")
    if folder is None:
        raise BackendError(f"NVRTC needs the CUDA headers (nvidia-cuda-runtime), which are not installed: {INSTALL}")
    return Path(folder)


@cache
def _binding() -> Any:
    """Return the module cuda.bindings.nvrtc, after a call that shows that its library is there."""
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise BackendError(f"NVRTC needs cuda-bindings, which cannot be imported ({error}): {INSTALL}") from error
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError as error:  # the library is looked for at the first call
        raise BackendError(f"NVRTC is not installed (nvidia-cuda-nvrtc): {INSTALL}") from error
    return nvrtc


def version() -> str:
    """Return NVRTC's release, as in ``"13.0"``."""
    _, major, minor = _binding().nvrtcVersion()
    return f"{major}.{minor}"


def check_include_folder(folder: Path) -> None:
    """Raise BackendError unless `folder` lies in this Python environment."""
    places = {Path(p).resolve() for p in (sys.prefix, *(p for p in sys.path if p.endswith("-packages")))}
    if not any(place in folder.resolve().parents for place in places):
        where = f"outside this Python environment ({sys.prefix}), so releases could mix"
        raise BackendError(f"CUDA headers at {folder} lie {where}: unset CUDA_PATH, or install them: {INSTALL}")


def compile_source(file: str, text: str, architecture: str, expressions: Sequence[str], *extra: str) -> Compiled:
    """Compile a source to a cubin, and read what each instance takes of the device.

    Args:
        file: the name that messages use for it.
        text: the source, its quoted includes inlined.
        architecture: as in ``"sm_90"``.
        expressions: name expressions of the instances to compile.
        extra: further options of NVRTC.
    Raises:
        CompileError: the source does not compile.
        BackendError: NVRTC is missing.
    """
    with _Program(file, text, expressions) as program:
        program.compile(architecture, "--ptxas-options=-v", *extra)
        names = program.names()
        used = parse_log(program.log())
        return Compiled(program.output("CUBIN"), names, {e: used[name] for e, name in names.items()})


class _Program:
    """An NVRTC program, which is destroyed at the end of a `with`."""

    def __init__(self, file: str, text: str, expressions: Sequence[str]):
        self.nvrtc, self.file, self.expressions = _binding(), file, tuple(expressions)
        self.handle = self._call("CreateProgram", text.encode(), file.encode(), 0, [], [], handle=False)

    def __enter__(self) -> _Program:
        return self

    def __exit__(self, *error: object) -> None:
        self._call("DestroyProgram")

    def compile(self, architecture: str, *extra: str) -> None:
        for expression in self.expressions:
            self._call("AddNameExpression", expression.encode())
        chosen = [o.encode() for o in (*options(), f"-arch={architecture}", *extra)]
        with working(COMPILING, self.file):
            (status,) = self.nvrtc.nvrtcCompileProgram(self.handle, len(chosen), chosen)
        if status:
            raise CompileError(f"{self.file} for {architecture}: {self.log() or status.name}")

    def names(self) -> dict[str, str]:
        return {e: self._call("GetLoweredName", e.encode()).decode() for e in self.expressions}

    def log(self) -> str:
        return self.output("ProgramLog").rstrip(b"\0").decode()

    def output(self, kind: str) -> bytes:
        buffer = bytes(self._call(f"Get{kind}Size"))
        self._call(f"Get{kind}", buffer)
        return buffer

    def _call(self, name: str, *args: Any, handle: bool = True) -> Any:
        status, *result = getattr(self.nvrtc, f"nvrtc{name}")(*([self.handle] if handle else []), *args)
        if status:
            raise CompileError(f"{self.file}: nvrtc{name}: {status.name}")
        return result[0] if result else None


def compile(file: str, architecture: str, expressions: Sequence[str], *extra: str) -> Compiled:
    """Compile one `.cu` file of the package, as :func:`compile_source` does."""
    return compile_source(file, source.read(file), architecture, expressions, *extra)


def to_ptx(file: str, text: str, architecture: str, expressions: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Compile a source to PTX with source lines -> the PTX, and the mangled name of each instance.

    Args:
        architecture: a virtual one, as in ``"compute_80"``.
    Raises:
        CompileError: the source does not compile.
        BackendError: NVRTC is missing.
    """
    with _Program(file, text, expressions) as program:
        program.compile(architecture, "-lineinfo")
        return program.output("PTX").rstrip(b"\0").decode(), program.names()


@cache
def releases() -> tuple[str, ...]:
    """Return the installed versions of all that PTX depends on: CuPy's options, NVRTC, headers."""
    found = (d for d in distributions() if re.match(r"cupy|nvidia[-_]cuda|cuda[-_]", d.metadata["Name"] or ""))
    return tuple(sorted({f"{d.metadata['Name']} {d.version}" for d in found}))


def parse_log(log: str) -> dict[str, Resources]:
    """Read the resources of each mangled name from a log of ``--ptxas-options=-v``."""
    found = {}
    _, *parts = _ENTRY.split(log)
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        registers, shared, stack = (p.search(text) for p in (_REGISTERS, _SHARED, _STACK))
        if registers is None or stack is None:
            raise ValueError(f"cannot read the compiler's log of {name}: {text!r}")
        frame, stores, loads = map(int, stack.groups())
        found[name] = Resources(int(registers[1]), int(shared[1]) if shared else 0, stores + loads, frame)
    return found
