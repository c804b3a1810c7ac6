"""Simulates how one multiprocessor issues the main loop of the blocks that it holds.

A multiprocessor has four schedulers. In each cycle, a scheduler issues one instruction of one of its
warps: of the same warp as before if it can, or else of the first that can. A warp can issue when its
last instruction's stall is over, the scoreboards that its next one waits for are free, and the
pipe that executes it takes an instruction; one of the pipes is the scheduler's tensor core. All
schedulers share one unit for shared memory and for the first-level cache, which takes one wavefront
in a cycle. Asynchronous copies past that cache take it when they land. A group of copies has landed
when all copies up to its end have, so that groups land in their order. What it does not know:
bandwidth of the caches and of memory, the instruction cache, and branches: every instruction is
issued.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from pathlib import Path
from typing import NamedTuple

from gpunet import cache
from gpunet.cuda.prediction.gpus import SCHEDULERS, WARP, WHOLE_PRODUCT
from gpunet.cuda.prediction.machine_code import NO_SCOREBOARD, Instruction, matrix_products

WARM_TURNS, COUNTED_TURNS = 6, 18
"""Turns of each block, on average, before the cycles are counted, and while they are."""
STAGGER = 430
"""Cycles between the starts of two blocks: without it they would wait for memory in step."""
BARRIER_CYCLES = 12
"""Cycles from the arrival of a block's last warp until its warps go on."""
TO_MEMORY_CYCLES, LOAD_CYCLES, STORE_CYCLES = 4, 22, 4
"""Cycles from the issue of a shared access to its first wavefront, and from its last wavefront
until a load's result is there or a store is done."""
XU_CYCLES, TENSOR_CYCLES, OTHER_MEMORY_CYCLES, OTHER_CYCLES = 24, 33, 28, 10
"""Latencies of the slow functions, of matrix products, of special registers and constants, and of
anything else that holds a scoreboard. That of a matrix product is assumed, and shows only where
ptxas gives the product a scoreboard: for sm_80 and later it waits by stalls alone."""
MMA_CYCLES = 8
"""Cycles for which an `mma` of m16n8k16 keeps a tensor core of Hopper."""

FMA, HALF, ALU, XU, MEMORY, UNIFORM, CONTROL, BARRIER, TENSOR = range(9)
"""The pipes of a scheduler. Half of the lanes that multiply and add also take integers: `HALF`."""
PIPE_CYCLES = (1, 2, 2, 8, 2, 2, 0, 0, 0)
"""Cycles in which a pipe is busy with one warp's instruction: 32 threads over its lanes. Those of a
matrix product depend on its shape and on the GPU."""
_PIPES = {
    FMA: ("FFMA", "FMUL", "FADD"),
    HALF: ("IMAD", "HFMA2", "HADD2", "HMUL2"),
    XU: ("MUFU", "I2F", "F2I", "I2FP", "F2F"),
    MEMORY: ("LDS", "STS", "LDG", "STG", "LDSM", "LDGSTS", "LDC", "S2R", "S2UR", "R2UR"),
    CONTROL: ("BRA", "BSSY", "BSYNC", "WARPSYNC", "BREAK", "EXIT", "NOP", "DEPBAR", "LDGDEPBAR"),
    BARRIER: ("BAR",),
    TENSOR: ("HMMA",),
    UNIFORM: ("CS2R",),
}
_PIPE_OF = {base: pipe for pipe, bases in _PIPES.items() for base in bases}
GLOBAL_LOADS = ("LDG", "LDGSTS")
"""Instructions that load from global memory."""

Wavefronts = Mapping[str, float]
"""Wavefronts of a warp's shared access, by opcode and bits as in ``"LDS.128"``, where they are not
the least."""


class Steady(NamedTuple):
    """The steady state of a main loop."""

    cycles: float
    """Cycles in which each of the blocks makes one turn."""
    issue: float
    """The share of cycles in which a scheduler issues, or in which its busiest pipe is busy."""
    shared: float
    """The share of cycles in which the unit of shared memory takes a wavefront."""
    tensor: float = 0.0
    """The share of cycles in which the tensor cores are busy."""
    cache: float = 0.0
    """The share of the second-level cache's bandwidth that is used; the simulation leaves it 0."""


@dataclass(frozen=True, slots=True)
class _Step:
    """An instruction as the simulation sees it."""

    pipe: int
    busy: float
    stall: int
    write: int
    read: int
    waits: tuple[int, ...]
    wavefronts: float
    landing: float
    """Wavefronts in which an asynchronous copy lands in shared memory."""
    latency: int
    """Cycles from the last wavefront, or from the issue if there is none, until it is done."""
    group: str
    """"copy" for an asynchronous copy, "commit" for the end of a group of them, or nothing."""
    pending: tuple[int, int] | None
    """(scoreboard, n): it waits until at most n of those who hold the scoreboard are left."""


def simulate(
    loop: Sequence[Instruction], *, warps: int, blocks: int, latency: int, wavefronts: Wavefronts,
    lanes: int = 128, mma: float = MMA_CYCLES,
) -> Steady:  # fmt: skip
    """Return the steady state of a loop; it is computed once, and then kept in the cache.

    Args:
        warps: of one block.
        blocks: that the multiprocessor holds.
        latency: cycles of a global load.
        wavefronts: of shared accesses that take more or fewer than the least.
        lanes: multiply-adds that the multiprocessor starts in a cycle.
        mma: cycles for which an `mma` of m16n8k16 keeps its tensor core.
    """
    own = Path(__file__).read_bytes()
    depends_on = (tuple(loop), warps, blocks, latency, sorted(wavefronts.items()), lanes, mma, own)

    def make(path: Path) -> None:
        steps = [_step(instruction, latency, wavefronts, WARP * SCHEDULERS // lanes, mma) for instruction in loop]
        path.write_text(json.dumps(_Multiprocessor(steps, warps, blocks).run()), encoding="utf-8")

    return Steady(*json.loads(cache.keep("simulated", f"{cache.digest(*depends_on)}.json", make).read_text("utf-8")))


def least_wavefronts(instruction: Instruction) -> float:
    """Return the wavefronts, of 128 bytes each, of a warp's access without a conflict.

    In a load of shared memory, two lanes share an address, as in a product of tiles; one of matrices
    takes a wavefront for each of them. A load of global memory takes the unit once to look up its
    lines, and once to move its bytes; an asynchronous copy moves them when it lands, and looks nothing
    up where it goes past that cache.
    """
    words = max(1, instruction.bits // 32)
    looked_up = 0 if ".BYPASS" in instruction.opcode else words
    per_access = {"LDS": max(1, words // 2), "STS": words, "LDG": 2 * words, "LDGSTS": looked_up}
    if instruction.base == "LDSM":
        return next((n for n in (4, 2) if instruction.opcode.endswith(f".{n}")), 1)
    return per_access.get(instruction.base, 0)


def landing_wavefronts(instruction: Instruction) -> float:
    """Return the wavefronts in which a warp's asynchronous copy lands; 0 for anything else."""
    return max(1, instruction.bits // 32) if instruction.base == "LDGSTS" else 0


def matrix_cycles(instruction: Instruction, mma: float) -> float:
    """Return the cycles for which a matrix product keeps its unit; products of TF32 take twice as long.

    Args:
        mma: those of m16n8k16, which has elements of 16 bits.
    """
    return mma * matrix_products(instruction) / WHOLE_PRODUCT * (2 if ".TF32" in instruction.opcode else 1)


def _step(instruction: Instruction, latency: int, wavefronts: Wavefronts, multiply: int, mma: float) -> _Step:
    base = instruction.base
    pipe = _PIPE_OF.get(base, UNIFORM if base.startswith("U") else ALU)
    busy = {FMA: multiply, TENSOR: matrix_cycles(instruction, mma)}.get(pipe, PIPE_CYCLES[pipe])
    fronts = wavefronts.get(f"{base}.{instruction.bits}", least_wavefronts(instruction))
    if fronts or base in GLOBAL_LOADS:
        after = latency if base in GLOBAL_LOADS else STORE_CYCLES if base == "STS" else LOAD_CYCLES
    else:
        after = {MEMORY: OTHER_MEMORY_CYCLES, XU: XU_CYCLES, TENSOR: TENSOR_CYCLES}.get(pipe, OTHER_CYCLES)
    pending = None
    if instruction.opcode.startswith("DEPBAR.LE"):
        scoreboard, most, *_ = instruction.operands.split(",")
        pending = int(scoreboard.strip().removeprefix("SB")), int(most, 0)
    return _Step(
        pipe, busy, max(instruction.stall, 1),
        instruction.write, instruction.read, tuple(b for b in range(6) if instruction.wait >> b & 1),
        fronts, landing_wavefronts(instruction), after, {"LDGSTS": "copy", "LDGDEPBAR": "commit"}.get(base, ""), pending,
    )  # fmt: skip


class _Warp:
    """Where a warp stands, and until when its scoreboards are held."""

    __slots__ = ("at", "block", "copied", "held", "ready", "resume")

    def __init__(self, block: int):
        self.at, self.block = 0, block
        self.ready = self.resume = float(block * STAGGER)  # infinite while it waits at a barrier
        self.held: list[list[float]] = [[] for _ in range(6)]
        self.copied = 0.0

    def wait_for(self, step: _Step) -> None:
        """Do not issue `step` before the scoreboards that it waits for are free."""
        for b in step.waits:
            if self.held[b]:
                self.ready = max(self.ready, *self.held[b])
                self.held[b].clear()
        if step.pending:
            scoreboard, most = step.pending
            ends = sorted(self.held[scoreboard], reverse=True)
            if len(ends) > most:
                self.ready = max(self.ready, ends[most])
                self.held[scoreboard] = ends[:most]


class _Multiprocessor:
    """Runs a loop on one multiprocessor until enough turns are counted."""

    def __init__(self, steps: Sequence[_Step], warps: int, blocks: int):
        self.steps, self.warps = steps, warps
        self.all = [_Warp(w // warps) for w in range(warps * blocks)]
        self.groups = [self.all[s::SCHEDULERS] for s in range(SCHEDULERS)]
        self.last = [group[0] if group else None for group in self.groups]
        self.free = [[0.0] * len(PIPE_CYCLES) for _ in range(SCHEDULERS)]
        self.wake = [0.0 if group else inf for group in self.groups]
        self.arrived: list[list[_Warp]] = [[] for _ in range(blocks)]
        self.memory = 0.0  # when the unit of shared memory is free
        self.landing: list[tuple[float, float]] = []  # a heap: when copies land, and their wavefronts

    def run(self) -> Steady:
        """Return the steady state, from the cycles between two numbers of issued instructions."""
        turn = len(self.steps) * len(self.all)
        warm, end = WARM_TURNS * turn, (WARM_TURNS + COUNTED_TURNS) * turn
        issued, now, start, stop = 0, 0.0, 0.0, 0.0
        while issued < end:
            for s in range(SCHEDULERS):
                if self.wake[s] <= now and self._issue(s, now):
                    issued += 1
                    start, stop = now if issued <= warm else start, now
            now = max(now + 1, min(self.wake))
        cycles = (stop - start) / COUNTED_TURNS
        busy = [sum(step.busy for step in self.steps if step.pipe == pipe) for pipe in range(len(PIPE_CYCLES))]
        turns = -(-len(self.all) // SCHEDULERS) / cycles  # of the fullest scheduler's warps in a cycle
        fronts = sum(step.wavefronts + step.landing for step in self.steps)
        issue = max(len(self.steps), *busy[:TENSOR]) * turns
        return Steady(cycles, issue, fronts * len(self.all) / cycles, busy[TENSOR] * turns)

    def _issue(self, s: int, now: float) -> bool:
        """Let a scheduler issue an instruction, if it can -> whether it did."""
        free, steps, warp = self.free[s], self.steps, self.last[s]
        if warp is None or warp.ready > now or free[steps[warp.at].pipe] > now:
            soonest = inf
            for warp in self.groups[s]:
                possible = max(warp.ready, free[steps[warp.at].pipe])
                if possible <= now:
                    break
                soonest = min(soonest, possible)
            else:
                self.wake[s] = soonest
                return False
        self.last[s], self.wake[s] = warp, now + 1
        step = steps[warp.at]
        free[step.pipe] = now + step.busy
        self._execute(warp, step, now)
        return True

    def _execute(self, warp: _Warp, step: _Step, now: float) -> None:
        """Hold the scoreboards of an instruction, and say when its warp can issue the next one."""
        taken, in_memory = now, step.wavefronts > 0 or step.group == "copy"
        if in_memory:
            taken = self._take(now + TO_MEMORY_CYCLES, step.wavefronts)
        done = taken + step.latency
        if step.group == "copy":
            heappush(self.landing, (done, step.landing))
            warp.copied = max(warp.copied, done + step.landing)
        elif step.group == "commit":
            done = max(done, warp.copied)
        if step.write != NO_SCOREBOARD:
            warp.held[step.write].append(done)
        if step.read != NO_SCOREBOARD:
            warp.held[step.read].append(taken if in_memory else done)
        warp.ready = now + step.stall
        warp.at = (warp.at + 1) % len(self.steps)
        warp.wait_for(self.steps[warp.at])
        if step.pipe == BARRIER:
            self._arrive(warp, now)

    def _take(self, start: float, wavefronts: float) -> float:
        """Give the unit of shared memory wavefronts, behind copies that land before -> when it is done."""
        while self.landing and self.landing[0][0] <= start:
            landed, fronts = heappop(self.landing)
            self.memory = max(self.memory, landed) + fronts
        self.memory = max(self.memory, start) + wavefronts
        return self.memory

    def _arrive(self, warp: _Warp, now: float) -> None:
        """Hold a warp at a barrier until all warps of its block are there."""
        there = self.arrived[warp.block]
        there.append(warp)
        warp.resume, warp.ready = warp.ready, inf
        if len(there) == self.warps:
            for other in there:
                other.ready = max(other.resume, now + BARRIER_CYCLES)
            there.clear()
            self.wake = [min(wake, now + 1) for wake in self.wake]
