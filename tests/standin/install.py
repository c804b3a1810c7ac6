"""A CUDA device for the real CuPy on a machine without one.

CuPy runs unchanged: its arrays, its memory pools, its packing of arguments, its streams and graphs, its compilation through
NVRTC. What is replaced is what lies below it, CUDA's runtime and driver, by `standin.runtime` and `standin.driver`, which do
on this machine's CPU, with gpunet's emulator, what they are asked for. `install` must come before CuPy is imported; from then
on CuPy sees no device until `present` shows it one.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from gpunet.emulator import why_unavailable as why_no_emulator
from standin.device import Machine

RELEASES = (
    "free", "freeHost", "eventDestroy", "streamDestroy", "graphDestroy", "graphExecDestroy", "moduleUnload",
)  # fmt: skip
"""Called when a CuPy object dies, which may be after the device is gone again."""


class Switch:
    """Whether CuPy sees the machine.

    Attributes:
        machine: it, present or not.
        ending: whether the interpreter ends, so that nothing is to be given back any more.
    """

    def __init__(self) -> None:
        self.machine, self.present, self.ending = Machine(), False, False
        atexit.register(self._end)

    def _end(self) -> None:
        self.ending = True


@cache
def switch() -> Switch:
    """The process's one."""
    return Switch()


def why_impossible() -> str:
    """Why the stand-in cannot be installed in this process; empty where it can, or is."""
    if switch.cache_info().currsize:
        return ""
    if why := why_no_emulator():
        return f"the stand-in for CUDA runs kernels in gpunet's emulator: {why}"
    if "cupy" in sys.modules:
        return "the stand-in for CUDA must be installed before CuPy is imported"
    try:
        from cupy_backends.cuda.api import runtime
    except ImportError as error:
        return f"the stand-in for CUDA needs CuPy: {error}"
    try:
        return "a CUDA device answers, which needs no stand-in" if runtime.getDeviceCount() else ""
    except runtime.CUDARuntimeError:
        return ""


def install() -> Switch:
    """Put the stand-in below CuPy, once in a process, and say where its switch is; it begins as not present."""
    if switch.cache_info().currsize:
        return switch()
    if why := why_impossible():
        raise RuntimeError(why)
    os.environ["CUPY_COMPILE_WITH_PTX"] = "1"
    from cupy_backends.cuda.api import driver, runtime

    from standin import bridge
    from standin.driver import Driver
    from standin.runtime import Runtime

    made = switch()
    for module, functions in ((runtime, Runtime(made.machine)), (driver, Driver(made.machine))):
        hooks = {
            name: _hook(made, name, getattr(functions, name), getattr(module, name, None))
            for name in dir(functions)
            if callable(getattr(functions, name)) and (not name.startswith("_") or name in module.__pyx_capi__)
        }
        module.__pyx_capi__.update(bridge.capsules(bridge.signatures(module), hooks))
        for name, hook in hooks.items():
            if hasattr(module, name):
                setattr(module, name, hook)
    return made


def _hook(
    made: Switch, name: str, function: Callable[..., Any], original: Callable[..., Any] | None
) -> Callable[..., Any]:
    def hook(*args: Any) -> Any:
        if made.ending:
            return 0
        if not made.present and name not in RELEASES:
            if original is None:
                from cupy_backends.cuda.api import runtime

                return runtime.getDeviceCount()  # which raises
            return original(*args)
        with made.machine.lock:
            return function(*args)

    hook.__name__ = name
    return hook


@contextmanager
def present() -> Iterator[Machine]:
    """Inside, CuPy and gpunet see the device; it begins as after a start, and its memory is given back at the end."""
    made = install()
    before = made.present
    made.machine.reset()
    made.present = True
    try:
        yield made.machine
    finally:
        import cupy

        made.machine.reset()
        cupy.get_default_memory_pool().free_all_blocks()
        made.present = before
