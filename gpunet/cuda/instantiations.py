"""Lists the kernel instances that exist; nothing else is compiled, launched or tested."""

from __future__ import annotations

from functools import cache
from itertools import permutations, product

from gpunet.cuda.naming import ELEMENTS, instance
from gpunet.cuda.tile_lists import TILES, mma_instances, tiled_instances

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


def _each(*kernels: str) -> list[str]:
    """Return the instances of kernels for every dtype of `ELEMENTS`."""
    return [instance(kernel, t) for kernel, t in product(kernels, ELEMENTS.values())]


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
        "batch_norm_distances",
        "batch_norm_joined_moments",
    ],
    "check.cu": ["echo_numbers", "echo_struct", "echo_pointers", "differing_words"],
    "conv2d_depthwise.cu": [
        instance(f"conv2d_depthwise_{kernel}", t, *window)
        for kernel, windows in (("forward", DEPTHWISE_OF_X), ("input_grad", DEPTHWISE), ("weight_grad", DEPTHWISE_OF_X))
        for t, window in product(ELEMENTS.values(), windows)
    ],
    "conv2d_forward.cu": [
        *(instance("conv2d_forward_simple", t, pool) for t, pool in product(ELEMENTS.values(), _FLAGS)),
        *tiled_instances("conv2d_forward_tiled"),
        *mma_instances("conv2d_forward"),
    ],
    "conv2d_input_grad.cu": [
        *_each("conv2d_input_grad_simple"),
        *tiled_instances("conv2d_input_grad_tiled"),
        *mma_instances("conv2d_input_grad"),
    ],
    "conv2d_weight_grad.cu": [
        *_each("conv2d_weight_grad_simple"),
        *tiled_instances("conv2d_weight_grad_tiled"),
        *mma_instances("conv2d_weight_grad"),
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
    "matmul.cu": [*_each("matmul_simple"), *tiled_instances("matmul_tiled"), *mma_instances("matmul")],
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
