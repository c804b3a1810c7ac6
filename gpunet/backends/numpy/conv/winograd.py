"""3x3 convolutions of many channels by Winograd's minimal filtering."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gpunet.backends.contract import Array, Conv, Gate
from gpunet.backends.host import memory
from gpunet.backends.numpy.conv.algorithm import ranges
from gpunet.backends.numpy.conv.columns import Columns
from gpunet.backends.numpy.gate import open_gate
from gpunet.backends.numpy.sums import LONG, Total, add_rows
from gpunet.backends.numpy.threads import PARTS
from gpunet.geometry import Geometry, Pair

FEWEST_CHANNELS = 128
"""Channels and filters from which on products take so long that the transforms are worth it."""
FEWEST_TILES = 128
"""Tiles from which on it is worth transforming the filters."""
FULL = 0.6
"""The share of the tiles' pixels that are results, at least."""
TILE_ELEMENTS = 1 << 20
"""Elements of the transformed tiles that are multiplied at a time: see `threads` on long calls."""
_OF_FILTERS = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_OF_WINDOWS = np.kron(_OF_FILTERS, _OF_FILTERS)  # (16, 9)


class Winograd(Columns):
    """A convolution by tiles of 2x2 results ("F(2x2, 3x3)", Lavin & Gray 2016, section 4.1).

    The 4x4 pixels under a tile are transformed into 16 sums, and so are the filters. The products of
    these, 16 instead of 36 for each channel and filter, add up to the tile's results.
    """

    def __init__(self, conv: Conv, dtype: Any):
        super().__init__(conv, dtype)
        self.rows, self.columns = _tiles_of(conv.geometry)
        self._halves: Array | None = None

    @classmethod
    def prepared(cls, w: Array) -> tuple[Array, Array]:
        """The filters (3, 3, C, O), and their 16 sums, (16, C, O)."""
        return w, np.dot(_OF_WINDOWS.astype(w.dtype), w.reshape(9, -1)).reshape(16, *w.shape[2:])

    @classmethod
    def most_parts(cls, g: Geometry) -> int:
        """See `ConvAlgorithm.most_parts`: short products with large filters are slow."""
        return max(2, min(PARTS, g.y_shape[0] * prod(_tiles_of(g)) // FEWEST_TILES))

    def _pieces(self, count: int) -> list[tuple[int, int]]:
        """Ranges of a block's images whose transformed tiles have about `TILE_ELEMENTS`."""
        most = max(self.channels, self.geometry.filters)
        return ranges(0, count, TILE_ELEMENTS // (16 * self.rows * self.columns * most))

    def _multiply(self, x: Array, w: Any, sums: Array) -> None:
        filters, transformed = w
        for first, last in self._pieces(len(x)):
            tiles, to = self._tiles(x[first:last]), sums[first:last]
            products = memory.empty((16, tiles.shape[1], self.geometry.filters), self.dtype)
            self._results(np.matmul(tiles, transformed, out=products), to)
            if not np.isfinite(to.sum()):  # what is infinite or no number belongs to its own windows alone
                super()._multiply(x[first:last], filters, to)

    def weight_grad(self, dy: Array, x: Array, gate: Gate | None, dw: Total, db: Total | None) -> None:
        g = self.geometry
        if g.pixels >= LONG and self.dtype != np.float64:  # its sums are added in parts
            super().weight_grad(dy, x, gate, dw, db)
            return
        opened = open_gate(dy, gate, self.conv.pool)
        total, part = (memory.empty((16, self.channels, g.filters), self.dtype) for _ in range(2))
        total[...] = 0
        for first, last in self._pieces(len(x)):
            total += np.matmul(
                self._tiles(x[first:last]).transpose(0, 2, 1), self._spread(opened[first:last]), out=part
            )
        if not np.isfinite(total.sum()):  # as in `_multiply`
            super().weight_grad(dy, x, gate, dw, db)
            return
        dw.recent += np.dot(_OF_WINDOWS.T.astype(self.dtype), total.reshape(16, -1)).reshape(g.w_shape)
        dw.count()
        if db is not None:
            db.recent += add_rows(opened.reshape(-1, g.filters))
            db.count()

    def _tiles(self, x: Array) -> Array:
        """The 16 sums of the pixels under each tile of images x: (16, tiles, C)."""
        n, c = len(x), self.channels
        even, odd = self._split(x)
        of_rows = memory.empty((2, 4, n, self.rows, self.columns + 1, c), self.dtype)
        for half, sums in zip((even, odd), of_rows, strict=True):
            _take_four([half[:, i : i + 2 * self.rows - 1 : 2] for i in range(4)], sums)
        tiles = memory.empty((4, 4, n, self.rows, self.columns, c), self.dtype)
        first, second = of_rows[..., :-1, :]
        third, fourth = of_rows[..., 1:, :]
        _take_four([first, second, third, fourth], tiles.swapaxes(0, 1))
        return tiles.reshape(16, -1, c)

    def _split(self, x: Array) -> Array:
        """The even and the odd columns of padded images x, so that tiles lie side by side along rows."""
        (top, _), (left, _) = self.geometry.padding
        n, h, w, c = x.shape
        if self._halves is None or self._halves.shape[1] < n:
            self._halves = np.zeros((2, n, 2 * self.rows + 2, self.columns + 1, c), self.dtype)
        halves = self._halves[:, :n]
        for phase, half in enumerate(halves):
            first = (phase - left) % 2
            start, count = (first + left) // 2, len(range(first, w, 2))
            half[:, top : top + h, start : start + count] = x[:, :, first::2]
        return halves

    def _results(self, products: Array, y: Array) -> None:
        """Write the results y (n, OH, OW, O) from the products of the tiles (16, tiles, O)."""
        products = products.reshape(4, 4, len(y), self.rows, self.columns, -1)
        of_rows = memory.empty((2, *products.shape[1:]), self.dtype)
        _add_four(products, of_rows)
        of_columns = memory.empty((2, *products.shape[2:]), self.dtype)
        for i, rows in enumerate(of_rows):
            _add_four(rows, of_columns)
            for j, sums in enumerate(of_columns):
                to = y[:, i::2, j::2]
                to[...] = sums[:, : to.shape[1], : to.shape[2]]

    def _spread(self, dy: Array) -> Array:
        """The 16 sums of each tile of a gradient dy (n, OH, OW, O): (16, tiles, O)."""
        parts = memory.empty((2, 2, len(dy), self.rows, self.columns, dy.shape[3]), self.dtype)
        for i, j in np.ndindex(2, 2):
            given, to = dy[:, i::2, j::2], parts[i, j]
            to[:, : given.shape[1], : given.shape[2]] = given
            to[:, given.shape[1] :], to[:, :, given.shape[2] :] = 0, 0
        of_rows = memory.empty((4, *parts.shape[1:]), self.dtype)
        _spread_two(parts, of_rows)
        spread = memory.empty((4, 4, *parts.shape[2:]), self.dtype)
        for rows, to in zip(of_rows, spread, strict=True):
            _spread_two(rows, to)
        return spread.reshape(16, -1, dy.shape[3])


def _tiles_of(g: Geometry) -> Pair:
    """Rows and columns of tiles of an image."""
    return -(-g.y_shape[1] // 2), -(-g.y_shape[2] // 2)


def _take_four(neighbours: list[Array], out: Array) -> None:
    """The four sums of four neighbours along one side of the tiles."""
    first, second, third, fourth = neighbours
    np.subtract(first, third, out=out[0])
    np.add(second, third, out=out[1])
    np.subtract(third, second, out=out[2])
    np.subtract(second, fourth, out=out[3])


def _add_four(sums: Array, out: Array) -> None:
    """The two results of four sums along the first axis."""
    np.add(sums[1], sums[2], out=out[0])
    np.subtract(sums[1], sums[2], out=out[1])
    out[0] += sums[0]
    out[1] -= sums[3]


def _spread_two(gradients: Array, out: Array) -> None:
    """The gradients of four sums, from those of their two results along the first axis."""
    out[0] = gradients[0]
    np.add(gradients[0], gradients[1], out=out[1])
    np.subtract(gradients[0], gradients[1], out=out[2])
    np.negative(gradients[1], out=out[3])


def is_worth(g: Geometry) -> bool:
    """Whether a convolution is faster by tiles, where NumPy computes alone.

    Each transform is some passes over memory, which only the products of many channels outweigh. The
    compiled loops transform tiles that stay in a cache and need fewer channels, but whole vectors of
    them: `gpunet.backends.numpy.compiled.winograd.is_worth`.
    """
    n, oh, ow, filters = g.y_shape
    tiles = prod(_tiles_of(g))
    if g.window != (3, 3) or {*g.stride, *g.dilation} != {1} or g.groups > 1:
        return False
    return min(g.x_shape[3], filters) >= FEWEST_CHANNELS and n * tiles >= FEWEST_TILES and oh * ow >= FULL * 4 * tiles
