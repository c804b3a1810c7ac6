"""Kernels of the stand-in: the PTX that CuPy had NVRTC make, run by gpunet's emulator."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from gpunet.emulator import build
from gpunet.emulator.launches import Settings
from gpunet.emulator.machine import SHARED_LIMITS, Program, capability
from gpunet.emulator.ptx import parse
from gpunet.emulator.translate import translate
from gpunet.nvrtc import cache

_ENTRY = re.compile(r"\.entry\s+(\w+)\s*\((.*?)\)", re.DOTALL)
_LOCAL = re.compile(r"\.local\s+\.align\s+\d+\s+\.b8\s+__local_depot\d+\[(\d+)\]")
_TARGET = re.compile(r"\.target\s+(sm_\d+\w?)")
DEFAULT_SHARED = 48 * 1024


class PtxProgram(Program):
    """A program of the emulator that begins with PTX instead of CUDA C++."""

    @cached_property
    def _parsed(self) -> Any:
        return parse(self.text)

    def _files(self, expression: str, checked: bool) -> tuple[Path, Path]:
        """The library is named by its own code, so that a change elsewhere in the module leaves it as it is."""

        def make(path: Path) -> None:
            made = translate(self._parsed, expression, checked=checked)
            library = build.kernel(made.code, f"standin-{build.key(made.code, checked)}.so", checked=checked)
            path.write_text(json.dumps({**json.loads(made.to_json()), "library": str(library)}), encoding="utf-8")

        facts = cache.keep(build.FOLDER, f"standin-{build.key(self.text, expression, checked)}.json", make)
        return Path(json.loads(facts.read_text(encoding="utf-8"))["library"]), facts


class Module:
    """A loaded module.

    Args:
        ptx: its text.
    """

    def __init__(self, ptx: str):
        self.names = [name for name, _ in _ENTRY.findall(ptx)]
        self.program = PtxProgram("module", ptx, self.names, _TARGET.search(ptx)[1])  # type: ignore[index]


class Function:
    """A kernel of a module.

    Attributes:
        dynamic: the most bytes of dynamic shared memory that a launch may ask for.
    """

    def __init__(self, module: Module, name: str):
        self.program, self.name = module.program, name
        self.dynamic = DEFAULT_SHARED

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the emulator knows about it: `parameters` (bytes of each), `max_threads`, `real_shared`."""
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
        """Run it now."""
        schedule = Settings.from_environment().schedule
        self.program.launch(self.name, tuple(grid), tuple(block), params, shared=shared, regions=[], schedule=schedule)
