"""The stand-in's modules and kernels: PTX that CuPy compiled with NVRTC, run by gpunet's
emulator."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from gpunet.emulator.launches import Settings
from gpunet.emulator.machine import SHARED_LIMITS, Program, capability
from gpunet.emulator.ptx import parse
from gpunet.emulator.translate import Kernel, translate

_ENTRY = re.compile(r"\.entry\s+(\w+)\s*\((.*?)\)", re.DOTALL)
_LOCAL = re.compile(r"\.local\s+\.align\s+\d+\s+\.b8\s+__local_depot\d+\[(\d+)\]")
_TARGET = re.compile(r"\.target\s+(sm_\d+\w?)")
DEFAULT_SHARED = 48 * 1024
"""Bytes of static and dynamic shared memory that a block may have unless more is allowed first."""


class PtxProgram(Program):
    """A program of the emulator whose source is PTX instead of CUDA C++."""

    @cached_property
    def _parsed(self) -> Any:
        return parse(self.text)

    def _translated(self, expression: str, checked: bool, count: bool) -> Kernel:
        return translate(self._parsed, expression, checked=checked, counted=count)


class Module:
    """A loaded module.

    Args:
        ptx: its PTX.
    """

    def __init__(self, ptx: str):
        self.names = [name for name, _ in _ENTRY.findall(ptx)]
        self.program = PtxProgram("module", ptx, self.names, _TARGET.search(ptx)[1])  # type: ignore[index]


class Function:
    """A kernel of a module.

    Attributes:
        dynamic: the most bytes of dynamic shared memory that a launch may request.
    """

    def __init__(self, module: Module, name: str):
        self.program, self.name = module.program, name
        self.dynamic = DEFAULT_SHARED - self.facts["real_shared"]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The emulator's facts about it: `parameters` (in bytes), `max_threads`, `real_shared`."""
        return self.program._kernel(self.name, False).facts

    @property
    def local(self) -> int:
        """Bytes of local memory that the PTX declares."""
        body = self.program.text.partition(f".entry {self.name}(")[2].partition(".entry")[0]
        found = _LOCAL.search(body)
        return int(found[1]) if found else 0

    @property
    def shared_limit(self) -> int:
        """Bytes of shared memory that a block may have."""
        return SHARED_LIMITS[capability(self.program.arch)] * 1024

    def run(self, grid: Sequence[int], block: Sequence[int], params: Sequence[bytes], shared: int) -> None:
        """Run the kernel now."""
        schedule = Settings.from_environment().schedule
        self.program.launch(self.name, tuple(grid), tuple(block), params, shared=shared, regions=[], schedule=schedule)
