"""Installs a CUDA device for the real CuPy on a machine without one.

CuPy runs unchanged: its arrays, memory pools, packing of arguments, streams and graphs, and its
compilation through NVRTC. What it stands on is replaced: `standin.runtime` and `standin.driver` do
the work of CUDA's runtime and driver on this machine's CPU, with gpunet's emulator. `install` must
be called before CuPy is imported. From then on CuPy sees no device, except inside `present`.
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
"""The functions that CuPy calls when an object dies, which may be after `present` has ended."""


class Switch:
    """Whether CuPy sees the machine.

    Attributes:
        machine: the machine, present or not.
        present: whether CuPy sees it.
        ending: whether the interpreter is ending, when nothing needs to be given back any more.
    """

    def __init__(self) -> None:
        self.machine, self.present, self.ending = Machine(), False, False
        atexit.register(self._end)

    def _end(self) -> None:
        self.ending = True


@cache
def switch() -> Switch:
    """Return the switch of this process."""
    return Switch()


def why_impossible() -> str:
    """Return why the stand-in cannot be installed in this process; empty if it can be, or is."""
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
    """Install the stand-in, once in a process, and return its switch; it is not present at
    first."""
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
    """Show CuPy and gpunet a newly started device inside a `with`; free its memory at the end."""
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
