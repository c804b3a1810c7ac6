"""Convolutions, locally connected layers and matrix products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from gpunet.backends import Backend, get_backend
from gpunet.backends.contract import (
    ACTIVATIONS,
    FUSED_POOL,
    Activation,
    Array,
    Conv,
    CrossEntropy,
    Gate,
    Into,
    LinearGrad,
    Product,
)  # fmt: skip
from gpunet.check.cases.case import FAST_AND_SIMPLE, VARIANTS, Arrays, Case, Draw
from gpunet.geometry import Geometry

TANH, LEAKY = Activation("tanh"), Activation("leaky_relu", 0.2)
EVERY = tuple(VARIANTS)


def cases(dtype: str) -> Iterator[Case]:
    """The cases in one dtype."""
    draw = Draw("convolutions", dtype)
    yield from _convolutions(draw)
    yield from _local_convolutions(draw)
    yield from _products(draw)
    yield from _heads(draw)
    yield from _dense_gradients(draw)


def _convolutions(draw: Draw) -> Iterator[Case]:
    reference = get_backend("reference")
    for channels, filters, groups in (
        (4, 68, 1), (3, 70, 1), (18, 70, 1), (5, 10, 1), (8, 12, 2), (20, 68, 1), (9, 18, 9),
    ):  # fmt: skip
        label = f"{channels} to {filters} channels, {groups} groups"
        options: dict[str, Any] = {"padding": ((1, 1), (2, 0)), "stride": (2, 1), "groups": groups}
        g = Geometry.conv((2, 9, 7, channels), (3, 3, channels // groups, filters), **options)
        x, w, b, dy = draw.normal(*g.x_shape), draw.normal(*g.w_shape), draw.normal(filters), draw.normal(*g.y_shape)
        activation = Activation(ACTIVATIONS[channels % len(ACTIVATIONS)])
        gate = Gate(draw.rounded(np.tanh(draw.normal(*g.y_shape))), TANH)
        plain = Conv(g)
        yield draw.call("conv2d_forward", x, w, b, Conv(g, activation), label=label, variants=EVERY)
        yield draw.call("conv2d_input_grad", dy, w, plain, gate, label=label, variants=EVERY)
        yield draw.call("conv2d_weight_grad", dy, x, plain, gate, label=label, variants=EVERY)
        without = f"{label}, no bias"
        yield draw.call("conv2d_weight_grad", dy, x, plain, into=Into(needs_bias=False), label=without, variants=EVERY)
        label += ", pooled"
        pooled = Conv(g, activation, Geometry.pool(g.y_shape, FUSED_POOL))
        dy, y = draw.normal(*pooled.y_shape), draw.rounded(np.tanh(draw.normal(*pooled.y_shape)))
        yield draw.call("conv2d_forward", x, w, b, pooled, label=label, variants=EVERY)
        gate = Gate(y, TANH, reference.conv2d_forward(x, w, b, Conv(g, None, pooled.pool))[1])
        yield draw.call("conv2d_input_grad", dy, w, pooled, gate, label=label, variants=EVERY)
        yield draw.call("conv2d_weight_grad", dy, x, pooled, gate, label=label, variants=EVERY)


def _local_convolutions(draw: Draw) -> Iterator[Case]:
    g = Geometry.conv((3, 7, 6, 2), (3, 2, 2, 5), stride=(2, 1), padding=((1, 0), (0, 1)))
    places = g.y_shape[1:3]
    x, w, dy = draw.normal(*g.x_shape), draw.normal(*places, *g.w_shape), draw.normal(*g.y_shape)
    yield draw.call("local_conv2d_forward", x, w, draw.normal(*places, 5), g)
    yield draw.call("local_conv2d_forward", x, w, None, g, label="no bias")
    yield draw.call("local_conv2d_input_grad", dy, w, g)
    yield draw.call("local_conv2d_weight_grad", dy, x, g)
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
        bias, gate_y = draw.normal(p), draw.rounded(np.tanh(draw.normal(*a.shape)))

        def run(on: Backend, given: Arrays, ta: bool = ta, tb: bool = tb) -> Sequence[Array]:
            return [on.matmul(given["a"], given["b"], Product(ta, tb, given["bias"], LEAKY, Gate(given["y"], TANH)))]

        inputs = {"a": a, "b": b, "bias": bias, "y": gate_y}
        yield Case(f"matmul {label}", draw.dtype, inputs, run, variants=EVERY)

        def run_added(on: Backend, given: Arrays, ta: bool = ta, tb: bool = tb) -> Sequence[Array]:
            return [on.matmul(given["a"], given["b"], Product(ta, tb, out=given["out"], add=True))]

        inputs = {"a": a, "b": b, "out": draw.normal(m, p)}
        yield Case(f"matmul {label}, added to what is there", draw.dtype, inputs, run_added, variants=EVERY)


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
