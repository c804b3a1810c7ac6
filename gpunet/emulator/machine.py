"""Runs kernels on host memory.

NVRTC compiles the unmodified source to PTX, translate.py turns the PTX into C++, g++ makes a
library of that, and ctypes calls it. The results are kept in a cache folder, so each step happens
once.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np

from gpunet import cache
from gpunet.emulator import build, counts
from gpunet.emulator.counts import Profile
from gpunet.emulator.operands import UnknownOpcode
from gpunet.emulator.ptx import parse
from gpunet.emulator.translate import Kernel, translate
from gpunet.nvrtc import compiler
from gpunet.nvrtc.signature import BLOCK_LIMIT, Extents, check_extents

SHARED_LIMITS = {
    75: 64, 80: 163, 86: 99, 87: 163, 88: 99, 89: 99, 90: 227, 100: 227, 103: 227, 110: 227, 120: 99, 121: 99,
}  # fmt: skip
"""KiB of shared memory that a block may have, by compute capability."""
STEP_LIMIT = 2**28
"""A block hangs if it takes this many backward branches between two synchronisations."""


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes of host memory that a launch may touch.

    Args:
        address: the address of the first byte.
        size: in bytes.
        name: the name that faults use: the parameter's.
        read_only: whether a checked launch refuses to write here.
        written: the address of a map with one byte for each byte of the region, 0 where nothing was
            ever written. A checked launch refuses to read such bytes, and marks those that it
            writes. The address is 0 if every byte counts as written.
    """

    address: int
    size: int
    name: str
    read_only: bool = False
    written: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """The order in which the threads of a block run between synchronisations.

    ``fifo`` runs warps in order, ``lifo`` the last to arrive first. ``random`` draws the order of
    the warps from `seed`, anew at each synchronisation, so that one warp can run a whole interval
    ahead of another.
    """

    kind: Literal["fifo", "lifo", "random"] = "fifo"
    seed: int = 0


class KernelFault(Exception):  # noqa: N818
    """A kernel did something wrong; the message says what in one line.

    Attributes:
        kind: "race", "out of bounds", "read only", "misaligned", "uninitialised", "divergent
            barrier", "barrier never reached", "exited lane", "cp.async", "shared memory limit",
            "hang", "trap" or "unknown opcode".
        kernel: the name expression.
        file, line: the place in the source; line 0 if it is not known.
        block, thread: their coordinates; empty if the fault does not belong to one thread.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        kernel: str = "",
        file: str = "",
        line: int = 0,
        block: tuple[int, ...] = (),
        thread: tuple[int, ...] = (),
    ):
        where = f"{file}:{line}: " if file else ""
        who = f" (block {block}, thread {thread})" if block else ""
        super().__init__(f"{where}{kernel}: {kind}: {detail}{who}")
        self.kind, self.kernel, self.file, self.line = kind, kernel, file, line
        self.block, self.thread = block, thread


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one launch did in one of its regions.

    Args:
        name: the region's name.
        loaded, stored: bytes of all loads and stores; a byte that is loaded twice counts twice.
        read, written: how many different bytes these were; exact if the region starts at a multiple
            of 4.
    """

    name: str
    loaded: int
    stored: int
    read: int
    written: int


@dataclass(frozen=True, slots=True)
class Counts:
    """What one launch did.

    Args:
        loaded, stored: bytes of global memory that instructions loaded and stored.
        barriers: barriers that blocks have passed.
        lines: (file, line) of the source lines that ran; only of a checked launch.
        regions: what was done in each region; only of a checked launch.
        profile: what each access cost; only of a counting launch.
    """

    loaded: int
    stored: int
    barriers: int
    lines: frozenset[tuple[str, int]] = frozenset()
    regions: tuple[Traffic, ...] = ()
    profile: Profile | None = None


class Program:
    """The kernels of one source. :meth:`from_source` makes it."""

    def __init__(self, file: str, text: str, expressions: Sequence[str], arch: str):
        self.file = file
        self.text = text
        self.expressions = tuple(expressions)
        self.arch = arch
        self._loaded: dict[tuple[str, bool, bool], _Kernel] = {}

    @staticmethod
    def from_source(file: str, text: str, expressions: Sequence[str], *, arch: str = "compute_80") -> Program:
        """Make a program; each kernel is compiled when it is first launched.

        Args:
            file: the name that messages use for the source.
            text: CUDA C++ with its quoted includes inlined, as :func:`gpunet.nvrtc.source.read`
                does it.
            expressions: name expressions of the instances that may be launched.
            arch: the virtual architecture to compile for, from compute_75 on.
        Raises:
            BackendError: NVRTC or g++ is missing, or the host is not Linux on x86-64.
            ValueError: an architecture that is not emulated.
        """
        build.check_available()
        if capability(arch) not in SHARED_LIMITS:
            raise ValueError(f"the emulated device takes compute_{'/'.join(map(str, SHARED_LIMITS))}, got {arch}")
        return Program(file, text, expressions, arch)

    def launch(
        self,
        expression: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        params: Sequence[bytes],
        *,
        shared: int = 0,
        regions: Sequence[Region],
        schedule: Schedule = Schedule(),
        checked: bool = False,
        count: bool = False,
    ) -> Counts:
        """Run a kernel to its end.

        Args:
            grid, block: one to three extents, in blocks and in threads.
            params: the bytes of each parameter; those of a pointer hold a host address.
            shared: bytes of dynamic shared memory.
            regions: the global memory that the kernel may touch. Only a checked launch looks at
                them.
            schedule: the order of threads.
            checked: run the build that checks every access.
            count: run a build that counts what every access costs, checked or not.
        Raises:
            KernelFault: the kernel did something wrong. What it had written before stays written.
            ValueError: extents that no device takes, parameters of a wrong number or size, or an
                expression that is not listed.
        """
        kernel = self._kernel(expression, checked, count)
        grid3, block3 = ((*extents, 1, 1)[:3] for extents in (grid, block))
        self._check(expression, kernel, grid3, block3, params, shared)
        return kernel.run(expression, grid3, block3, params, shared, regions, schedule)

    def compile(self, expression: str, *, checked: bool = False, count: bool = False) -> None:
        """Compile an instance now, unless it is in the cache."""
        self._kernel(expression, checked, count)

    def lines(self, expression: str) -> frozenset[tuple[str, int]]:
        """Return (file, line) of the source lines for which an instance has instructions."""
        facts = self._kernel(expression, True).facts
        return frozenset((facts["sites"][site][0], facts["sites"][site][1]) for site in facts["covered"])

    def _check(
        self, expression: str, kernel: _Kernel, grid: Extents, block: Extents, params: Sequence[bytes], shared: int
    ) -> None:
        check_extents(expression, grid, block)
        most = kernel.facts["max_threads"] or BLOCK_LIMIT
        if prod(block) > most:
            raise ValueError(f"{expression}: a block of {tuple(block)} threads, but the kernel takes 1 to {most}")
        if prod(grid) >= 2**32:
            raise ValueError(f"{expression}: a grid of {tuple(grid)} blocks, of which the emulator counts under 2^32")
        sizes = kernel.facts["parameters"]
        if [len(p) for p in params] != sizes:
            raise ValueError(f"{expression}: takes parameters of {sizes} bytes, got {[len(p) for p in params]}")
        limit = shared_limit(self.arch)
        used = kernel.facts["real_shared"] + shared
        if used > limit:
            raise KernelFault(
                "shared memory limit",
                f"{used} bytes ({kernel.facts['real_shared']} of arrays, {shared} of the launch), {self.arch} has {limit}",
                kernel=expression,
                file=self.file,
            )

    def _kernel(self, expression: str, checked: bool, count: bool = False) -> _Kernel:
        if expression not in self.expressions:
            raise ValueError(f"{self.file} has no instance {expression}; it has {', '.join(self.expressions)}")
        key = expression, checked, count
        if key not in self._loaded:
            self._loaded[key] = _Kernel(self._facts(*key), checked, count)
        return self._loaded[key]

    def _facts(self, expression: str, checked: bool, count: bool) -> dict[str, Any]:
        """Return the facts about an instance and its `library`, compiled if they are not in the
        cache."""
        name = build.key(self.text, expression, self.arch, checked, count, compiler.releases())
        readable = re.sub(r"\W+", "_", expression).strip("_")[:60]

        def make(path: Path) -> None:
            made = self._translated(expression, checked, count)
            library = build.kernel(made.code, checked=checked, counted=count)
            path.write_text(json.dumps({**made.facts(), "library": library.name}), encoding="utf-8")

        path = cache.keep(build.FOLDER, f"{readable}-{name}.json", make)
        return json.loads(path.read_text(encoding="utf-8"))

    def _translated(self, expression: str, checked: bool, count: bool) -> Kernel:
        ptx, names = compiler.to_ptx(self.file, self.text, self.arch, (expression,))
        ptx = ptx.replace(f'"{os.getcwd()}/', '"')  # NVRTC makes the names of files absolute
        try:
            return translate(parse(ptx), names[expression], checked=checked, counted=count)
        except UnknownOpcode as error:
            file, line = error.place
            raise KernelFault(
                "unknown opcode", error.detail, kernel=expression, file=file or self.file, line=line
            ) from None


def capability(arch: str) -> int:
    """Return the number of an architecture: 80 for ``compute_80`` or ``sm_80``."""
    digits = re.fullmatch(r"(?:compute|sm)_(\d+)[af]?", arch)
    if digits is None:
        raise ValueError(f"an architecture is written as compute_80, got {arch}")
    return int(digits[1])


def shared_limit(arch: str) -> int:
    """Return the bytes of shared memory that a block may have on an architecture."""
    return SHARED_LIMITS[capability(arch)] * 1024


class _CRegion(ctypes.Structure):
    """The struct Region of state.hpp."""

    _fields_ = (
        ("address", ctypes.c_uint64), ("size", ctypes.c_uint64), ("name", ctypes.c_char_p), ("written", ctypes.c_uint64),
        ("read_only", ctypes.c_uint64), ("loaded", ctypes.c_uint64), ("stored", ctypes.c_uint64), ("read", ctypes.c_uint64),
        ("wrote", ctypes.c_uint64),
    )  # fmt: skip


class _CLaunch(ctypes.Structure):
    """The struct Launch of state.hpp."""

    _fields_ = (
        ("body", ctypes.c_void_p), ("params", ctypes.c_void_p), ("regions", ctypes.c_void_p), ("hits", ctypes.c_void_p),
        ("zones", ctypes.c_void_p), ("tallies", ctypes.c_void_p), ("counted", ctypes.c_void_p),
        ("executed", ctypes.c_void_p), ("seed", ctypes.c_uint64), ("loaded", ctypes.c_uint64), ("stored", ctypes.c_uint64),
        ("barriers", ctypes.c_uint64), ("step_limit", ctypes.c_uint64), ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3), ("static_shared", ctypes.c_uint32), ("dynamic_shared", ctypes.c_uint32),
        ("region_count", ctypes.c_uint32), ("fibers", ctypes.c_uint32), ("stack", ctypes.c_uint32),
        ("flush", ctypes.c_uint32), ("schedule", ctypes.c_uint32), ("checked", ctypes.c_uint32),
        ("zone_count", ctypes.c_uint32), ("faulted", ctypes.c_uint32), ("site", ctypes.c_uint32),
        ("at_block", ctypes.c_uint32 * 3), ("at_thread", ctypes.c_uint32 * 3), ("kind", ctypes.c_char * 32),
        ("detail", ctypes.c_char * 1024),
    )  # fmt: skip


def _counted(site: int, outermost: str, instruction: str, space: str, kind: str, bits: int) -> int:
    """Return the flags of `Counted` in state.hpp for an access."""
    return (space == "shared") | (kind == "load") << 1 | (kind == "matrix") << 2


@functools.cache
def _machine() -> ctypes.CDLL:
    """Load the machine, once: kernels call the functions of the one that was loaded first."""
    return ctypes.CDLL(str(build.machine()), mode=ctypes.RTLD_GLOBAL)


_one_launch = Lock()  # the machine has one state, so one launch runs at a time


class _Kernel:
    """The loaded library of an instance, and the facts about it that `translate.Kernel` lists."""

    def __init__(self, facts: dict[str, Any], checked: bool, count: bool):
        self.facts = facts
        self.checked = checked
        self.count = count
        self._machine = _machine()
        self._library = ctypes.CDLL(str(cache.find(build.FOLDER, facts["library"])))
        self._body = ctypes.cast(self._library.kernel, ctypes.c_void_p).value
        self._statics = [
            Region(ctypes.addressof(ctypes.c_char.in_dll(self._library, symbol)), size, name, read_only)
            for symbol, name, size, read_only in facts["statics"]
        ]
        self._zones = (ctypes.c_uint32 * (2 * len(facts["zones"])))(*(n for zone in facts["zones"] for n in zone))
        self._counted = np.array([_counted(*access) for access in facts["noted"]["accesses"]], np.uint8)

    def run(
        self, expression: str, grid: Sequence[int], block: Sequence[int], params: Sequence[bytes], shared: int,
        regions: Sequence[Region], schedule: Schedule,
    ) -> Counts:  # fmt: skip
        facts = self.facts
        buffers = [ctypes.create_string_buffer(p, len(p)) for p in params]
        pointers = (ctypes.c_void_p * len(buffers))(*map(ctypes.addressof, buffers))
        launch = _CLaunch(
            body=self._body, params=ctypes.addressof(pointers), seed=schedule.seed, step_limit=STEP_LIMIT,
            grid=tuple(grid), block=tuple(block), static_shared=facts["static_shared"], dynamic_shared=shared,
            fibers=facts["fibers"], stack=facts["stack"], flush=facts["flush"],
            schedule=("fifo", "lifo", "random").index(schedule.kind),
        )  # fmt: skip
        if self.checked:
            own = [Region(ctypes.addressof(b), len(b), f"parameter {i}", True) for i, b in enumerate(buffers)]
            whole = [r for r in (*regions, *self._statics, *own) if r.size]
            c_regions = (_CRegion * len(whole))(
                *(_CRegion(r.address, r.size, r.name.encode(), r.written, r.read_only) for r in whole)
            )
            hits = np.zeros(len(facts["sites"]), np.uint8)
            launch.checked, launch.hits = True, hits.ctypes.data
            launch.regions, launch.region_count = ctypes.addressof(c_regions), len(whole)
            launch.zones, launch.zone_count = ctypes.addressof(self._zones), len(facts["zones"])
        if self.count:
            tallies = np.zeros((len(facts["noted"]["accesses"]) + 1, 6), np.uint64)
            executed = np.zeros(len(facts["noted"]["mix"]) + 1, np.uint64)
            noted = tallies, executed, self._counted
            launch.tallies, launch.executed, launch.counted = (a.ctypes.data for a in noted)
        with _one_launch:
            status = self._machine.emu_launch(ctypes.byref(launch))
        if status == 2:
            raise MemoryError(f"{expression}: no memory for the threads of a block of {tuple(block)}")
        if launch.faulted:
            raise self._fault(expression, launch)
        lines = frozenset(tuple(facts["sites"][i]) for i in (np.flatnonzero(hits) if self.checked else ()))
        touched = () if not self.checked else tuple(
            Traffic(c.name.decode(), c.loaded, c.stored, c.read, c.wrote)
            for c in c_regions[: sum(r.size > 0 for r in regions)]
        )  # fmt: skip
        profile = None
        if self.count:
            warps = -(-prod(block) // 32) * prod(grid)
            profile = counts.profile(
                facts, tallies[:-1].tolist(), executed[:-1].tolist(), launch.barriers, prod(grid), warps
            )
        return Counts(launch.loaded, launch.stored, launch.barriers, lines, touched, profile)

    def _fault(self, expression: str, launch: _CLaunch) -> KernelFault:
        sites = self.facts["sites"]
        detail = re.sub(
            r"@(\d+)@",
            lambda m: "{}:{}".format(*sites[int(m[1])]) if int(m[1]) else "somewhere",
            launch.detail.decode(errors="replace"),
        )
        file, line = sites[launch.site]
        return KernelFault(
            launch.kind.decode(), detail, kernel=expression, file=file, line=line,
            block=tuple(launch.at_block), thread=tuple(launch.at_thread) if launch.at_thread[0] != 2**32 - 1 else (),
        )  # fmt: skip
