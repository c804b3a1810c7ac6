"""What a prediction assumes of gpunet's kernels: everything in this file changes with them.

The numbers come from reading the kernels and their machine code, and from no measurement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

from gpunet.cuda import waves
from gpunet.cuda.prediction.gpus import SCHEDULERS, TENSOR_PRECISIONS, WARP
from gpunet.cuda.prediction.simulator import Wavefronts
from gpunet.cuda.recording import Launch
from gpunet.nvrtc import source
from gpunet.nvrtc.source import constant

STEP = constant("implicit_gemm.cuh", "TILE_K")
"""Places of the reduction in one turn of a main loop without tensor cores."""
TURN_BYTES, STAGES, CHUNK_BYTES = (
    constant("tensor_cores.cuh", name) for name in ("TURN_BYTES", "STAGES", "CHUNK_BYTES")
)
"""With them: bytes of a row along the reduction in one turn, turns that shared memory holds, and bytes
of one asynchronous copy."""
TILE_STEPS = constant("implicit_gemm.cuh", "TILE_STEPS")
THREADS = constant("common.cuh", "THREADS")
"""Threads of a block without tensor cores."""
TOTALS = ("conv2d_weight_grad_tiled", "matmul_tiled")
"""Kernels that add the products of `TILE_STEPS` turns to totals in shared memory. With tensor cores,
those of 3xTF32 add them to totals in registers."""
TOTAL_CYCLES, REGISTER_TOTAL_CYCLES = 1.5, 2.0
"""Cycles of a scheduler for each result of a warp's lanes: an addition, with a load and a store of four
results each; or an addition and a register that becomes zero."""
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
    """How an instance of a kernel covers a product, by its template arguments."""

    rows: int
    cols: int
    thread_rows: int
    thread_cols: int
    vector: int
    """Elements of a load."""
    places: int
    """Places of the reduction in one turn of the main loop."""
    precision: str = "float32"
    """"float32" on the CUDA cores, or one of `TENSOR_PRECISIONS`."""
    terms: int = 1
    """Products on the tensor cores for each product of two elements: 3 in 3xTF32."""

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols}"

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.rows * self.cols // (self.thread_rows * self.thread_cols)

    @property
    def on_tensor_cores(self) -> bool:
        """Whether the tensor cores multiply."""
        return self.precision in TENSOR_PRECISIONS

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of a thread in one turn, in all terms."""
        return self.thread_rows * self.thread_cols * self.places * self.terms


def tile_of(kernel: str) -> Tile | None:
    """Return the tile of an instance whose kernel has tiles; None for another one."""
    name, (element, *words) = name_of(kernel), kernel.partition("<")[2].rstrip(">").split(", ")
    numbers = [int(word) for word in words[:5] if word.isdigit()]
    if len(numbers) < 5 or not name.endswith(("_tiled", "_mma")):
        return None
    if name.endswith("_tiled"):
        rows, cols, thread_rows, thread_cols, vector = numbers
        return Tile(rows, cols, thread_rows, thread_cols, vector, STEP)
    terms, rows, cols, thread_rows, thread_cols = numbers
    size = 4 if element == "float" else 2
    precision = "16 bits" if size == 2 else "tf32" if terms == 1 else "3xtf32"
    return Tile(rows, cols, thread_rows, thread_cols, CHUNK_BYTES // size, TURN_BYTES // size, precision, terms)


def name_of(kernel: str) -> str:
    """Return the name of an instance without its template arguments."""
    return kernel.partition("<")[0]


def wavefronts(kernel: str) -> Wavefronts:
    """Return the wavefronts of the main loop's shared accesses, by opcode and bits, where they are
    the least that the opcode allows. Those that the counting emulator counts are these. Tensor cores
    get their operands by other loads, and what is left are loads of which each lane has its own address.
    """
    tile = tile_of(kernel)
    if tile is None:
        return {}
    return {"LDS.128": 4, "LDS.64": 2} if tile.on_tensor_cores else {"LDS.128": 2, "LDS.64": 1}


def far_share(launch: Launch) -> float:
    """Return the share of the main loop's loads that the second-level cache answers.

    Those of the tensor cores' kernels go past the first-level cache.
    """
    tile = tile_of(launch.kernel)
    if tile and tile.on_tensor_cores:
        return 1.0
    single = tile is None or tile.vector == 1
    name = name_of(launch.kernel)
    if name in FAR:
        return FAR[name][single]
    gathered = launch.arguments[0].shape[-1] if launch.arguments else NEAR_CHANNELS  # the channels of x, or of dy
    return FAR_SINGLE if single else FAR_GATHERED[gathered > NEAR_CHANNELS]


def turns_in_loop(launch: Launch, multiply_adds: int) -> int:
    """Return how many turns one turn of the machine code's loop makes: 1 if it is not unrolled."""
    tile = tile_of(launch.kernel)
    return 1 if tile is None else max(round(multiply_adds / tile.multiply_adds), 1)


def shared_of(kernel: str) -> int:
    """Return the bytes of dynamic shared memory with which an instance that has tiles is launched."""
    tile = tile_of(kernel)
    if tile is None:
        return 0
    if tile.on_tensor_cores:
        return STAGES * TURN_BYTES * (tile.rows + tile.cols)
    return 4 * tile.rows * tile.cols if name_of(kernel) in TOTALS else 0


def merge_cycles(launch: Launch) -> int:
    """Return the cycles in which the last block adds the parts of a split reduction."""
    tile, splits = tile_of(launch.kernel), launch.work.splits
    return waves.merge_cycles(splits, tile.rows * tile.cols // THREADS if tile else 4)


def totals_cycles(launch: Launch) -> float:
    """Return the cycles in which a scheduler issues what one block adds to its totals."""
    tile = tile_of(launch.kernel)
    if tile is None:
        return 0.0
    cycles = TOTAL_CYCLES if name_of(launch.kernel) in TOTALS else 0.0
    if tile.terms > 1:
        cycles = REGISTER_TOTAL_CYCLES
    warps = tile.threads / (WARP * SCHEDULERS)  # of one scheduler
    return launch.work.turns / TILE_STEPS * warps * cycles * tile.thread_rows * tile.thread_cols


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
    """Return a line of a kernel's source; nothing if it is from one of CUDA's headers, or behind the
    last line, where the compiler places some instructions."""
    file, _, number = place.rpartition(":")
    path = source.kernels_folder() / file
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return dict(enumerate(lines, start=1)).get(int(number), "")
