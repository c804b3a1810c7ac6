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
from gpunet.cuda.prediction.simulator import GLOBAL_LOADS, Steady, simulate
from gpunet.cuda.recording import Launch
from gpunet.cuda.waves import BLOCK_CYCLES, rounds
from gpunet.cuda.work import NO_PRODUCT
from gpunet.errors import BackendError
from gpunet.nvrtc import compiler

NODE_MICROSECONDS = 1.3
"""From the end of one launch of a CUDA graph to the start of the next."""
ACHIEVABLE = 0.9
"""The share of the memory's bandwidth that a copy reaches."""
NEAR_CYCLES, FAR_CYCLES = 36, 262
"""Cycles of a global load that the first-level cache answers, and the second-level cache."""
CACHE_BYTES = 32
"""Bytes that the second-level cache gives one multiprocessor in a cycle while it serves all of them.
It is assumed, from what is published of Hopper, and only tensor cores ask for as much."""
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
    """What takes most of the time: "node", "issue", "shared memory", "tensor cores", "L2 cache",
    "latency", "bandwidth", "merge", "arithmetic" without a main loop, or "start" for the cycles around a short one."""
    precision: str = "float32"
    """Whose peak the share counts: "float32" without tensor cores, or one of `TENSOR_PRECISIONS`."""
    share: float = 0.0
    """The FLOPs over those that the GPU computes at that peak in the same time; 0 without a product."""


class Turn(NamedTuple):
    """One turn of an instance's main loop on a full multiprocessor."""

    kernel: str
    registers: int
    threads: int
    held: int
    """Blocks that the multiprocessor holds at once."""
    alone: float
    """Cycles of a turn of one block that has the multiprocessor for itself."""
    together: float
    """Cycles in which all blocks that it holds make one turn."""
    precision: str
    share: float
    """The share of the peak of `precision` that they reach together."""
    cache: float
    """Bytes in a cycle that they load from the second-level cache."""
    bound: str


def why_unavailable() -> str:
    """Return one line on why nothing can be predicted here; empty if it can."""
    return compiler.why_unavailable() or sass.why_unavailable()


def predict(launches: Iterable[Launch], gpu: Gpu) -> tuple[Prediction, ...]:
    """Predict the time of each launch on a GPU.

    Raises:
        BackendError: NVRTC or the disassembler is missing.
    """
    launches = tuple(launches)
    codes = _codes("predict", {launch.kernel for launch in launches}, gpu)
    return tuple(_predict(launch, codes[launch.kernel], gpu) for launch in launches)


def _predict(launch: Launch, code: MachineCode, gpu: Gpu) -> Prediction:
    blocks, held = prod(launch.grid), _held(launch, code, gpu)
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
    bound, microseconds = max(costs, key=lambda name: costs[name]), sum(costs.values())
    precision = tile.precision if tile else "float32"
    share = launch.work.flops / (microseconds * gpu.peak_of(precision)) if launch.work.flops else 0.0
    return Prediction(
        str(tile or ""), work.splits, blocks, held, waves, work.turns, microseconds, bound, precision, share
    )


def turns(names: Iterable[str], gpu: Gpu) -> tuple[Turn, ...]:
    """Predict a turn of the main loop of instances that have tiles, in a launch without a gate.

    Raises:
        BackendError: NVRTC or the disassembler is missing.
    """
    names = tuple(names)
    codes = _codes("turns", names, gpu)
    return tuple(_one_turn(name, tile, codes[name], gpu) for name in names if (tile := kernels.tile_of(name)))


def _codes(operation: str, names: Iterable[str], gpu: Gpu) -> dict[str, MachineCode]:
    """Return the machine code of instances, or raise a BackendError that names the operation."""
    if why := why_unavailable():
        raise BackendError(f"{operation}: machine code cannot be read here: {why}")
    return machine_code(names, gpu.architecture)


def _one_turn(kernel: str, tile: kernels.Tile, code: MachineCode, gpu: Gpu) -> Turn:
    launch = Launch(None, kernel, (1,), (tile.threads,), (), NO_PRODUCT, kernels.shared_of(kernel))
    held = _held(launch, code, gpu)
    alone, together = (_turn(launch, code, gpu, blocks) for blocks in (1, held))
    products = held * tile.rows * tile.cols * tile.places
    return Turn(
        kernel, code.registers, tile.threads, held, alone.cycles, together.cycles, tile.precision,
        products / (together.cycles * gpu.multiply_adds(tile.precision)), CACHE_BYTES * together.cache, _bound(together),
    )  # fmt: skip


def _held(launch: Launch, code: MachineCode, gpu: Gpu) -> int:
    """Return how many blocks of a launch a multiprocessor holds."""
    threads = prod(launch.block)
    return blocks_held(gpu, registers=code.registers, shared=code.shared + launch.shared, threads=threads)


def _loop_costs(launch: Launch, code: MachineCode, gpu: Gpu, held: int) -> dict[str, float]:
    """Return the microseconds of a launch with a main loop, by what takes them."""

    def turn(blocks: int) -> Steady:
        return _turn(launch, code, gpu, blocks)

    found = rounds(prod(launch.grid), held, gpu.multiprocessors)
    loop = sum(times * launch.work.turns * turn(blocks).cycles for blocks, times in found.items())
    loop += kernels.totals_cycles(launch) * sum(blocks * times for blocks, times in found.items())
    cycles = {
        _bound(turn(max(found))): loop,
        "start": BLOCK_CYCLES * sum(found.values()),
        "merge": kernels.merge_cycles(launch),
    }
    return {name: count / (1e3 * gpu.clock) for name, count in cycles.items()}


def _bound(steady: Steady) -> str:
    """Return the unit that is busiest, or "latency" if none is busy for `BUSY_SHARE`."""
    busy = {
        "issue": steady.issue, "shared memory": steady.shared, "tensor cores": steady.tensor, "L2 cache": steady.cache,
    }  # fmt: skip
    busiest = max(busy, key=lambda name: busy[name])
    return busiest if busy[busiest] >= BUSY_SHARE else "latency"


def _turn(launch: Launch, code: MachineCode, gpu: Gpu, blocks: int) -> Steady:
    """Return a turn of the main loop, mixed of those with loads from the two caches."""
    loop, turns = _issued(launch, code.loop)
    turns *= kernels.turns_in_loop(launch, multiply_adds(code.loop))
    far, fronts, warps = kernels.far_share(launch), kernels.wavefronts(launch.kernel), -(-prod(launch.block) // WARP)
    mixed = [0.0] * len(Steady._fields)
    for share, cycles in ((1 - far, NEAR_CYCLES), (far, FAR_CYCLES)):
        if share:
            steady = simulate(
                loop, warps=warps, blocks=blocks, latency=cycles, wavefronts=fronts,
                lanes=gpu.limits.lanes, mma=gpu.mma_cycles,
            )  # fmt: skip
            mixed = [total + share * number for total, number in zip(mixed, steady, strict=True)]
    loaded = far * blocks * warps * WARP * sum(i.bits // 8 for i in loop if i.base in GLOBAL_LOADS)
    return _limited(Steady(*mixed), loaded / CACHE_BYTES, turns)


def _limited(steady: Steady, least: float, turns: int) -> Steady:
    """Return what one turn of `turns` takes, where the second-level cache needs `least` cycles for all."""
    cycles = max(steady.cycles, least)
    issue, shared, tensor = (share * steady.cycles / cycles for share in (steady.issue, steady.shared, steady.tensor))
    return Steady(cycles / turns, issue, shared, tensor, least / cycles)


def _issued(launch: Launch, loop: tuple[Instruction, ...]) -> tuple[tuple[Instruction, ...], int]:
    """Return (the instructions that a launch issues in some turns, how many turns these are)."""
    period_of = {place: kernels.period_of(launch, place) for place in {i.place for i in loop}}
    turns = lcm(*(period for period in period_of.values() if period))

    def path(turn: int) -> tuple[Instruction, ...]:
        return taken_path(loop, lambda i: not period_of[i.place] or turn % period_of[i.place] > 0)

    issued = (i._replace(place=(), jumps=()) for turn in range(1, turns + 1) for i in path(turn))
    return tuple(issued), turns
