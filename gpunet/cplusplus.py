"""Compiles C++ with the compiler of this machine, into libraries that a cache keeps."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from gpunet.errors import BackendError
from gpunet.progress import working

NATIVE = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
"""The flag that lets the compiler use every instruction of this processor."""


def compiler(what: str) -> str:
    """The path of the C++ compiler: g++, or what ``CXX`` names.

    Args:
        what: what needs it, for the message.
    Raises:
        BackendError: there is none.
    """
    name = os.environ.get("CXX") or "g++"
    found = shutil.which(name)
    if found is None:
        raise BackendError(
            f"{what} a C++ compiler, and {name} is not found: install it (Debian, Ubuntu: "
            "apt-get install g++; Fedora: dnf install gcc-c++), or name one in CXX"
        )
    return found


@functools.cache
def version(path: str) -> str:
    """The version and the target of the compiler at this path."""
    return _run([path, "-dumpfullversion", "-dumpmachine"]).stdout


@functools.cache
def identity(path: str) -> str:
    """What the compiler at this path, of any make, says of itself."""
    return f"{path}: {_run([path, '--version']).stdout}"


@functools.cache
def processor() -> str:
    """The instruction sets of this processor, for which `NATIVE` compiles."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def compile_library(
    path: str, sources: Sequence[Path], to: Path, flags: Sequence[str], libraries: Sequence[str] = (), *, what: str
) -> None:
    """Run the compiler at `path`.

    Args:
        to: the library that is written.
        flags, libraries: before and after the sources.
        what: what is compiled, for the line that says so when it takes long, and for the error.
    Raises:
        RuntimeError: it fails; the message has the first lines of its own.
    """
    with working(f"compiling {what}, once for this machine"):
        done = _run([path, *flags, "-o", str(to), *map(str, sources), *libraries])
    if done.returncode:
        first = "\n".join(done.stderr.splitlines()[:12])
        raise RuntimeError(f"{path} does not compile {what}:\n{first}")


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a program in a session of its own, so that Ctrl-C reaches only this process."""
    return subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)
