"""Making and keeping what the emulated machine runs: g++'s libraries, in a cache folder, by the hash of what made them."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gpunet.errors import BackendError
from gpunet.nvrtc import cache

FOLDER = "emulator"
"""Of the cache."""
GENERATED = (
    "ptx.py", "operands.py", "arithmetic.py", "conversion.py", "memory.py", "control.py", "translate.py", "machine.hpp",
    "ops.hpp",
)  # fmt: skip
"""What decides a kernel's library, besides its PTX: the translator, and the headers that its code includes."""
SOURCES = ("fibers.cpp", "machine.cpp", "launch.cpp", "warp.cpp", "transfer.cpp", "shadow.cpp")
HEADERS = ("machine.hpp", "state.hpp")
"""Of the machine's sources."""
HERE = Path(__file__).parent
COMMON = (
    "-std=gnu++17", "-march=native", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti", "-fno-math-errno",
    "-fno-strict-aliasing", "-fno-trapping-math", "-fwrapv", "-fPIC", "-shared", "-fvisibility=hidden", "-w",
)  # fmt: skip
"""Flags of every build. Products and sums are fused only where PTX says so; errno and traps are not looked at;
integers wrap, as PTX's do."""
MACHINE_FLAGS = ("-O2",)
KERNEL_FLAGS = {False: ("-O2", "-DCHECKED=0"), True: ("-O1", "-DCHECKED=1")}
"""By whether the build is checked."""


def check_host() -> None:
    """Raise BackendError unless this machine can run the emulator."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise BackendError(
            f"the emulated CUDA device needs Linux on x86-64, and this is {sys.platform} on {platform.machine()}: "
            "its threads switch stacks in assembly"
        )


@functools.cache
def compiler() -> str:
    """The path of g++.

    Raises:
        BackendError: there is none.
    """
    found = shutil.which(os.environ.get("CXX") or "g++")
    if found is None:
        raise BackendError(
            "the emulated CUDA device compiles kernels with g++, and there is none on PATH: "
            "install it (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++), or name one in CXX"
        )
    return found


@functools.cache
def own_hash(files: tuple[str, ...]) -> str:
    """Hash of some of the emulator's own files, of the flags, of the compiler and of the processor."""
    words = hashlib.sha256()
    for file in files:
        words.update(file.encode() + (HERE / file).read_bytes())
    version = _run([compiler(), "-dumpfullversion", "-dumpmachine"])
    words.update(repr((COMMON, MACHINE_FLAGS, KERNEL_FLAGS, version.stdout, _processor())).encode())
    return words.hexdigest()


def key(*parts: object) -> str:
    """A file name for a kernel's library, which depends on the parts and on how kernels are translated and compiled."""
    return cache.digest(own_hash(GENERATED), parts)


def machine() -> Path:
    """The machine itself, as a library. Load it first, for all to see: kernels' libraries call it."""
    name = f"machine-{cache.digest(own_hash(SOURCES + HEADERS))}.so"
    return cache.keep(FOLDER, name, lambda path: compile_library([HERE / s for s in SOURCES], path, MACHINE_FLAGS))


def kernel(code: str, name: str, *, checked: bool) -> Path:
    """A translated kernel as a library. What it takes of the machine is found when it is loaded, so that a change of the
    machine's inside leaves it as it is."""

    def make(path: Path) -> None:
        text = path.with_suffix(".cpp")
        text.write_text(code, encoding="utf-8")
        compile_library([text], path, (*KERNEL_FLAGS[checked], f"-I{HERE}"), ("-lm",))

    return cache.keep(FOLDER, name, make)


def compile_library(sources: Sequence[Path], to: Path, flags: Sequence[str], libraries: Sequence[str] = ()) -> None:
    """Run g++.

    Raises:
        RuntimeError: it fails, which is an error of the translator; the message is its first lines.
    """
    command = [compiler(), *COMMON, *flags, "-o", str(to), *map(str, sources), *libraries]
    done = _run(command)
    if done.returncode:
        first = "\n".join(done.stderr.splitlines()[:12])
        raise RuntimeError(f"g++ does not compile what the emulator made of {to.stem}:\n{first}")


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A program that Ctrl-C at the terminal does not reach: what it is for this process, and for training, is decided here."""
    return subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)


def _processor() -> str:
    """The instructions of this processor, which -march=native compiles for."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("flags")), "")
