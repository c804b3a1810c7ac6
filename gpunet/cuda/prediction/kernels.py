"""What a prediction assumes of gpunet's kernels: everything in this file changes with them.

The numbers come from reading the kernels and their machine code, and from no measurement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

from gpunet.cuda import waves
from gpunet.cuda.prediction.simulator import Wavefronts
from gpunet.cuda.recording import Launch
from gpunet.nvrtc import source
from gpunet.nvrtc.source import constant

STEP = constant("implicit_gemm.cuh", "TILE_K")
"""Places of the reduction in one turn of a main loop."""
TILE_STEPS = constant("implicit_gemm.cuh", "TILE_STEPS")
TOTALS = ("conv2d_weight_grad_tiled", "matmul_tiled")
"""Kernels that add the products of `TILE_STEPS` turns to totals in shared memory."""
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
    Condition(r"\bundo_activation<V>\(f, v", _has("y", "gate_y")),
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
    words = kernel.partition("<")[2].rstrip(">").split(", ")[1:6]
    return Tile(*map(int, words)) if name_of(kernel).endswith("_tiled") and len(words) == len(Tile._fields) else None


def name_of(kernel: str) -> str:
    """Return the name of an instance without its template arguments."""
    return kernel.partition("<")[0]


def wavefronts(kernel: str) -> Wavefronts:
    """Return the wavefronts of the main loop's shared accesses, by opcode and bits, where they are
    not the least that the opcode allows. Those that the counting emulator counts are these.
    """
    return {"LDS.128": 2, "LDS.64": 1} if tile_of(kernel) else {}


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
    return waves.merge_cycles(splits, tile.thread_rows * tile.thread_cols if tile else 4)


def totals_cycles(launch: Launch) -> float:
    """Return the cycles in which a scheduler issues what one block adds to its totals.

    For every result, that is an addition, and a load and a store of four results each.
    """
    tile = tile_of(launch.kernel)
    if tile is None or name_of(launch.kernel) not in TOTALS:
        return 0.0
    return launch.work.turns / TILE_STEPS * 2 * 1.5 * tile.thread_rows * tile.thread_cols


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
