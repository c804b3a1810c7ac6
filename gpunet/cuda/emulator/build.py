"""Making and keeping what the emulated machine runs: g++'s libraries, in a cache folder, by the hash of what made them."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from gpunet.errors import BackendError

TRANSLATOR = ("ptx", "operands", "arithmetic", "memory", "control", "translate", "build")
SOURCES = ("fibers.cpp", "machine.cpp", "warp.cpp", "transfer.cpp", "shadow.cpp")
COMMON = (
    "-std=gnu++17", "-march=native", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti", "-fno-math-errno",
    "-fno-strict-aliasing", "-fno-trapping-math", "-fPIC", "-shared", "-fvisibility=hidden", "-w",
)  # fmt: skip
"""Flags of every build. Products and sums are fused only where PTX says so; errno and traps are not looked at."""
MACHINE_FLAGS = ("-O2",)
KERNEL_FLAGS = {False: ("-O2", "-DCHECKED=0"), True: ("-O1", "-DCHECKED=1")}
"""By whether the build is checked."""


def folder() -> Path:
    """Where libraries are kept: ``GPUNET_CACHE``, or gpunet's folder in the user's cache."""
    chosen = os.environ.get("GPUNET_CACHE")
    if chosen:
        return Path(chosen) / "emulator"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gpunet" / "emulator"


def check_host() -> None:
    """Raise BackendError unless this machine can run the emulator."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise BackendError(
            f"the emulated CUDA device needs Linux on x86-64, and this is {sys.platform} on {platform.machine()}: "
            "its threads switch stacks in assembly"
        )


@cache
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


@cache
def own_hash() -> str:
    """Hash of the emulator's own sources, of the compiler and of the processor: what every library depends on."""
    here = Path(__file__).parent
    words = hashlib.sha256()
    for path in sorted([*(here / f"{name}.py" for name in TRANSLATOR), *here.glob("*.?pp")]):
        words.update(path.name.encode() + path.read_bytes())
    version = subprocess.run(
        [compiler(), "-dumpfullversion", "-dumpmachine"], capture_output=True, text=True, check=False
    )
    words.update(repr((COMMON, MACHINE_FLAGS, KERNEL_FLAGS, version.stdout, _processor())).encode())
    return words.hexdigest()


def key(*parts: object) -> str:
    """A file name for something that depends on the parts and on the emulator itself."""
    return hashlib.sha256(repr((own_hash(), parts)).encode()).hexdigest()[:32]


def keep(name: str, make: Callable[[Path], None]) -> Path:
    """The cached file of that name, made aside and renamed if it is not there: who reads sees all of it or nothing.

    Args:
        make: writes the file at the path that it is given.
    """
    path = folder() / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="making-") as aside:
            made = Path(aside) / name
            make(made)
            made.replace(path)
    return path


def machine() -> Path:
    """The machine itself, as a library."""
    here = Path(__file__).parent
    name = f"machine-{key('machine')}.so"
    return keep(name, lambda path: compile_library([here / s for s in SOURCES], path, MACHINE_FLAGS))


def kernel(code: str, name: str, *, checked: bool) -> Path:
    """A translated kernel as a library that finds the machine's beside it."""
    beside = machine()
    here = Path(__file__).parent

    def make(path: Path) -> None:
        source = path.with_suffix(".cpp")
        source.write_text(code, encoding="utf-8")
        compile_library(
            [source], path, (*KERNEL_FLAGS[checked], f"-I{here}"),
            (f"-L{beside.parent}", f"-l:{beside.name}", "-Wl,-rpath,$ORIGIN", "-lm"),
        )  # fmt: skip

    return keep(name, make)


def compile_library(sources: Sequence[Path], to: Path, flags: Sequence[str], libraries: Sequence[str] = ()) -> None:
    """Run g++.

    Raises:
        RuntimeError: it fails, which is an error of the translator; the message is its first lines.
    """
    command = [compiler(), *COMMON, *flags, "-o", str(to), *map(str, sources), *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        first = "\n".join(done.stderr.splitlines()[:12])
        raise RuntimeError(f"g++ does not compile what the emulator made of {to.stem}:\n{first}")


def _processor() -> str:
    """The instructions of this processor, which -march=native compiles for."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("flags")), "")
