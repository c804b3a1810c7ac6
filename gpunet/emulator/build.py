"""Compiles the emulated machine and translated kernels with g++ into cached libraries.

A library is named by the hash of everything that it is made from.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from gpunet import cache, cplusplus
from gpunet.errors import BackendError
from gpunet.nvrtc import compiler as nvrtc

FOLDER = "emulator"
"""The folder of the cache that holds the libraries."""
GENERATED = (
    "ptx.py", "operands.py", "arithmetic.py", "conversion.py", "memory.py", "control.py", "loops.py",
    "counting.py", "translate.py", "machine.hpp", "ops.hpp",
)  # fmt: skip
"""The files that decide a kernel's library together with its PTX: the translator, and the headers
that the generated code includes."""
SOURCES = ("fibers.cpp", "machine.cpp", "launch.cpp", "warp.cpp", "transfer.cpp", "shadow.cpp", "counters.cpp")
"""The sources of the machine's own library."""
HEADERS = ("machine.hpp", "state.hpp")
"""The headers that `SOURCES` include."""
HERE = Path(__file__).parent
COMMON = (
    "-std=gnu++17", "-march=native", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti", "-fno-math-errno",
    "-fno-strict-aliasing", "-fno-trapping-math", "-fwrapv", "-fPIC", "-shared", "-fvisibility=hidden", "-w",
)  # fmt: skip
"""Flags of every build. A product and a sum are fused only if PTX says so, integers wrap as PTX's
do, and nothing reads errno or traps on floating-point exceptions."""
MACHINE_FLAGS = ("-O2",)
KERNEL_FLAGS = {False: ("-O2", "-DCHECKED=0"), True: ("-O1", "-DCHECKED=1")}
"""Flags of a kernel's library, by whether it checks every access."""
COUNTED_FLAGS = ("-O1",)
"""Flags after those of a library that also counts: it is compiled sooner, and hardly slower."""


def why_unavailable() -> str:
    """Return one line on why kernels cannot be emulated here and what to do; empty if they can."""
    try:
        check_available()
    except BackendError as error:
        return str(error)
    return ""


def check_available() -> None:
    """Raise BackendError unless this machine can run the emulator."""
    # the machine's threads switch stacks in assembly
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "AMD64"):
        raise BackendError(
            f"the CUDA emulator runs on Linux on x86-64, and this is {sys.platform} on {platform.machine()}"
        )
    if why := nvrtc.why_unavailable():
        raise BackendError(f"the CUDA emulator needs NVRTC: {why}")
    compiler()


def compiler() -> str:
    """The path of the C++ compiler, or a BackendError."""
    return cplusplus.compiler("the CUDA emulator needs")


@functools.cache
def own_hash(files: tuple[str, ...]) -> str:
    """Return the hash of some own files, the flags, the compiler and the processor."""
    words = hashlib.sha256()
    for file in files:
        words.update(file.encode() + (HERE / file).read_bytes())
    made_by = cplusplus.version(compiler()), cplusplus.processor()
    words.update(repr((COMMON, MACHINE_FLAGS, KERNEL_FLAGS, COUNTED_FLAGS, *made_by)).encode())
    return words.hexdigest()


def key(*parts: object) -> str:
    """Return the name of a kernel's library, which depends on the parts and on the translator."""
    return cache.digest(own_hash(GENERATED), parts)


def machine() -> Path:
    """Return the machine's library. It must be loaded first, with RTLD_GLOBAL: kernels call it."""
    name = f"machine-{cache.digest(own_hash(SOURCES + HEADERS))}.so"
    return cache.keep(FOLDER, name, lambda path: compile_library([HERE / s for s in SOURCES], path, MACHINE_FLAGS))


def kernel(code: str, *, checked: bool, counted: bool = False) -> Path:
    """Return the library of a translated kernel, which its code names: equal code is compiled once.

    The machine's functions are linked when it is loaded, so a change inside the machine does not
    change it.
    """

    def make(path: Path) -> None:
        text = path.with_suffix(".cpp")
        text.write_text(code, encoding="utf-8")
        flags = (*KERNEL_FLAGS[checked], *(COUNTED_FLAGS if counted else ()), f"-I{HERE}")
        compile_library([text], path, flags, ("-lm",))

    return cache.keep(FOLDER, f"kernel-{key(code, checked, counted)}.so", make)


def compile_library(sources: Sequence[Path], to: Path, flags: Sequence[str], libraries: Sequence[str] = ()) -> None:
    """Compile sources into a library; a RuntimeError is an error of the translator."""
    what = "the emulated device and its kernels"
    cplusplus.compile_library(compiler(), sources, to, (*COMMON, *flags), libraries, what=what)
