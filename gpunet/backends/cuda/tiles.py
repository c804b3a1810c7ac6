"""Tiles and splits of the kernels that compute matrix products: pure functions of the shape."""

from collections.abc import Sequence

from gpunet.backends.cuda.device import BUSY
from gpunet.nvrtc.source import constant

Tile = tuple[int, int, int, int, int]
"""(TM, TN, RM, RN, V), as `gpunet.cuda.instantiations` explains them."""
TILE_K = constant("tile.cuh", "TILE_K")
"""Step of a tile along the reduction."""
MOST_PIXELS = 2048
"""Pixels of a split at most. A thread adds the products of 48 pixels, then these sums; longer sums
would lose digits."""


def select_tile(tiles: Sequence[Tile], rows: int, cols: int, *, vector: bool, busy: int = BUSY) -> Tile:
    """The tile for rows x cols results: the largest that gives enough blocks, or the smallest.

    Args:
        vector: whether loads of four elements are allowed.
        busy: how many blocks keep the device busy.
    """
    allowed = [t for t in tiles if t[4] == 1 or vector]
    narrow = [t for t in allowed if t[1] == 16]
    if cols <= 16 and narrow:
        return narrow[0]
    wide = [t for t in allowed if t[1] > 16]  # largest first; of two of one size, the one with vector loads first
    smallest = next(t for t in wide if t[0] * t[1] == wide[-1][0] * wide[-1][1])
    return next((t for t in wide if count_tiles(rows, cols, t) >= busy), smallest)


def count_tiles(rows: int, cols: int, tile: Sequence[int]) -> int:
    """Blocks that cover rows x cols results."""
    return -(-rows // tile[0]) * -(-cols // tile[1])


def split_pixels(tiles: int, pixels: int, busy: int = BUSY) -> int:
    """Pixels of one split of a weight gradient's reduction.

    They are a multiple of the tile's step, at least four steps, and not more than a thread may add
    in float32.
    """
    splits = min(-(-busy // tiles), -(-pixels // (4 * TILE_K)))
    length = min(-(-pixels // splits), MOST_PIXELS)
    return -(-length // TILE_K) * TILE_K
