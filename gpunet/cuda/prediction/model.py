"""The time of a launch, from its work, its machine code and the numbers of a GPU.

A launch with a main loop takes a node of a graph and the cycles of the fullest multiprocessor. That
one gets ceil(blocks / multiprocessors) blocks and holds a few of them at once, in rounds. A round
takes the turns of its blocks, by the simulated cycles of a turn with so many blocks, and the cycles
before and after the loop. Then a split reduction is added up. A launch without a main loop takes a
node, the time to move its bytes or to compute, whichever is longer, and that of a split reduction.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import lcm, prod
from typing import NamedTuple

from gpunet.cuda import sass
from gpunet.cuda.prediction import kernels
from gpunet.cuda.prediction.gpus import WARP, Gpu, blocks_held
from gpunet.cuda.prediction.machine_code import Instruction, MachineCode, machine_code, multiply_adds
from gpunet.cuda.prediction.paths import taken_path
from gpunet.cuda.prediction.simulator import Steady, simulate
from gpunet.cuda.recording import Launch
from gpunet.cuda.waves import BLOCK_CYCLES, rounds
from gpunet.errors import BackendError
from gpunet.nvrtc import compiler

NODE_MICROSECONDS = 1.3
"""From the end of one launch of a CUDA graph to the start of the next."""
ACHIEVABLE = 0.9
"""The share of the memory's bandwidth that a copy reaches."""
NEAR_CYCLES, FAR_CYCLES = 36, 262
"""Cycles of a global load that the first-level cache answers, and the second-level cache."""
BUSY_SHARE = 0.7
"""A unit that is busy for at least this share of the cycles bounds a main loop; if none is, the loop
waits for latencies."""


class Prediction(NamedTuple):
    """What is predicted of one launch."""

    tile: str
    """Rows and columns of a block's results, as in "128x64"; empty if it has no tiles."""
    splits: int
    blocks: int
    held: int
    """Blocks that a multiprocessor holds at once."""
    waves: float
    """Blocks over those that the GPU holds at once."""
    turns: int
    """Turns of the main loop in a block."""
    microseconds: float
    bound: str
    """What takes most of the time: "node", "issue", "shared memory", "latency", "bandwidth",
    "merge", "arithmetic" without a main loop, or "start" for the cycles around a short one."""


def why_unavailable() -> str:
    """Return one line on why nothing can be predicted here; empty if it can."""
    return compiler.why_unavailable() or sass.why_unavailable()


def predict(launches: Iterable[Launch], gpu: Gpu) -> tuple[Prediction, ...]:
    """Predict the time of each launch on a GPU.

    Raises:
        BackendError: NVRTC or the disassembler is missing.
    """
    if why := why_unavailable():
        raise BackendError(f"predict: machine code cannot be read here: {why}")
    launches = tuple(launches)
    codes = machine_code({launch.kernel for launch in launches}, gpu.architecture)
    return tuple(_predict(launch, codes[launch.kernel], gpu) for launch in launches)


def _predict(launch: Launch, code: MachineCode, gpu: Gpu) -> Prediction:
    blocks, threads = prod(launch.grid), prod(launch.block)
    held = blocks_held(gpu, registers=code.registers, shared=code.shared + launch.shared, threads=threads)
    costs = {"node": NODE_MICROSECONDS}
    moved = (launch.read + launch.written) / (1e3 * ACHIEVABLE * gpu.bandwidth)
    if launch.work.turns and code.loop:
        costs |= _loop_costs(launch, code, gpu, held)
        if moved > sum(costs.values()) - NODE_MICROSECONDS:
            costs = {"node": NODE_MICROSECONDS, "bandwidth": moved}
    else:
        computed = launch.work.flops / gpu.peak
        costs |= {"arithmetic": computed} if computed > moved else {"bandwidth": moved}
        costs["merge"] = kernels.merge_cycles(launch) / (1e3 * gpu.clock)
    tile, work = kernels.tile_of(launch.kernel), launch.work
    waves = blocks / (held * gpu.multiprocessors)
    bound = max(costs, key=lambda name: costs[name])
    return Prediction(str(tile or ""), work.splits, blocks, held, waves, work.turns, sum(costs.values()), bound)


def _loop_costs(launch: Launch, code: MachineCode, gpu: Gpu, held: int) -> dict[str, float]:
    """Return the microseconds of a launch with a main loop, by what takes them."""

    def turn(blocks: int) -> Steady:
        return _turn(launch, code, gpu, blocks)

    found = rounds(prod(launch.grid), held, gpu.multiprocessors)
    loop = sum(times * launch.work.turns * turn(blocks).cycles for blocks, times in found.items())
    loop += kernels.totals_cycles(launch) * sum(blocks * times for blocks, times in found.items())
    fullest = turn(max(found))
    busiest = max(("issue", "shared memory"), key=lambda name: _busy(fullest, name))
    bound = busiest if _busy(fullest, busiest) >= BUSY_SHARE else "latency"
    cycles = {bound: loop, "start": BLOCK_CYCLES * sum(found.values()), "merge": kernels.merge_cycles(launch)}
    return {name: count / (1e3 * gpu.clock) for name, count in cycles.items()}


def _busy(steady: Steady, name: str) -> float:
    return steady.issue if name == "issue" else steady.shared


def _turn(launch: Launch, code: MachineCode, gpu: Gpu, blocks: int) -> Steady:
    """Return a turn of the main loop, mixed of those with loads from the two caches."""
    loop, turns = _issued(launch, code.loop)
    turns *= kernels.turns_in_loop(launch, multiply_adds(code.loop))
    far, fronts, warps = kernels.far_share(launch), kernels.wavefronts(launch.kernel), -(-prod(launch.block) // WARP)
    near_turn, far_turn = (
        simulate(loop, warps=warps, blocks=blocks, latency=cycles, wavefronts=fronts, lanes=gpu.limits.lanes)
        for cycles in (NEAR_CYCLES, FAR_CYCLES)
    )
    cycles, issue, shared = ((1 - far) * a + far * b for a, b in zip(near_turn, far_turn, strict=True))
    return Steady(cycles / turns, issue, shared)


def _issued(launch: Launch, loop: tuple[Instruction, ...]) -> tuple[tuple[Instruction, ...], int]:
    """Return (the instructions that a launch issues in some turns, how many turns these are)."""
    period_of = {place: kernels.period_of(launch, place) for place in {i.place for i in loop}}
    turns = lcm(*(period for period in period_of.values() if period))

    def path(turn: int) -> tuple[Instruction, ...]:
        return taken_path(loop, lambda i: not period_of[i.place] or turn % period_of[i.place] > 0)

    issued = (i._replace(place=(), jumps=()) for turn in range(1, turns + 1) for i in path(turn))
    return tuple(issued), turns
