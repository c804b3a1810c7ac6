"""Lists the kernel instances that exist; nothing else is compiled, launched or tested."""

from __future__ import annotations

from functools import cache
from itertools import permutations, product
from typing import NamedTuple

from gpunet.nvrtc.source import constant

ELEMENTS = {"float32": "float", "float16": "half", "bfloat16": "bfloat16"}
"""The dtypes of elements, and their C types. They are for storage: kernels add up in float32."""


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
GATES = {name: constant("gate.cuh", f"GATE_{name}") for name in ("NONE", "RELU", "ACTIVATION")}
"""What the gates of gradient kernels undo, and the template arguments."""
DEPTHWISE = ((3, 1, 4), (3, 2, 4), (5, 1, 4), (5, 2, 4), (0, 0, 4), (0, 0, 1))
"""(K, S, V) of the depthwise kernels: a K x K window with a stride of S, or any window if K is 0,
and channels per thread."""
DEPTHWISE_OF_X = (
    *((*window, window[2]) for window in DEPTHWISE), (3, 1, 4, 1), (5, 1, 4, 1), (5, 1, 1, 1), (0, 0, 4, 1),
)  # fmt: skip
"""(K, S, V, X) of the depthwise kernels that read x: V filters of a thread have X channels of it,
one each or one for all of them."""
UPDATE_RULES = ("Sgd", "Adam", "Rmsprop", "Adagrad", "Lion", "Muon")
MASKS = {"uint8": "uint8", "uint16": "uint16", "int32": "int"}
"""The dtypes of a max pool's mask, and their C types."""
MOVED = {
    "float32": "float", "float64": "double", "int32": "int", "int64": "int64", "uint8": "uint8", "uint64": "uint64",
    "uint16": "uint16", "bool": "bool", "float16": "half", "bfloat16": "bfloat16",
}  # fmt: skip
"""The dtypes that are filled, copied and gathered, and their C types."""
COMPARED = {**ELEMENTS, "int64": "int64", "bool": "bool"}
"""The dtypes that are compared, and their C types."""
CAST_COUNTS = (("bool", "float"), ("int", "float"), ("int64", "float"), ("bool", "int64"), ("int", "int64"))
"""The casts of masks, labels and positions, as C types: (from, to)."""

SOFTMAX_TEAMS = (32, 256)
"""Threads that take a row of a softmax together: a warp, or a block."""

_NORM = ("batch_norm_moments", "batch_norm_forward", "batch_norm_sums", "batch_norm_input_grad")
_LOCAL = ("local_conv2d_forward", "local_conv2d_input_grad", "local_conv2d_weight_grad")
_GROUP_NORM_PARTS = [f"group_norm_{kernel}_parts" for kernel in ("sums", "input_grad")]
_GROUP_NORM = ("group_norm_forward", "group_norm_input_grad", "group_norm_weight_grad")


def instance(kernel: str, *arguments: object) -> str:
    """Return the name of an instance: ``instance("fill", "float")`` is ``"fill<float>"``."""
    words = [str(a).lower() if isinstance(a, bool) else str(a) for a in arguments]
    return f"{kernel}<{', '.join(words)}>" if words else kernel


def _each(*kernels: str) -> list[str]:
    """Return the instances of kernels for every dtype of `ELEMENTS`."""
    return [instance(kernel, t) for kernel, t in product(kernels, ELEMENTS.values())]


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


def _mma(kernel: str) -> list[str]:
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


def _tiled(kernel: str) -> list[str]:
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


PIECES = {"float32": 4, "float16": 8, "bfloat16": 8}
"""Elements of one load of 16 bytes, by dtype. Kernels that are bound by memory take as many at once, or
one: so they do in 16 bits, where four at once would have instances of their own for 4, 12, 20 …
channels alone."""
_BY_PIECE = [(ELEMENTS[dtype], v) for dtype, piece in PIECES.items() for v in (piece, 1)]
"""(C type, elements that a thread takes at once) of such kernels."""


def pool_vectors(kernel: str, dtype: str, mask: str) -> tuple[int, ...]:
    """Return how many channels a thread of a max pool's kernel may take: what is rare takes one.

    Large windows, whose masks have more than 8 bits, are rarely so many that a thread of
    max_pool2d_forward takes one alone.
    """
    rare = dtype != "float32" or kernel == "max_pool2d_forward"
    return (1,) if rare and mask != "uint8" else (PIECES[dtype], 1)


_PASSES = ("forward", "forward_long", "backward")
_POOLS = [
    instance(k, ELEMENTS[d], MASKS[m], v)
    for k, d, m in product((f"max_pool2d_{k}" for k in _PASSES), ELEMENTS, MASKS)
    for v in pool_vectors(k, d, m)
]
_FLAGS = (False, True)
TILES = {
    "conv2d_forward_tiled": FORWARD_TILES,
    "conv2d_input_grad_tiled": INPUT_GRAD_TILES,
    "conv2d_weight_grad_tiled": WEIGHT_GRAD_TILES,
    "matmul_tiled": MATMUL_TILES,
}
_SUMMED = [(a, b) for a, b in product(ELEMENTS.values(), repeat=2) if a == b or "float" in (a, b)]
"""C types in which sums are read and written, where what lies between two passes is float."""
_LISTED = {
    "activation.cu": _each("activation_forward", "activation_backward"),
    "avg_pool2d.cu": [instance(f"avg_pool2d_{k}", *taken) for k, taken in product(_PASSES, _BY_PIECE)],
    "batch_norm.cu": [
        *_each(*(f"{kernel}_simple" for kernel in _NORM)),
        *(instance(k, *taken) for k, taken in product(_NORM, _BY_PIECE)),
        "batch_norm_moments_merge",
        "batch_norm_sums_merge",
    ],
    "check.cu": ["echo_numbers", "echo_struct", "echo_pointers", "differing_words"],
    "conv2d_depthwise.cu": [
        instance(f"conv2d_depthwise_{kernel}", t, *window)
        for kernel, windows in (("forward", DEPTHWISE_OF_X), ("input_grad", DEPTHWISE), ("weight_grad", DEPTHWISE_OF_X))
        for t, window in product(ELEMENTS.values(), windows)
    ],
    "conv2d_forward.cu": [
        *(instance("conv2d_forward_simple", t, pool) for t, pool in product(ELEMENTS.values(), _FLAGS)),
        *_tiled("conv2d_forward_tiled"),
        *_mma("conv2d_forward"),
    ],
    "conv2d_input_grad.cu": [
        *_each("conv2d_input_grad_simple"),
        *_tiled("conv2d_input_grad_tiled"),
        *_mma("conv2d_input_grad"),
    ],
    "conv2d_weight_grad.cu": [
        *_each("conv2d_weight_grad_simple"),
        *_tiled("conv2d_weight_grad_tiled"),
        *_mma("conv2d_weight_grad"),
    ],
    "elementwise.cu": [
        *_each("unary", "binary", "scale", "select"),
        *(instance("compare", t) for t in COMPARED.values()),
        *(instance("cast_counts", *types) for types in CAST_COUNTS),
        *(instance("cast", *types) for types in permutations(ELEMENTS.values(), 2)),
        *(instance(k, t) for k, t in product(("fill", "strided_copy", "strided_copy_tiled"), MOVED.values())),
    ],
    "gather_augment.cu": [*_each("gather_augment"), "gather_augment<uint8>"],
    "group_norm.cu": [
        *_each(*(f"{kernel}_simple" for kernel in _GROUP_NORM)),
        *(instance(k, t, v) for k, t, v in product((*_GROUP_NORM, *_GROUP_NORM_PARTS), ELEMENTS.values(), (4, 1))),
        *(f"group_norm_{kernel}_merge" for kernel in ("weight_grad", "sums")),
    ],
    "input_activation.cu": _each("input_activation_forward", "input_activation_backward"),
    "linear_cross_entropy.cu": _each("linear_cross_entropy"),
    "linear_weight_grads.cu": _each("linear_weight_grads_simple", "linear_weight_grads_tiled"),
    "local_conv2d.cu": [instance(k, t, v) for k, t, v in product(_LOCAL, ELEMENTS.values(), (4, 1))],
    "matmul.cu": [*_each("matmul_simple"), *_tiled("matmul_tiled"), *_mma("matmul")],
    "max_pool2d.cu": _POOLS,
    "optimizer.cu": [
        *("gradient_norm", "average_update", *_each("clip_units")),
        *(instance("update", t, rule) for t, rule in product(ELEMENTS.values(), UPDATE_RULES)),
    ],
    "permutation.cu": [f"permutation_{step}" for step in ("count", "offsets", "scatter", "rank")],
    "random.cu": [
        *("random_words", "random_normal<4>", "random_normal<1>"),
        *(instance("dropout", *taken) for taken in _BY_PIECE),
    ],
    "reduce.cu": [
        instance(k, "float")
        for k in ("reduce_sum_simple", "reduce_sum_rows", "reduce_max_simple", "reduce_max_rows", "max_backward")
    ],
    "resample2d.cu": [
        *(instance("resample2d", t, v) for t, v in product(ELEMENTS.values(), (4, 1))),
        *(instance("resample2d_long", *types, v) for types, v in product(_SUMMED, (4, 1))),
    ],
    "sigmoid_cross_entropy.cu": ["sigmoid_cross_entropy<float>", "sigmoid_cross_entropy_mean"],
    "softmax.cu": [
        *(instance(f"softmax_{k}", "float", team) for k, team in product(("forward", "backward"), SOFTMAX_TEAMS)),
        *_each("softmax_cross_entropy_simple"),
        "softmax_cross_entropy_total",
        *(instance("softmax_cross_entropy_rows", t, team) for t, team in product(ELEMENTS.values(), SOFTMAX_TEAMS)),
        "softmax_cross_entropy_mean",
    ],
    "take.cu": [
        *(instance("take", t) for t in MOVED.values()),
        *_each("take_backward_simple", "take_backward_parts", "take_backward_merge"),
    ],
}
"""The name expressions of all instances, by file."""


@cache
def instantiations() -> dict[str, tuple[str, ...]]:
    """Return the name expressions of every instance, by file."""
    return {file: tuple(expressions) for file, expressions in _LISTED.items()}


@cache
def module_of(expression: str) -> tuple[str, ...]:
    """Return the instances that are compiled together with one.

    They are those of its file that also store 16 bits, or also do not, so that nobody who computes
    in float32 waits for the others. An instance with tiles, of which a network needs few, is
    compiled alone.
    """
    if is_tiled(expression):
        return (expression,)
    others = instantiations()[file_of(expression)]
    return tuple(e for e in others if is_narrow(e) == is_narrow(expression) and not is_tiled(e))


def is_tiled(expression: str) -> bool:
    """Return whether an instance computes a product in tiles, on the CUDA cores or the tensor cores."""
    return expression.partition("<")[0] in TILES or is_mma(expression)


def is_mma(expression: str) -> bool:
    """Return whether an instance computes on the tensor cores, from `LEAST_ARCHITECTURE` on."""
    return expression.partition("<")[0].endswith("_mma")


def is_narrow(expression: str) -> bool:
    """Return whether an instance stores its elements in 16 bits."""
    first = expression.partition("<")[2].partition(",")[0].rstrip(">")
    return first in (ELEMENTS["float16"], ELEMENTS["bfloat16"])


@cache
def _files() -> dict[str, str]:
    return {expression: file for file, expressions in instantiations().items() for expression in expressions}


def file_of(expression: str) -> str:
    """Return the `.cu` file of an instance.

    Raises:
        ValueError: an instance that is not listed.
    """
    try:
        return _files()[expression]
    except KeyError:
        raise ValueError(f"no kernel instance {expression}: gpunet/cuda/instantiations.py lists all") from None
