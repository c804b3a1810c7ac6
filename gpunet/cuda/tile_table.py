"""A table of tiles: for each product the tile and the splits that were the fastest when a user
measured them.

Without a table nothing is timed, and a layout is a pure function of the shape and of the device's
numbers. A table is the only exception: the user makes it by `gpunet bench conv --tune` and names
it, so it is a part of the device's description, and checkpoints name it by its digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from gpunet.cuda.tile_lists import Tile, mma_serves, mma_tiles, tile_serves, tiles


class TiledProduct(NamedTuple):
    """A product that a kernel computes in tiles: all that its layout depends on, but the device."""

    kernel: str
    """The name of the primitive, such as "conv2d_forward"."""
    element: str
    """The C type of the elements."""
    terms: int
    """As `Tile.terms`."""
    gate: str
    """Of a gradient or a matrix product, one of `GATES`."""
    general: bool
    """Whether conv2d_forward computes another activation than ReLU."""
    rows: int
    cols: int
    depth: int
    """Results of the product, and places of its reduction."""
    copies: int
    """Such products in one launch."""
    left: bool
    right: bool
    """Whether loads of four elements are allowed for the two matrices."""


class TileChoice(NamedTuple):
    """A tile, by which `Tile` differs from the others of a kernel, and the parts of the reduction."""

    rows: int
    cols: int
    left: int
    right: int
    splits: int


@dataclass(frozen=True)
class TileTable:
    """The choices that a file holds. Two tables are equal if their names and digests are."""

    name: str
    """The name of the file, without its folder."""
    digest: str
    """The first 12 hexadecimal digits of the SHA-256 of its bytes."""
    choices: Mapping[TiledProduct, TileChoice] = field(compare=False, repr=False)

    def find(self, product: TiledProduct) -> TileChoice | None:
        """The choice for a product; None if the table does not have the product."""
        return self.choices.get(product)

    def __str__(self) -> str:
        return f"{self.name} (SHA-256 {self.digest})"


@lru_cache(maxsize=4096)
def tiles_of(product: TiledProduct) -> tuple[Tile, ...]:
    """The tiles with which there is an instance for a product, whatever its loads."""
    kernel, element, terms, gate, general, *_ = product
    if terms:
        return tuple(t for t in mma_tiles(kernel, element, terms) if mma_serves(kernel, t, gate=gate, general=general))
    name = f"{kernel}_tiled"
    return tuple(t for t in tiles(name, element) if tile_serves(name, element, t, gate=gate, general=general))
