"""Launches on the emulated device: checked arguments as parameter bytes and regions, and counts of what was run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gpunet.cuda.instantiations import file_of, module_of
from gpunet.cuda.launcher import Launcher
from gpunet.emulator.arrays import DeviceArray, EmulatedArrays, Storage
from gpunet.emulator.machine import Counts, KernelFault, Program, Region, Schedule
from gpunet.nvrtc import compiler, signature, source
from gpunet.nvrtc.signature import Parameter

ARCHITECTURE = "compute_80"
"""The virtual architecture that kernels are run for, unless a test asks for another."""


def parse_schedule(text: str) -> Schedule:
    """The schedule of ``"fifo"``, ``"lifo"``, ``"random"`` or ``"random:7"``, where 7 is the seed.

    Raises:
        ValueError: anything else.
    """
    kind, _, seed = text.partition(":")
    if kind not in ("fifo", "lifo", "random") or (seed and (kind != "random" or not seed.isdecimal())):
        raise ValueError(f"schedule is {text!r} but takes fifo, lifo, random or random:SEED")
    return Schedule(kind, int(seed or 0))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Settings:
    """How kernels are run.

    Args:
        checked: check every access; far slower.
        schedule: the order of threads.
        architecture: the virtual architecture, as in ``"compute_80"``.
    """

    checked: bool = False
    schedule: Schedule = field(default_factory=Schedule)
    architecture: str = ARCHITECTURE

    @staticmethod
    def from_environment() -> Settings:
        """What ``GPUNET_EMULATOR_CHECKED`` (1), ``GPUNET_EMULATOR_SCHEDULE`` and ``GPUNET_EMULATOR_ARCH`` say."""
        environment = os.environ.get
        return Settings(
            checked=environment("GPUNET_EMULATOR_CHECKED", "0") not in ("", "0"),
            schedule=parse_schedule(environment("GPUNET_EMULATOR_SCHEDULE", "fifo")),
            architecture=environment("GPUNET_EMULATOR_ARCH", ARCHITECTURE),
        )

    def describe(self) -> dict[str, str]:
        """For `gpunet info` and benchmark records."""
        seed = f":{self.schedule.seed}" if self.schedule.kind == "random" else ""
        return {
            "architecture": self.architecture,
            "NVRTC": compiler.version(),
            "schedule": f"{self.schedule.kind}{seed}",
            "checks": "every access" if self.checked else "red zones",
        }


@dataclass(frozen=True, slots=True)
class Argument:
    """An array of a launch: its bytes, whatever becomes of the array."""

    name: str
    storage: Storage
    offset: int
    size: int
    read_only: bool

    def region(self) -> Region:
        """The bytes, and the map of those that were written."""
        written = self.storage.written
        where = 0 if written is None else written.ctypes.data + self.offset
        return Region(self.storage.address + self.offset, self.size, self.name, self.read_only, where)


@dataclass(frozen=True, slots=True)
class Work:
    """One launch with its arguments frozen, as a stream records it."""

    file: str
    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    params: tuple[bytes, ...]
    arguments: tuple[Argument, ...]
    shared: int


@dataclass(slots=True)
class Totals:
    """What all launches of one instance did."""

    launches: int = 0
    loaded: int = 0
    stored: int = 0
    """Bytes of global memory."""
    barriers: int = 0

    def add(self, counts: Counts) -> None:
        """Count one launch more."""
        self.launches += 1
        self.loaded += counts.loaded
        self.stored += counts.stored
        self.barriers += counts.barriers


def freeze(parameters: Sequence[Parameter], values: Sequence[Any]) -> tuple[tuple[bytes, ...], tuple[Argument, ...]]:
    """Bytes of each parameter, and the arrays among them.

    Args:
        values: as :func:`gpunet.nvrtc.signature.bind` returns them.
    """
    params, arguments = [], []
    for p, value in zip(parameters, values, strict=True):
        if value is None:
            params.append(bytes(8))
        elif isinstance(value, DeviceArray):
            storage, offset = value._owner.storage(value)
            params.append((storage.address + offset).to_bytes(8, "little"))
            arguments.append(Argument(p.name, storage, offset, value.nbytes, p.is_const))
        else:
            params.append(value.tobytes())
    return tuple(params), tuple(arguments)


def regions(arguments: Sequence[Argument]) -> list[Region]:
    """What a launch may touch: the bytes of its arguments and no others.

    Arguments that overlap, as ``binary("add", a, b, out=a)`` has them, become one region that may be written if one of them
    may, so that accesses through either are held against each other.
    """
    merged: list[Argument] = []
    for a in sorted((a for a in arguments if a.size), key=lambda a: (id(a.storage), a.offset)):
        last = merged[-1] if merged else None
        if last is not None and last.storage is a.storage and a.offset < last.offset + last.size:
            end = max(last.offset + last.size, a.offset + a.size)
            name = f"{last.name}, {a.name}"
            merged[-1] = Argument(name, a.storage, last.offset, end - last.offset, last.read_only and a.read_only)
        else:
            merged.append(a)
    return [a.region() for a in merged]


def execute(program: Program, work: Work, settings: Settings) -> Counts:
    """Run a launch, then look at the red zones of its arrays.

    Raises:
        KernelFault: what the machine found, or a write outside an array.
    """
    counts = program.launch(
        work.kernel,
        work.grid,
        work.block,
        work.params,
        shared=work.shared,
        regions=regions(work.arguments),
        schedule=settings.schedule,
        checked=settings.checked,
    )
    for argument in work.arguments:
        what = argument.storage.overrun()
        if what:
            raise KernelFault("out of bounds", f"{what}, the argument {argument.name}", kernel=work.kernel)
        if argument.storage.written is not None and not (settings.checked or argument.read_only):
            argument.storage.written[argument.offset : argument.offset + argument.size] = 1
    return counts


class EmulatedLauncher(Launcher):
    """Compiles each instance once and runs it on the emulated device's current stream.

    Args:
        arrays: the device.
        settings: how kernels are run.
    """

    def __init__(self, arrays: EmulatedArrays, settings: Settings | None = None):
        super().__init__(arrays.owns)
        self.arrays = arrays
        self.settings = settings or Settings()
        self.totals: dict[str, Totals] = {}
        """By instance that was run."""
        self.last: Counts | None = None
        """What the last launch did."""
        self.covered: set[tuple[str, int]] = set()
        """(file, line) of the sources, as far as checked launches have executed them."""
        self._programs: dict[tuple[str, ...], Program] = {}

    def run(
        self, file: str, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: list[Any], shared: int
    ) -> None:
        """As :meth:`Launcher.run`."""
        params, arguments = freeze(signature.parameters(file, kernel), args)
        self.arrays.stream.submit(Work(file, kernel, grid, block, params, arguments, shared), self.execute)

    def execute(self, work: Work) -> None:
        """Run a launch now, and count it."""
        self.last = counts = execute(self.program(work.kernel), work, self.settings)
        self.totals.setdefault(work.kernel, Totals()).add(counts)
        self.covered |= counts.lines

    def program(self, kernel: str) -> Program:
        """A listed instance, with those that are compiled together with it."""
        file, expressions = file_of(kernel), module_of(kernel)
        if expressions not in self._programs:
            self._programs[expressions] = Program.from_source(
                file, source.read(file), expressions, arch=self.settings.architecture
            )
        return self._programs[expressions]

    def lines(self) -> set[tuple[str, int]]:
        """(file, line) of everything that the instances run so far have instructions for."""
        return {line for kernel in self.totals for line in self.program(kernel).lines(kernel)}
