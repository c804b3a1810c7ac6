"""How a product is cut into blocks: a pure function of its shape and of the device's description.

Of all tiles, and of all numbers of parts into which the reduction may be split, `lay_out` takes
those with the least predicted time. The prediction counts whole waves: `ceil(blocks /
multiprocessors)` blocks come to the fullest multiprocessor, which holds a few at once. Only a table
that the user has measured and named goes before this rule, see `gpunet.cuda.tile_table`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from gpunet.cuda.description import Description
from gpunet.cuda.tile_lists import STAGES, TURN_BYTES, Tile
from gpunet.cuda.tile_table import TileChoice
from gpunet.cuda.waves import BLOCK_CYCLES, counters_of, merge_cycles, rounds
from gpunet.cuda.work import Work

TURN_CYCLES = {
    (128, 128, 4): (2750, 5200), (128, 64, 4): (1550, 2850), (64, 64, 4): (1050, 2400), (128, 32, 4): (1100, 2700),
    (128, 16, 4): (1000, 2300), (128, 64, 1): (1800, 3400), (128, 32, 1): (1300, 2900), (64, 64, 1): (1050, 2500),
    (128, 16, 1): (1000, 2400), (64, 16, 1): (800, 1900), (32, 64, 1): (850, 1900), (32, 32, 1): (650, 1450),
}  # fmt: skip
"""Cycles of a turn on a multiprocessor, by the tile's rows and columns and the length of its loads:
of one block alone, and of the blocks that a multiprocessor holds, all together. They are predicted
from the machine code for sm_90, without a gate; only their ratios matter here."""
MMA_CYCLES = {
    (128, 256, 1): (1650, 1650, 1), (128, 128, 1): (1050, 1400, 2), (128, 64, 1): (850, 1350, 3), (64, 64, 1): (460, 1300, 5),
    (128, 128, 3): (2100, 2100, 1), (64, 64, 3): (790, 1500, 3),
}  # fmt: skip
"""The same on the tensor cores, by the tile's rows, columns and terms; and the blocks that the
registers of a multiprocessor hold. A turn has as many products of 16 bits as of TF32."""
LEAST_TURNS = 2
"""Turns of a split at least, if there is more than one split."""
MOST_TURNS = 256
"""Turns of a split at most, where a sum is long. A thread adds up the products of 64 places of the
reduction, and then these sums; more of them would lose digits."""
TOTALED = ("conv2d_weight_grad", "matmul")
"""The kernels that keep the totals of their results in shared memory, where their sums are long."""


class Layout(NamedTuple):
    """How a product is launched."""

    tile: Tile
    tiles: int
    turns: int
    """Turns of the main loop in a block, at most."""
    splits: int
    """Parts of the reduction."""

    @property
    def blocks(self) -> int:
        """Blocks of the launch."""
        return self.tiles * self.splits

    @property
    def counters(self) -> int:
        """Counters by which the splits of all tiles tell that they have arrived."""
        return self.tiles * counters_of(self.splits)

    def work(self, flops: int) -> Work:
        """The work of the launch, which has so many floating-point operations."""
        return Work(flops, self.turns, self.splits)


def count_tiles(rows: int, cols: int, tile: tuple[int, ...]) -> int:
    """Blocks that cover rows x cols results."""
    return -(-rows // tile[0]) * -(-cols // tile[1])


def limits_of(kernel: str) -> dict[str, Any]:
    """The options of `lay_out` that a kernel has for all of its products."""
    return {"most_turns": MOST_TURNS, "totals": True} if kernel in TOTALED else {}


@lru_cache(maxsize=4096)
def lay_out(
    tiles: tuple[Tile, ...], rows: int, cols: int, depth: int, device: Description, *,
    left: bool, right: bool, copies: int = 1, most_turns: int | None = None, totals: bool = False,
    chosen: TileChoice | None = None,
) -> Layout:  # fmt: skip
    """Lay out `copies` products of rows x cols results and a reduction of `depth` places.

    Args:
        tiles: those of the kernel.
        left, right: whether loads of four elements are allowed for the two matrices.
        copies: groups of a convolution, times the residues of a strided input gradient.
        most_turns: turns of a split at most; any number if None.
        totals: whether the kernel keeps the totals of its results in shared memory.
        chosen: what the device's table says of this product. Where it is not legal for this call,
            it is ignored, and the predicted layout is taken.
    """
    options: dict[str, Any] = {
        "left": left, "right": right, "copies": copies, "most_turns": most_turns, "totals": totals
    }  # fmt: skip
    if chosen is not None:
        layout = layout_of(chosen, tiles, rows, cols, depth, device, **options)
        if layout is not None:
            return layout
    found = candidates(tiles, rows, cols, depth, device, **options)
    return min(found, key=lambda pair: (pair[0], pair[1].splits))[1]


def candidates(
    tiles: Iterable[Tile], rows: int, cols: int, depth: int, device: Description, *,
    left: bool, right: bool, copies: int = 1, most_turns: int | None = None, totals: bool = False,
) -> list[tuple[float, Layout]]:  # fmt: skip
    """The layouts among which `lay_out` chooses, with their predicted cycles; its arguments."""
    found: list[tuple[float, Layout]] = []
    for tile in tiles:
        if not _legal(tile, device, left=left, right=right, totals=totals):
            continue
        turns = _turns(tile, depth)
        covered = count_tiles(rows, cols, tile) * copies
        held = held_at_once(tile, device, totals)
        least = _least_splits(turns, most_turns)
        for splits in _numbers_of_splits(covered, turns, least, held * device.multiprocessors):
            layout = _split(tile, covered, turns, splits)
            found.append((predict_cycles(layout, held, device), layout))
    return found


def layout_of(
    chosen: TileChoice, tiles: Iterable[Tile], rows: int, cols: int, depth: int, device: Description, *,
    left: bool, right: bool, copies: int = 1, most_turns: int | None = None, totals: bool = False,
) -> Layout | None:  # fmt: skip
    """The layout of a chosen tile and number of splits; None if a product of these arguments of
    `lay_out` cannot be launched so."""
    for tile in tiles:
        if (tile.rows, tile.cols, tile.left, tile.right) == chosen[:4]:
            turns, legal = _turns(tile, depth), _legal(tile, device, left=left, right=right, totals=totals)
            if legal and _least_splits(turns, most_turns) <= chosen.splits <= turns:
                return _split(tile, count_tiles(rows, cols, tile) * copies, turns, chosen.splits)
    return None


def _legal(tile: Tile, device: Description, *, left: bool, right: bool, totals: bool) -> bool:
    return fits(tile, left, right) and shared_bytes(tile, totals) <= device.shared


def _turns(tile: Tile, depth: int) -> int:
    """Turns of the main loop for the whole reduction."""
    return max(-(-depth // tile.places), 1)


def _least_splits(turns: int, most_turns: int | None) -> int:
    return 1 if most_turns is None else -(-turns // most_turns)


def _split(tile: Tile, covered: int, turns: int, splits: int) -> Layout:
    """The layout with at most so many splits, none of which is empty."""
    each = -(-turns // splits)
    return Layout(tile, covered, each, -(-turns // each))


def held_at_once(tile: Tile, device: Description, totals: bool) -> int:
    """Blocks that a multiprocessor holds at once, by its registers and its shared memory."""
    return min(resident(tile), max(device.shared_of_multiprocessor // (shared_bytes(tile, totals) + 1024), 1))


def fits(tile: Tile, left: bool, right: bool) -> bool:
    """Whether a tile's loads are allowed, where loads of four elements are or are not."""
    return (left or tile.left == 1) and (right or tile.right == 1)


def resident(tile: Tile) -> int:
    """Blocks that the registers of a multiprocessor hold, as the kernels' launch bounds ask."""
    if tile.terms:
        return MMA_CYCLES[tile.rows, tile.cols, tile.terms][2]
    return 2 if tile.thread_rows * tile.thread_cols > 16 else 3


def shared_bytes(tile: Tile, totals: bool) -> int:
    """Bytes of shared memory of a block: its buffers, its totals, and the tables beside them."""
    tables = (7 if not tile.terms else 10 if tile.cols <= 128 else 13) * 1024
    buffers = 0 if tile.terms else 2 * tile.places * (tile.rows + tile.cols + 8) * 4
    return buffers + dynamic_bytes(tile, totals) + tables


def dynamic_bytes(tile: Tile, totals: bool) -> int:
    """Bytes of the launch's dynamic shared memory: the totals, or the buffers of the tensor cores."""
    if tile.terms:
        return STAGES * TURN_BYTES * (tile.rows + tile.cols)
    return tile.rows * tile.cols * 4 if totals else 0


def predict_cycles(layout: Layout, held: int, device: Description) -> float:
    """Cycles until the fullest multiprocessor has computed its blocks, `held` at once."""
    tile, turns, splits = layout.tile, layout.turns, layout.splits
    if tile.terms:
        alone, together, _ = MMA_CYCLES[tile.rows, tile.cols, tile.terms]
    else:
        alone, together = TURN_CYCLES[tile.rows, tile.cols, tile.left]

    def cycles_of(blocks: int) -> float:
        share = (blocks - 1) / max(resident(tile) - 1, 1)
        return turns * (alone + (together - alone) * share) + BLOCK_CYCLES

    cycles = sum(times * cycles_of(n) for n, times in rounds(layout.blocks, held, device.multiprocessors).items())
    return cycles + merge_cycles(splits, tile.thread_rows * tile.thread_cols)


def _numbers_of_splits(tiles: int, turns: int, least: int, places: int) -> Iterable[int]:
    """The numbers of splits worth a look: those that fill whole waves of the device's places."""
    most = max(turns // LEAST_TURNS, least, 1)
    wanted = {least, *(places * share // (12 * tiles) for share in range(1, 49))}
    return sorted({min(max(n, least), most) for n in wanted})
