"""Lists how blocks cover the results of products: the tiles of each kernel, and the instances of them.

Products have tiles on the CUDA cores (`_tiled`) and on the tensor cores (`_mma`).
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

from gpunet.cuda.naming import ELEMENTS, instance
from gpunet.nvrtc.source import constant

TURN_BYTES, STAGES = constant("tensor_cores.cuh", "TURN_BYTES"), constant("tensor_cores.cuh", "STAGES")
TILE_K = constant("implicit_gemm.cuh", "TILE_K")
"""Places of the reduction in one turn of the main loop, on the CUDA cores."""


class Tile(NamedTuple):
    """How a block covers the results of a product, as the template arguments of a kernel.

    `left` and `right` are the elements of the two matrices that one load takes. Loads of 16 bytes
    need an alignment to them, those of one element need none.
    """

    rows: int
    cols: int
    thread_rows: int
    """Rows of the results that one thread computes."""
    thread_cols: int
    left: int
    right: int
    terms: int = 0
    """Products on the tensor cores for each product of two elements: 1, or 3 for 3xTF32; 0 on the
    CUDA cores."""

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.rows * self.cols // (self.thread_rows * self.thread_cols)

    @property
    def places(self) -> int:
        """Places of the reduction in one turn of the main loop."""
        return TURN_BYTES * self.left // 16 if self.terms else TILE_K


_WIDE = (Tile(128, 64, 8, 4, 4, 4), Tile(64, 64, 4, 4, 4, 4))
_ANY = Tile(64, 64, 4, 4, 1, 1)
FORWARD_TILES = (
    Tile(128, 128, 8, 8, 4, 4), *_WIDE, Tile(128, 32, 4, 4, 4, 4), Tile(128, 64, 8, 4, 1, 4), Tile(128, 32, 4, 4, 1, 4),
    _ANY, Tile(128, 16, 4, 2, 1, 1),
)  # fmt: skip
INPUT_GRAD_TILES = (
    Tile(128, 128, 8, 8, 4, 4), *_WIDE, Tile(128, 32, 4, 4, 4, 4), Tile(128, 16, 4, 2, 4, 4), _ANY, Tile(128, 16, 4, 2, 1, 1),
)  # fmt: skip
WEIGHT_GRAD_TILES = (
    Tile(128, 128, 8, 8, 4, 4), *_WIDE, Tile(128, 32, 4, 4, 4, 4), Tile(32, 64, 2, 4, 1, 4), Tile(32, 32, 2, 2, 1, 4),
    _ANY, Tile(64, 16, 2, 2, 1, 1),
)  # fmt: skip
MATMUL_TILES = (*_WIDE, _ANY, Tile(128, 16, 4, 2, 1, 1))
LEAST_ARCHITECTURE = 80
"""The least architecture whose tensor cores the kernels use: asynchronous copies begin with it."""
TERMS = {"tf32": 1, "3xtf32": 3}
"""Products on the tensor cores for each product of two floats, by matrix precision."""
_OF_WARPS: tuple[tuple[int, int, int, int], ...] = (
    (128, 256, 8, 16),
    (128, 128, 8, 16),
    (128, 64, 8, 8),
    (64, 64, 4, 8),
)
_OF_3XTF32: tuple[tuple[int, int, int, int], ...] = ((128, 128, 8, 8), (64, 64, 4, 8))
"""Rows and columns of the tiles on the tensor cores, and of a thread; floats do without the first.
In 3xTF32 a thread keeps two sums of each result in its registers."""
NARROW_TILES = frozenset((*_WIDE, _ANY, Tile(128, 16, 4, 2, 1, 1), Tile(64, 16, 2, 2, 1, 1)))
"""The tiles that there are in 16 bits as well."""
BIT_ROWS, BIT_COLS = constant("window.cuh", "BIT_ROWS"), constant("window.cuh", "BIT_COLS")
"""Rows and columns of taps of the largest windows that a convolution takes on the tensor cores, and its
input gradient for the pixels of one remainder by the stride."""
GATES = {name: constant("gate.cuh", f"GATE_{name}") for name in ("NONE", "RELU", "ACTIVATION")}
"""What the gates of gradient kernels undo, and the template arguments."""
TILES = {
    "conv2d_forward_tiled": FORWARD_TILES,
    "conv2d_input_grad_tiled": INPUT_GRAD_TILES,
    "conv2d_weight_grad_tiled": WEIGHT_GRAD_TILES,
    "matmul_tiled": MATMUL_TILES,
}
_FLAGS = (False, True)


def tiles(kernel: str, element: str) -> tuple[Tile, ...]:
    """Return the tiles that a kernel has for a C type of elements."""
    listed = TILES[kernel]
    return listed if element == "float" else tuple(tile for tile in listed if tile in NARROW_TILES)


def gates(kernel: str, element: str, tile: Tile) -> tuple[str, ...]:
    """Return the names of the gates that a gradient kernel has for a tile.

    A gate of its own spares the main loop what other gates need. In float, that of any activation
    has the tiles of 64 x 64 alone; in 16 bits all tiles have it, it also stands for a ReLU, and a
    product has no other.
    """
    if element != "float":
        return ("ACTIVATION",) if kernel == "matmul_tiled" else ("NONE", "ACTIVATION")
    return tuple(GATES) if (tile.rows, tile.cols) == (64, 64) else ("NONE", "RELU")


def activations(element: str, tile: Tile) -> tuple[bool, ...]:
    """Return for which activations conv2d_forward has a tile: False for ReLU and none, True for any."""
    if element != "float":
        return (True,)
    return _FLAGS if (tile.rows, tile.cols) == (64, 64) else (False,)


def tile_serves(kernel: str, element: str, tile: Tile, *, gate: str, general: bool) -> bool:
    """Return whether a tiled kernel has an instance of a tile for a gate, or for an activation.

    Args:
        general: whether conv2d_forward, which has no gate, computes another activation than ReLU.
    """
    if kernel == "conv2d_forward_tiled":
        return general in activations(element, tile)
    return gate in gates(kernel, element, tile)


def mma_tiles(kernel: str, element: str, terms: int) -> tuple[Tile, ...]:
    """Return the tiles that a kernel has on the tensor cores.

    Args:
        kernel: the name of the primitive, such as "conv2d_forward".
        terms: as `Tile.terms`.
    """
    chunk = 4 if element == "float" else 8
    shapes = _OF_3XTF32 if terms == 3 else _OF_WARPS
    found = (Tile(*shape, chunk, chunk, terms) for shape in shapes)
    return tuple(
        tile for tile in found if tile[:2] in ((128, 128), (64, 64)) or (kernel != "matmul" and tile.cols <= chunk * 32)
    )


def mma_serves(kernel: str, tile: Tile, *, gate: str, general: bool) -> bool:
    """Return whether a convolution or a gradient has a tile on the tensor cores, see `tile_serves`."""
    if kernel == "conv2d_forward":
        return not general or tile[:2] == (64, 64)
    return gate == "NONE" or tile[:2] != (128, 256)


def mma_multiplies(transposes: tuple[bool, bool], *, gated: bool, general: bool) -> bool:
    """Return whether there is a matrix product on the tensor cores, without what nets rarely have.

    Args:
        transposes: of its matrices.
        gated: whether the first of them comes through a gate.
        general: whether the results have another activation than ReLU.
    """
    return not general and (transposes == (False, True) if gated else transposes != (True, True))


def mma_instance(kernel: str, element: str, tile: Tile, *options: object) -> str:
    """Return the name of an instance on the tensor cores."""
    return instance(f"{kernel}_mma", element, tile.terms, *tile[:4], *options)


def mma_instances(kernel: str) -> list[str]:
    """Return the instances of a kernel on the tensor cores."""
    kinds = [("half", 1), ("bfloat16", 1), *(("float", terms) for terms in TERMS.values())]
    return [
        mma_instance(kernel, element, tile, *option)
        for element, terms in kinds
        for tile in mma_tiles(kernel, element, terms)
        for option in _mma_options(kernel, tile)
    ]


def _mma_options(kernel: str, tile: Tile) -> list[tuple[object, ...]]:
    """Return the template arguments of a kernel on the tensor cores behind its tile."""
    if kernel == "matmul":
        return [
            (GATES[gate], ta, tb)
            for gate, ta, tb in product(("NONE", "ACTIVATION"), _FLAGS, _FLAGS)
            if mma_multiplies((ta, tb), gated=gate != "NONE", general=False)
        ]
    if kernel == "conv2d_forward":
        return [(general,) for general in _FLAGS if mma_serves(kernel, tile, gate="NONE", general=general)]
    return [(GATES[gate],) for gate in ("NONE", "ACTIVATION") if mma_serves(kernel, tile, gate=gate, general=False)]


def tiled_instances(kernel: str) -> list[str]:
    """Return the instances of a tiled kernel."""
    return [
        tiled_instance(kernel, element, tile, *option)
        for element in ELEMENTS.values()
        for tile in tiles(kernel, element)
        for option in _options(kernel, element, tile)
    ]


def _options(kernel: str, element: str, tile: Tile) -> list[tuple[object, ...]]:
    """Return the template arguments of a tiled kernel behind its tile."""
    if kernel == "conv2d_forward_tiled":
        return list(product(_FLAGS, activations(element, tile)))
    if kernel != "matmul_tiled":
        return [(GATES[gate],) for gate in gates(kernel, element, tile)]
    options = product(gates(kernel, element, tile), _FLAGS, _FLAGS)
    return [(GATES[gate], a, b) for gate, a, b in options if gate != "RELU" or (a, b) == (False, True)]


def tiled_instance(kernel: str, element: str, tile: Tile, *options: object) -> str:
    """Return the name of an instance of a tiled kernel."""
    one_length = kernel in ("conv2d_input_grad_tiled", "matmul_tiled")  # of loads, for both matrices
    return instance(kernel, element, *tile[: 5 if one_length else 6], *options)
