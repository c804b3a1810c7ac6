"""Lists the kernel instances that exist; nothing else is compiled, launched or tested."""

from __future__ import annotations

from functools import cache
from itertools import permutations, product
from typing import Any

ELEMENTS = {"float32": "float", "float16": "half", "bfloat16": "bfloat16"}
"""The dtypes of elements, and their C types. They are for storage: kernels add up in float32."""
CONV_TILES = ((128, 64, 8, 4, 4), (64, 64, 4, 4, 4), (64, 64, 4, 4, 1), (128, 16, 4, 2, 1))
"""(TM, TN, RM, RN, V) of conv2d_forward and conv2d_input_grad: rows and columns of a block's
results, rows and columns of a thread's results, and the channels that one load takes. Loads of 4
need an alignment of four elements, loads of 1 need none."""
WEIGHT_GRAD_TILES = ((128, 64, 8, 4, 4), (64, 64, 4, 4, 4), (64, 64, 4, 4, 1), (64, 16, 2, 2, 1))
DEPTHWISE = ((3, 1, 4), (3, 2, 4), (5, 1, 4), (5, 2, 4), (0, 0, 4), (0, 0, 1))
"""(K, S, V) of the depthwise kernels: a K x K window with a stride of S, or any window if K is 0,
and channels per thread."""
MATMUL_TILES = ((64, 64, 4, 4, 4), (64, 64, 4, 4, 1), (128, 16, 4, 2, 1))
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

_NORM = ("batch_norm_moments", "batch_norm_forward", "batch_norm_sums", "batch_norm_input_grad")
_GROUP_NORM = ("group_norm_forward", "group_norm_input_grad", "group_norm_weight_grad")


def instance(kernel: str, *arguments: object) -> str:
    """Return the name of an instance: ``instance("fill", "float")`` is ``"fill<float>"``."""
    words = [str(a).lower() if isinstance(a, bool) else str(a) for a in arguments]
    return f"{kernel}<{', '.join(words)}>" if words else kernel


def _each(*kernels: str) -> list[str]:
    """Return the instances of kernels for every dtype of `ELEMENTS`."""
    return [instance(kernel, t) for kernel, t in product(kernels, ELEMENTS.values())]


def _tiled(kernel: str, tiles: tuple[tuple[int, ...], ...], *options: tuple[bool, ...]) -> list[str]:
    """Return the instances of a kernel for every dtype, tile and option."""
    variants: product[Any] = product(ELEMENTS.values(), tiles, *options)
    return [instance(kernel, t, *tile, *option) for t, tile, *option in variants]


def pool_vectors(dtype: str, mask: str) -> tuple[int, ...]:
    """Return how many channels a thread of a max pool may take: for rare dtypes one alone."""
    return (4, 1) if dtype == "float32" or mask == "uint8" else (1,)


_POOLS = [(ELEMENTS[d], MASKS[m], v) for d, m in product(ELEMENTS, MASKS) for v in pool_vectors(d, m)]
_FLAGS = (False, True)
_LISTED = {
    "activation.cu": _each("activation_forward", "activation_backward"),
    "avg_pool2d.cu": _each("avg_pool2d_forward", "avg_pool2d_backward"),
    "batch_norm.cu": [
        *_each(*(f"{kernel}_simple" for kernel in _NORM)),
        *(instance(k, t, v) for k, t, v in product(_NORM, ELEMENTS.values(), (4, 1))),
        "batch_norm_moments_merge",
        "batch_norm_sums_merge",
    ],
    "check.cu": ["echo_numbers", "echo_struct", "echo_pointers", "differing_words"],
    "conv2d_depthwise.cu": [
        instance(f"conv2d_depthwise_{kernel}", t, *window)
        for kernel, t, window in product(("forward", "input_grad", "weight_grad"), ELEMENTS.values(), DEPTHWISE)
    ],
    "conv2d_forward.cu": [
        *(instance("conv2d_forward_simple", t, pool) for t, pool in product(ELEMENTS.values(), _FLAGS)),
        *_tiled("conv2d_forward_tiled", CONV_TILES, _FLAGS),
    ],
    "conv2d_input_grad.cu": [*_each("conv2d_input_grad_simple"), *_tiled("conv2d_input_grad_tiled", CONV_TILES)],
    "conv2d_weight_grad.cu": [
        *_each("conv2d_weight_grad_simple", "conv2d_weight_grad_depthwise"),
        *_tiled("conv2d_weight_grad_tiled", WEIGHT_GRAD_TILES),
    ],
    "elementwise.cu": [
        *_each("unary", "binary", "scale", "select"),
        *(instance("compare", t) for t in COMPARED.values()),
        *(instance("cast_counts", *types) for types in CAST_COUNTS),
        *(instance("cast", *types) for types in permutations(ELEMENTS.values(), 2)),
        *(instance(k, t) for k, t in product(("fill", "strided_copy"), MOVED.values())),
    ],
    "gather_augment.cu": [*_each("gather_augment"), "gather_augment<uint8>"],
    "group_norm.cu": [
        *_each(*(f"{kernel}_simple" for kernel in _GROUP_NORM)),
        *(instance(k, t, v) for k, t, v in product(_GROUP_NORM, ELEMENTS.values(), (4, 1))),
        "group_norm_weight_grad_merge",
    ],
    "input_activation.cu": _each("input_activation_forward", "input_activation_backward"),
    "local_conv2d.cu": _each("local_conv2d_forward", "local_conv2d_input_grad", "local_conv2d_weight_grad"),
    "matmul.cu": [*_each("matmul_simple"), *_tiled("matmul_tiled", MATMUL_TILES, _FLAGS, _FLAGS)],
    "max_pool2d.cu": [
        instance(k, *variant) for k, variant in product(("max_pool2d_forward", "max_pool2d_backward"), _POOLS)
    ],
    "optimizer.cu": [
        *("gradient_norm_partial", "gradient_norm", "average_update", *_each("clip_units")),
        *(instance("update", t, rule) for t, rule in product(ELEMENTS.values(), UPDATE_RULES)),
    ],
    "permutation.cu": [f"permutation_{step}" for step in ("count", "offsets", "scatter", "rank")],
    "random.cu": ["random_words", "random_normal", *_each("dropout")],
    "reduce.cu": [
        instance(k, "float")
        for k in ("reduce_sum_simple", "reduce_sum_rows", "reduce_max_simple", "reduce_max_rows", "max_backward")
    ],
    "resample2d.cu": [instance("resample2d", t, v) for t, v in product(ELEMENTS.values(), (4, 1))],
    "sigmoid_cross_entropy.cu": ["sigmoid_cross_entropy<float>", "sigmoid_cross_entropy_mean"],
    "softmax.cu": [
        "softmax_forward<float>",
        "softmax_backward<float>",
        *_each("softmax_cross_entropy_simple"),
        "softmax_cross_entropy_total",
        *_each("softmax_cross_entropy_rows"),
        "softmax_cross_entropy_mean",
    ],
    "take.cu": [*(instance("take", t) for t in MOVED.values()), *_each("take_backward")],
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
    in float32 waits for the others.
    """
    return tuple(e for e in instantiations()[file_of(expression)] if is_narrow(e) == is_narrow(expression))


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
