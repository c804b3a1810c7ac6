"""Convolutions, locally connected layers and matrix products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from gpunet.backends import Backend
from gpunet.backends.contract import (
    ACTIVATIONS,
    FUSED_POOL,
    Activation,
    Array,
    BatchNorm,
    Conv,
    CrossEntropy,
    Gate,
    Into,
    LinearGrad,
    Moments,
    Product,
)  # fmt: skip
from gpunet.check.cases.case import FAST_AND_SIMPLE, Arrays, Case, Draw
from gpunet.cuda.naming import ELEMENTS
from gpunet.cuda.tile_lists import TERMS, mma_tiles, tiles
from gpunet.geometry import Geometry

TANH, LEAKY = Activation("tanh"), Activation("leaky_relu", 0.2)
RELU = Activation("relu")
_TILED = ("conv2d_forward", "conv2d_input_grad", "conv2d_weight_grad")


def cases(dtype: str) -> Iterator[Case]:
    """The cases in one dtype."""
    draw = Draw("convolutions", dtype)
    yield from _convolutions(draw)
    yield from _on_tensor_cores(draw)
    yield from _split_reductions(draw)
    yield from _local_convolutions(draw)
    yield from _products(draw)
    yield from _heads(draw)
    yield from _dense_gradients(draw)


def _convolutions(draw: Draw) -> Iterator[Case]:
    for channels, filters, groups in (
        (20, 68, 1), (3, 68, 1), (18, 70, 1), (5, 10, 1), (8, 10, 1), (8, 12, 2), (9, 18, 9),
    ):  # fmt: skip
        label = f"{channels} to {filters} channels, {groups} groups"
        options: dict[str, Any] = {"padding": ((1, 1), (2, 0)), "stride": (2, 1), "groups": groups}
        g = Geometry.conv((2, 9, 7, channels), (3, 3, channels // groups, filters), **options)
        x, w, b, dy = draw.normal(*g.x_shape), draw.normal(*g.w_shape), draw.normal(filters), draw.normal(*g.y_shape)
        activation = Activation(ACTIVATIONS[1 + channels % (len(ACTIVATIONS) - 1)])  # not ReLU
        plain, pooled = Conv(g), Conv(g, activation, Geometry.pool(g.y_shape, FUSED_POOL))
        tiles = {kernel: _variants(kernel, draw, channels // groups, filters // groups) for kernel in _TILED}
        for chosen in (activation, RELU):
            for pool, name in ((None, f"{label}, {chosen.name}"), (pooled.pool, f"{label}, {chosen.name}, pooled")):
                yield draw.call(
                    "conv2d_forward", x, w, b, Conv(g, chosen, pool), label=name, variants=tiles["conv2d_forward"]
                )
        added: dict[str, Any] = {"residual": draw.normal(*g.y_shape), "label": f"{label}, residual"}
        yield draw.call("conv2d_forward", x, w, b, Conv(g, RELU), variants=tiles["conv2d_forward"], **added)
        without = f"{label}, no bias"
        yield draw.call(
            "conv2d_weight_grad", dy, x, plain, into=Into(needs_bias=False), label=without, variants=FAST_AND_SIMPLE
        )
        for gate, conv, upstream, kind in _gates(draw, g, dy, plain, pooled):
            label_of_gate = f"{label}, {kind}"
            for operation, other in (("conv2d_input_grad", w), ("conv2d_weight_grad", x)):
                variants = tiles[operation] if conv is plain else FAST_AND_SIMPLE  # a pool is undone before
                yield draw.call(operation, upstream, other, conv, gate, label=label_of_gate, variants=variants)


def _gates(draw: Draw, g: Geometry, dy: Array, plain: Conv, pooled: Conv) -> Iterator[tuple[Any, Conv, Array, str]]:
    """(a gate, its convolution, its gradient, what it is) for each gate of the gradient kernels."""
    yield None, plain, dy, "no gate"
    if draw.dtype == "float32":
        yield Gate(draw.normal(*g.y_shape), RELU), plain, dy, "ReLU"
    yield Gate(draw.rounded(np.tanh(draw.normal(*g.y_shape))), TANH), plain, dy, "tanh"
    dy, y = draw.normal(*pooled.y_shape), draw.normal(*pooled.y_shape)
    mask = draw.rng.integers(0, 4, pooled.y_shape).astype(np.uint8)
    yield Gate(y, RELU, mask), pooled, dy, "ReLU, pooled"
    if draw.dtype == "float32":  # in 16 bits, what is in front of the pool is rounded
        yield Gate(np.tanh(y), TANH, mask), pooled, dy, "tanh, pooled"


def _variants(operation: str, draw: Draw, left: int, right: int) -> tuple[str, ...]:
    """The variants of a primitive that launch different kernels, by the channels of its operands.

    Each tile belongs to the channels for which its loads are made, so that it runs once.
    """
    kernel = f"{operation}_tiled"
    if operation == "conv2d_input_grad":
        left, right = right, right  # the reduction lies along dy's filters, in both matrices
    lengths = 4 if left % 4 == 0 else 1, 4 if right % 4 == 0 else 1
    made = (tile for tile in tiles(kernel, ELEMENTS[draw.dtype]) if (tile.left, tile.right) == lengths)
    return (*FAST_AND_SIMPLE, *(f"{tile.rows} x {tile.cols}" for tile in made))


def _on_tensor_cores(draw: Draw) -> Iterator[Case]:
    """Products on tensor cores, whose operands these represent exactly: so only the sums differ."""
    for precision in TERMS if draw.dtype == "float32" else ("float32",):
        for groups, pixels, stride in ((1, 9, (2, 1)), (2, 12, (1, 1))):
            options: dict[str, Any] = {"padding": ((1, 1), (2, 0)), "stride": stride, "groups": groups}
            g = Geometry.conv((2, pixels, 7, 24 * groups), (3, 3, 24, 40 * groups), **options)
            x, w, dy, y = (_coarse(draw, *shape) for shape in (g.x_shape, g.w_shape, g.y_shape, g.y_shape))
            conv, label = Conv(g, precision=precision), f"on tensor cores, {precision}, {groups} groups"
            b, pool = draw.normal(g.filters), Geometry.pool(g.y_shape, FUSED_POOL)
            variants = {kernel: _mma_variants(kernel, draw, precision) for kernel in _TILED}
            forward: dict[str, Any] = {"label": label, "variants": variants["conv2d_forward"]}
            yield draw.call("conv2d_forward", x, w, b, conv, **forward)
            forward["label"] = f"{label}, pooled"
            yield draw.call("conv2d_forward", x, w, b, Conv(g, RELU, pool, precision), **forward)
            yield draw.call("conv2d_forward", x, w, None, Conv(g, LEAKY, None, precision), label=f"{label}, leaky")
            forward["label"] = f"{label}, residual"
            yield draw.call("conv2d_forward", x, w, b, Conv(g, RELU, None, precision), residual=dy, **forward)
            for gate, name in ((None, label), (Gate(y, RELU), f"{label}, gated")):
                for kernel, other in (("conv2d_input_grad", w), ("conv2d_weight_grad", x)):
                    yield draw.call(kernel, dy, other, conv, gate, label=name, variants=variants[kernel])
            if draw.dtype == "float32":  # in 16 bits, what the moments are of is rounded
                yield _before_norm(draw, Conv(g, None, pool, precision), x, w, f"{label}, before a batch norm")
        for ta, tb, gated in ((False, False, False), (True, False, False), (False, True, False), (False, True, True)):
            yield _mma_product(draw, precision, ta, tb, gated=gated)


def _before_norm(draw: Draw, conv: Conv, x: Array, w: Array, label: str) -> Case:
    """A convolution, and the batch norm for which it leaves the moments of its result."""
    c = conv.geometry.filters
    inputs = {"x": x, "w": w, "mean": np.zeros(c, np.float32), "variance": np.ones(c, np.float32)}

    def run(on: Backend, given: Arrays) -> Sequence[Array]:
        y, _, left = on.conv2d_forward_with_moments(given["x"], given["w"], None, conv)
        running = Moments(given["mean"], given["variance"])
        normalised, saved = on.batch_norm_forward(y, None, None, running, BatchNorm(True, left=left), None)
        return [normalised, *saved, *running]

    variants = _mma_variants("conv2d_forward", draw, conv.precision)
    return Case(f"conv2d_forward {label}", draw.dtype, inputs, run, variants=variants)


def _mma_product(draw: Draw, precision: str, ta: bool, tb: bool, *, gated: bool) -> Case:
    m, k, p = 136, 264, 72
    inputs = {"a": _coarse(draw, *((k, m) if ta else (m, k))), "b": _coarse(draw, *((p, k) if tb else (k, p)))}
    inputs |= {"y": draw.normal(m, k), "bias": draw.normal(p)}

    def run(on: Backend, given: Arrays) -> Sequence[Array]:
        gate = Gate(given["y"], RELU) if gated else None
        return [on.matmul(given["a"], given["b"], Product(ta, tb, given["bias"], RELU, gate, precision=precision))]

    label = f"{'transposed ' * ta}{m}x{k} by {'transposed ' * tb}{k}x{p}{', gated' * gated}"
    name = f"matmul on tensor cores, {precision}, {label}"
    return Case(name, draw.dtype, inputs, run, variants=_mma_variants("matmul", draw, precision))


def _coarse(draw: Draw, *shape: int) -> np.ndarray:
    """Normal numbers that the dtype and TF32 represent exactly, float32."""
    return (draw.normal(*shape).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def _mma_variants(kernel: str, draw: Draw, precision: str) -> tuple[str, ...]:
    """The tiles of a primitive on tensor cores."""
    made = mma_tiles(kernel, ELEMENTS[draw.dtype], TERMS.get(precision, 1))
    return tuple(f"{tile.rows} x {tile.cols}" for tile in made)


def _split_reductions(draw: Draw) -> Iterator[Case]:
    """Products of few results and long sums, which many blocks share, in one group and in several."""
    for pixels in (7, 20):
        g = Geometry.conv((3, pixels, pixels, 24), (3, 3, 24, 10), padding=1)
        x, w, b, dy = draw.normal(*g.x_shape), draw.normal(*g.w_shape), draw.normal(10), draw.normal(*g.y_shape)
        conv, label = Conv(g), f"over {pixels} x {pixels} pixels"
        yield draw.call("conv2d_forward", x, w, b, conv, label=label)
        yield draw.call("conv2d_input_grad", dy, w, conv, label=label)
        yield draw.call("conv2d_weight_grad", dy, x, conv, label=label)
    for depth in (300, 1300):
        yield draw.call("matmul", draw.normal(5, depth), draw.normal(depth, 9), label=f"{depth} products")


def _local_convolutions(draw: Draw) -> Iterator[Case]:
    g = Geometry.conv((3, 7, 6, 2), (3, 2, 2, 5), stride=(2, 1), padding=((1, 0), (0, 1)))
    places = g.y_shape[1:3]
    x, w, dy = draw.normal(*g.x_shape), draw.normal(*places, *g.w_shape), draw.normal(*g.y_shape)
    even = Geometry.conv((9, 3, 4, 4), (2, 2, 4, 36), padding=((1, 0), (0, 1)))  # loads of four, and more than a tile
    of_even = even.y_shape[1:3]
    yield draw.call("local_conv2d_forward", x, w, draw.normal(*places, 5), g)
    yield draw.call("local_conv2d_forward", x, w, None, g, label="no bias")
    yield draw.call("local_conv2d_input_grad", dy, w, g)
    yield draw.call("local_conv2d_weight_grad", dy, x, g)
    x_even, w_even, dy_even = (
        draw.normal(*even.x_shape),
        draw.normal(*of_even, *even.w_shape),
        draw.normal(*even.y_shape),
    )
    yield draw.call("local_conv2d_forward", x_even, w_even, draw.normal(*of_even, 36), even, label="of four")
    yield draw.call("local_conv2d_input_grad", dy_even, w_even, even, label="of four")
    yield draw.call("local_conv2d_weight_grad", dy_even, x_even, even, label="of four")
    yield Case(
        "local_conv2d_weight_grad added to what is there",
        draw.dtype,
        {"dy": dy, "x": x, "weight": w, "bias": draw.normal(*places, 5)},
        lambda on, a: on.local_conv2d_weight_grad(a["dy"], a["x"], g, Into(a["weight"], a["bias"], add=True)),
        frozenset(["weight", "bias"]),
    )


def _products(draw: Draw) -> Iterator[Case]:
    for p, ta, tb in product((68, 66, 10), (False, True), (False, True)):
        m, k = (68, 20) if p % 4 == 0 else (67, 19)
        label = f"{'transposed ' * ta}{m}x{k} by {'transposed ' * tb}{k}x{p}"
        a, b = draw.normal(*((k, m) if ta else (m, k))), draw.normal(*((p, k) if tb else (k, p)))
        bias, variants = draw.normal(p), _variants("matmul", draw, k, p)
        for activation in (None, TANH, RELU) if draw.dtype == "float32" and (ta, tb) == (False, True) else (None, TANH):
            y = None if activation is None else draw.rounded(np.tanh(draw.normal(*a.shape)))
            gated = f"{label}, {'no gate' if activation is None else activation.name}"

            def run(
                on: Backend, given: Arrays, ta: bool = ta, tb: bool = tb, activation: Activation | None = activation
            ) -> Sequence[Array]:
                gate = None if activation is None else Gate(given["y"], activation)
                made = None if activation is None else LEAKY if activation == TANH else RELU

                return [on.matmul(given["a"], given["b"], Product(ta, tb, given["bias"], made, gate))]

            inputs = {"a": a, "b": b, "bias": bias, **({} if y is None else {"y": y})}
            yield Case(f"matmul {gated}", draw.dtype, inputs, run, variants=variants)

        def run_added(on: Backend, given: Arrays, ta: bool = ta, tb: bool = tb) -> Sequence[Array]:
            return [on.matmul(given["a"], given["b"], Product(ta, tb, out=given["out"], add=True))]

        inputs = {"a": a, "b": b, "out": draw.normal(m, p)}
        yield Case(f"matmul {label}, added to what is there", draw.dtype, inputs, run_added, variants=FAST_AND_SIMPLE)


def _heads(draw: Draw) -> Iterator[Case]:
    """Dense layers of few outputs, alone and with the loss.

    Their numbers are small integers, so that 16 bits hold the logits. The gradient of x is that of
    dlogits in 16 bits, and so compared in float32 alone.
    """
    x, w, b = (draw.rng.integers(-1, 2, shape).astype(np.float32) for shape in ((37, 20), (20, 10), (10,)))
    labels = draw.rng.integers(0, 10, 37).astype(np.int32)
    weighted = CrossEntropy(draw.rng.uniform(0.5, 2, 10).astype(np.float32), 0.1, ignore_index=int(labels[3]))
    yield draw.call("linear_forward", x, w, b)
    yield draw.call("linear_forward", x, w, b, LEAKY, label="with an activation")
    for label, options in (("plain", CrossEntropy()), ("weighted", weighted)):
        whole: dict[str, Any] = {"label": label, "single": ("4.0",), "needs_dx": draw.dtype == "float32"}
        yield draw.call("linear_cross_entropy", x, w, b, labels, options, **whole)
    yield draw.call("linear_cross_entropy", x, w, None, labels, needs_dx=False, label="without a bias")


def _dense_gradients(draw: Draw) -> Iterator[Case]:
    """Five layers at once: one more than a launch takes, without and with rows of fours."""
    extents = (130, 20, 36, True), (130, 33, 10, True), (1, 5, 1, False), (70, 64, 32, False), (0, 3, 8, True)
    inputs: dict[str, np.ndarray] = {}
    for i, (rows, taken, made, bias) in enumerate(extents):
        inputs |= {f"dy{i}": draw.normal(rows, made), f"x{i}": draw.normal(rows, taken)}
        inputs[f"y{i}"] = draw.rounded(np.tanh(draw.normal(rows, made)))
        inputs |= {f"dw{i}": draw.normal(taken, made), **({f"db{i}": draw.normal(made)} if bias else {})}
    single = frozenset(name for name in inputs if name[:2] in ("dw", "db"))
    for added in (False, True):

        def run(on: Backend, a: Arrays, added: bool = added) -> Sequence[Array | None]:
            layers = []
            for i, (*_, bias) in enumerate(extents):
                into = Into(a[f"dw{i}"], a.get(f"db{i}"), bias, True) if added else Into(needs_bias=bias)
                gate = None if (i % 2 == 0) == added else Gate(a[f"y{i}"], TANH)
                layers.append(LinearGrad(a[f"dy{i}"], a[f"x{i}"], gate, into))
            return [array for grads in on.linear_weight_grads(layers) for array in grads]

        label = "linear_weight_grads" + added * " added to what is there"
        yield Case(label, draw.dtype, inputs, run, single, variants=FAST_AND_SIMPLE)
