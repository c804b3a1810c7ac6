"""Turns the arguments of a launch into bytes and into the memory that the kernel may touch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gpunet.emulator.device_array import DeviceArray, Storage, locate
from gpunet.emulator.machine import Counts, KernelFault, Program, Region, Schedule
from gpunet.nvrtc import compiler
from gpunet.nvrtc.signature import Parameter

ARCHITECTURE = "compute_80"
"""The virtual architecture that kernels are compiled for by default."""


def parse_schedule(text: str) -> Schedule:
    """Return the schedule that ``"fifo"``, ``"lifo"``, ``"random"`` or ``"random:SEED"`` names.

    Raises:
        ValueError: any other text.
    """
    kind, _, seed = text.partition(":")
    if kind not in ("fifo", "lifo", "random") or (seed and (kind != "random" or not seed.isdecimal())):
        raise ValueError(f"schedule is {text!r} but takes fifo, lifo, random or random:SEED")
    return Schedule(kind, int(seed or 0))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Settings:
    """How kernels are run.

    Args:
        checked: check every access; this is far slower.
        schedule: the order of threads.
        architecture: the virtual architecture that kernels are compiled for, as in
            ``"compute_80"``.
        count: count what every access costs; see :class:`gpunet.emulator.counts.Profile`.
    """

    checked: bool = False
    schedule: Schedule = field(default_factory=Schedule)
    architecture: str = ARCHITECTURE
    count: bool = False

    @staticmethod
    def from_environment() -> Settings:
        """Read ``GPUNET_EMULATOR_CHECKED`` (0 or 1), ``…_SCHEDULE`` and ``…_ARCH``."""
        environment = os.environ.get
        return Settings(
            checked=environment("GPUNET_EMULATOR_CHECKED", "0") not in ("", "0"),
            schedule=parse_schedule(environment("GPUNET_EMULATOR_SCHEDULE", "fifo")),
            architecture=environment("GPUNET_EMULATOR_ARCH", ARCHITECTURE),
        )

    def describe(self) -> dict[str, str]:
        """Describe the settings and NVRTC's release for `gpunet info` and benchmark records."""
        seed = f":{self.schedule.seed}" if self.schedule.kind == "random" else ""
        return {
            "architecture": self.architecture,
            "NVRTC": compiler.version(),
            "schedule": f"{self.schedule.kind}{seed}",
            "checks": "every access" if self.checked else "red zones",
        }


@dataclass(frozen=True, slots=True)
class ArgumentBytes:
    """The bytes of an array argument; they keep their address when the array is freed."""

    name: str
    storage: Storage
    offset: int
    size: int
    read_only: bool

    def region(self) -> Region:
        """Return the bytes with their map of those that were written."""
        written = self.storage.written
        where = 0 if written is None else written.ctypes.data + self.offset
        return Region(self.storage.address + self.offset, self.size, self.name, self.read_only, where)


@dataclass(frozen=True, slots=True)
class Work:
    """One launch with all its arguments, as a stream records it."""

    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    params: tuple[bytes, ...]
    arguments: tuple[ArgumentBytes, ...]
    shared: int


def make_work(
    kernel: str,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    parameters: Sequence[Parameter],
    values: Sequence[Any],
    shared: int,
) -> Work:
    """Turn the arguments of a launch into the bytes of each parameter.

    Args:
        values: the arguments as :func:`gpunet.nvrtc.signature.bind` returns them.
    """
    params, arguments = [], []
    for p, value in zip(parameters, values, strict=True):
        if value is None:
            params.append(bytes(8))
        elif isinstance(value, DeviceArray):
            storage, offset = locate(value)
            params.append((storage.address + offset).to_bytes(8, "little"))
            arguments.append(ArgumentBytes(p.name, storage, offset, value.nbytes, p.is_const))
        else:
            params.append(value.tobytes())
    return Work(kernel, grid, block, tuple(params), tuple(arguments), shared)


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
        regions=_regions(work.arguments) if settings.checked else (),
        schedule=settings.schedule,
        checked=settings.checked,
        count=settings.count,
    )
    for argument in work.arguments:
        what = argument.storage.overrun()
        if what:
            raise KernelFault("out of bounds", f"{what}, the argument {argument.name}", kernel=work.kernel)
        if argument.storage.written is not None and not (settings.checked or argument.read_only):
            argument.storage.written[argument.offset : argument.offset + argument.size] = 1
    return counts


def _regions(arguments: Sequence[ArgumentBytes]) -> list[Region]:
    """Return what a launch may touch: the bytes of its arguments and no others.

    Arguments that overlap, as in ``binary("add", a, b, out=a)``, become one region, so that
    accesses through one are checked against accesses through the other. The region may be written
    if one of its arguments may.
    """
    merged: list[ArgumentBytes] = []
    for a in sorted((a for a in arguments if a.size), key=lambda a: (id(a.storage), a.offset)):
        last = merged[-1] if merged else None
        if last is not None and last.storage is a.storage and a.offset < last.offset + last.size:
            end = max(last.offset + last.size, a.offset + a.size)
            name = f"{last.name}, {a.name}"
            merged[-1] = ArgumentBytes(name, a.storage, last.offset, end - last.offset, last.read_only and a.read_only)
        else:
            merged.append(a)
    return [a.region() for a in merged]
