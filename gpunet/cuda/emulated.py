"""Launches kernels on the emulated device, and counts what they do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from gpunet.cuda.description import Description
from gpunet.cuda.instantiations import file_of, module_of
from gpunet.cuda.launcher import Launcher
from gpunet.emulator.arrays import EmulatedArrays
from gpunet.emulator.counts import Profile
from gpunet.emulator.launches import Settings, Work, execute, make_work
from gpunet.emulator.machine import Counts, Program, shared_limit
from gpunet.nvrtc import signature, source
from gpunet.nvrtc.signature import Extents


@dataclass(slots=True)
class Totals:
    """The counts of all launches of an instance; loaded and stored in bytes of global memory."""

    launches: int = 0
    loaded: int = 0
    stored: int = 0
    barriers: int = 0

    def add(self, counts: Counts) -> None:
        """Add the counts of one launch."""
        self.launches += 1
        self.loaded += counts.loaded
        self.stored += counts.stored
        self.barriers += counts.barriers


@dataclass(frozen=True, slots=True)
class CountedLaunch:
    """A launch that was counted."""

    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int
    """Bytes of dynamic shared memory."""
    profile: Profile


class EmulatedLauncher(Launcher):
    """Compiles each instance once, and runs it on the emulated device's current stream.

    Args:
        arrays: the device.
        settings: how kernels are run.
    Attributes:
        totals: by instance that has run, the counts of its launches.
        last: the counts of the last launch; None before the first.
        covered: (file, line) of the source lines that checked launches have executed.
    """

    def __init__(self, arrays: EmulatedArrays, settings: Settings | None = None):
        super().__init__(arrays.owns)
        self.arrays = arrays
        self.settings = settings or Settings()
        self.totals: dict[str, Totals] = {}
        self.last: Counts | None = None
        self.covered: set[tuple[str, int]] = set()
        self._counted: list[CountedLaunch] | None = None
        self._programs: dict[tuple[str, ...], Program] = {}

    def description(self) -> Description:
        """Return an H200's numbers, but for the architecture and the shared memory that it allows a block."""
        architecture = self.settings.architecture
        return Description(shared=shared_limit(architecture), architecture=int(re.sub(r"\D", "", architecture)))

    def run(self, file: str, kernel: str, grid: Extents, block: Extents, args: list[Any], shared: int) -> None:
        """Run an instance with checked, packed arguments; during a capture, record the launch."""
        work = make_work(kernel, grid, block, signature.parameters(file, kernel), args, shared)
        self.arrays.stream.submit(work, self.execute)

    def execute(self, work: Work) -> None:
        """Run a launch now, and count it."""
        self.last = counts = execute(self.program(work.kernel), work, self.settings)
        self.totals.setdefault(work.kernel, Totals()).add(counts)
        self.covered |= counts.lines
        if self._counted is not None and counts.profile:
            self._counted.append(CountedLaunch(work.kernel, work.grid, work.block, work.shared, counts.profile))

    @contextmanager
    def counting(self) -> Iterator[list[CountedLaunch]]:
        """Count every launch inside of the ``with``.

            with backend.launcher.counting() as launches:
                backend.matmul(a, b)
            assert sum(a.conflicts for a in launches[0].profile.accesses) == 0

        Returns:
            a list, to which each launch is added when it has run.
        """
        before, counted = (self.settings, self._counted), list[CountedLaunch]()
        self.settings, self._counted = replace(self.settings, count=True), counted
        try:
            yield counted
        finally:
            self.settings, self._counted = before

    def program(self, kernel: str) -> Program:
        """Return the program of a listed instance; it holds those that are compiled with it."""
        file, expressions = file_of(kernel), module_of(kernel)
        if expressions not in self._programs:
            text, arch = source.read(file), self.settings.architecture
            self._programs[expressions] = Program.from_source(file, text, expressions, arch=arch)
        return self._programs[expressions]

    def lines(self) -> set[tuple[str, int]]:
        """Return (file, line) of each source line that the instances that have run contain."""
        return {line for kernel in self.totals for line in self.program(kernel).lines(kernel)}
