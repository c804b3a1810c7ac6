"""What a prediction assumes of gpunet's kernels: everything in this file changes with them.

The numbers come from reading the kernels and their machine code, and from no measurement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

from gpunet.cuda.prediction.simulator import Wavefronts
from gpunet.cuda.recording import Launch
from gpunet.nvrtc import source
from gpunet.nvrtc.source import constant

STEP = constant("tile.cuh", "TILE_K")
"""Places of the reduction in one turn of a main loop."""
LOADS_IN_FLIGHT = 4
"""Partial sums that a thread of a last block loads before it adds them: one row of its results."""
MERGE_CYCLES = 330
"""Cycles from such loads until they are added: the latency of the second-level cache, and the sum."""
DEPTHWISE_ROWS = 2
"""Results that a thread of a depthwise weight gradient adds up, one after another, with the bias."""
BIAS_CYCLES = 850
"""Cycles by which a warp that also adds up the bias makes each turn of its block longer: 16 steps
that wait for shared memory, one after another."""
FAR = {"conv2d_weight_grad_tiled": (0.8, 0.5), "matmul_tiled": (0.9, 0.3)}
"""The share of the main loop's loads that the second-level cache answers, with loads of four
elements and of one. What blocks share stays near; each weight gradient's block has pixels of its own."""
FAR_GATHERED, FAR_SINGLE = (0.5, 0.9), 0.3
"""The same for convolutions and input gradients. With loads of four, a block's window of up to
`NEAR_CHANNELS` channels stays in the first-level cache for the next taps, and a larger one does not."""
NEAR_CHANNELS = 128


class Condition(NamedTuple):
    """When a part of a main loop is issued."""

    lines: str
    """A pattern of the source lines of this part, or of the calls that were inlined in it."""
    period: Callable[[Launch], int]
    """Whether a launch issues it: 0 for never, 1 for each turn, n for every n-th turn."""


def _has(*names: str) -> Callable[[Launch], int]:
    """Whether a launch has one of these arrays, which may be null, as 0 or 1."""
    return lambda launch: int(any(argument.name in names for argument in launch.arguments))


CONDITIONS = (
    Condition(r"\bcase ACTIVATION_(?!RELU\b)", lambda launch: 0),  # the activation of most nets
    Condition(r"\bload<V>\(out, y|\bundo_activation<V>\(f, v", _has("y", "gate_y")),
    Condition(
        r"height = g\.OH / 2, width|if \(p / 2 >= height|at = \(\(n \* height|load_gated<V>\(v, dy, y, at,|if \(mask\[at",
        _has("mask"),
    ),
    Condition(r"\bbiases\[j\]\.add\(", lambda launch: 0),  # see BIAS_CYCLES
    Condition(r"\) take_in<", lambda launch: constant("sums.cuh", "TILE_STEPS")),
)
"""The branches that a launch takes, as far as the host knows; the first condition that fits counts."""


class Tile(NamedTuple):
    """The template arguments of a tiled kernel."""

    rows: int
    cols: int
    thread_rows: int
    thread_cols: int
    vector: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols}"


def tile_of(kernel: str) -> Tile | None:
    """Return the tile of a tiled instance; None for another kernel."""
    if not name_of(kernel).endswith("_tiled"):
        return None
    return Tile(*(int(word) for word in kernel.partition("<")[2].rstrip(">").split(", ")[1:6]))


def name_of(kernel: str) -> str:
    """Return the name of an instance without its template arguments."""
    return kernel.partition("<")[0]


def wavefronts(kernel: str) -> Wavefronts:
    """Return the wavefronts of the main loop's shared accesses that conflict, by opcode and bits.

    Loads of 128 bits: by the map of lanes to results, a warp reads rows of `a` in 2 wavefronts and
    columns of `b` in 4, 3 on average. Transposed stores meet each bank twice, since four rows of
    TM + 4 floats are 16 banks apart.
    """
    tile = tile_of(kernel)
    if tile is None:
        return {}
    transposed = tile.vector == 4 and name_of(kernel) != "conv2d_weight_grad_tiled"
    return {"LDS.128": 3, "STS.32": 2} if transposed else {"LDS.128": 3}


def far_share(launch: Launch) -> float:
    """Return the share of the main loop's loads that the second-level cache answers."""
    tile = tile_of(launch.kernel)
    single = tile is None or tile.vector == 1
    name = name_of(launch.kernel)
    if name in FAR:
        return FAR[name][single]
    gathered = launch.arguments[0].shape[-1]  # the channels of x, or of dy
    return FAR_SINGLE if single else FAR_GATHERED[gathered > NEAR_CHANNELS]


def turns_in_loop(launch: Launch, multiply_adds: int) -> int:
    """Return how many turns one turn of the machine code's loop makes: 1 if it is not unrolled."""
    tile = tile_of(launch.kernel)
    return 1 if tile is None else max(round(multiply_adds / (tile.thread_rows * tile.thread_cols * STEP)), 1)


def merge_cycles(launch: Launch) -> int:
    """Return the cycles in which the last block adds the parts of a split reduction."""
    tile, splits = tile_of(launch.kernel), launch.work.splits
    if splits == 1:
        return 0
    rows = DEPTHWISE_ROWS if tile is None else tile.thread_rows + _adds_bias(launch)
    return rows * -(-splits // LOADS_IN_FLIGHT) * MERGE_CYCLES


def extra_cycles(launch: Launch) -> int:
    """Return the cycles by which one block's main loop is longer than the others'."""
    return BIAS_CYCLES * launch.work.turns if _adds_bias(launch) else 0


def period_of(launch: Launch, place: Iterable[str]) -> int:
    """Return when a launch issues an instruction of the main loop, as `Condition.period` says it.

    Args:
        place: the instruction's "file:line", then those of the calls around it.
    """
    lines = [_line(at) for at in place]
    for condition in CONDITIONS:
        if any(re.search(condition.lines, line) for line in lines):
            return condition.period(launch)
    return 1


@cache
def _line(place: str) -> str:
    """Return a line of a kernel's source; nothing if it is from one of CUDA's headers."""
    file, _, number = place.rpartition(":")
    path = source.kernels_folder() / file
    return path.read_text(encoding="utf-8").splitlines()[int(number) - 1] if path.exists() else ""


def _adds_bias(launch: Launch) -> bool:
    return launch.kernel.startswith("conv2d_weight_grad") and bool(_has("db")(launch))
