"""Cases of pooling, resampling, normalisation, activations and losses."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from gpunet.backends import Backend, get_backend
from gpunet.backends.contract import (
    Activation,
    Array,
    BatchNorm,
    CrossEntropy,
    GroupNorm,
    InputActivation,
    Into,
    Moments,
)
from gpunet.backends.cuda.loss import SMALL_ROWS
from gpunet.check.cases.case import FAST_AND_SIMPLE, SPECIAL, Case, Draw
from gpunet.cuda.instantiations import PIECES
from gpunet.geometry import Geometry
from gpunet.resampling import averaged, linear, padded

ACTIVATIONS = (
    Activation("relu"), Activation("leaky_relu", 0.2), Activation("sigmoid"), Activation("tanh"), Activation("elu", alpha=0.7),
    Activation("relu6"), Activation("hard_tanh", min_val=-0.5, max_val=0.8), Activation("hard_sigmoid"),
)  # fmt: skip
INPUT_ACTIVATIONS = (
    InputActivation("gelu"), InputActivation("silu"), InputActivation("softplus", 2.5), InputActivation("hard_swish"),
    InputActivation("sigmoid"), InputActivation("tanh"), InputActivation("elu", 0.7),
)  # fmt: skip


def cases(dtype: str) -> Iterator[Case]:
    """The cases in one dtype."""
    draw = Draw("layers", dtype)
    yield from _pools(draw)
    yield from _resampling(draw)
    yield from _batch_norm(draw)
    yield from _batch_norm_of_ranks(draw)
    yield from _group_norm(draw)
    yield from _activations(draw)
    yield from _cross_entropy(draw)
    if dtype == "float32":
        yield from _softmax(draw)


def _pools(draw: Draw) -> Iterator[Case]:
    reference = get_backend("reference")
    for window, extents in ((3, (9, 8)), ((5, 4), (9, 8)), ((17, 16), (18, 18)), ((258, 256), (259, 258))):
        for channels in (3, PIECES[draw.dtype]):
            padding = 1 if extents == (9, 8) else 0
            g = Geometry.pool((1, *extents, channels), window, stride=2, padding=padding)
            x = draw.rng.integers(0, 9, g.x_shape).astype(np.float32)
            x[0, 1, 1, 0] = np.nan
            label = f"{window}, {channels} channels"
            yield draw.call("max_pool2d_forward", x, g, label=label, variants=FAST_AND_SIMPLE)
            mask, dy = reference.max_pool2d_forward(x, g)[1], draw.normal(*g.y_shape)
            yield draw.call("max_pool2d_backward", dy, mask, g, label=label, variants=FAST_AND_SIMPLE)
            for count in (False, True) if padding else ():
                counted = f"{label}, {'with' if count else 'without'} padding"
                yield draw.call("avg_pool2d_forward", x, g, count, label=counted)
                yield draw.call("avg_pool2d_backward", dy, g, count, label=counted)


def _resampling(draw: Draw) -> Iterator[Case]:
    for channels in (3, 4):
        rows, columns = linear(5, 11), padded(7, 2, 1, "zero")
        forward, backward = draw.normal(2, 5, 7, channels), draw.normal(2, 11, 10, channels)
        label = f"{channels} channels"
        yield draw.call("resample2d", forward, rows, columns, label=label, variants=FAST_AND_SIMPLE)
        yield draw.call(
            "resample2d",
            backward,
            rows.transposed,
            columns.transposed,
            label=f"{label}, back",
            variants=FAST_AND_SIMPLE,
        )

    for channels in (3, 8, 35, 132):  # 20x20 pixels of many channels in two launches, of few in one
        x = draw.normal(2, 20, 20, channels)
        yield draw.call("resample2d", x, averaged(20, 1), averaged(20, 1), label=f"to the mean, {channels} channels")


def _batch_norm(draw: Draw) -> Iterator[Case]:
    reference = get_backend("reference")
    cases = (
        ((2, 9, 7, 8), None, True, True), ((33, 35), ACTIVATIONS[3], True, True), ((3, 5), None, False, True),
        ((2, 5, 6, 16), Activation("relu"), True, False),
    )  # fmt: skip
    for shape, activation, training, added in cases:
        norm = BatchNorm(training, eps=1e-3, activation=activation, residual=added)
        w, b, mean, x = (draw.normal(*extents) for extents in (shape[-1:], shape[-1:], shape[-1:], shape))
        of_channels = {"w": w, "b": b, "mean": mean, "variance": draw.rounded(mean**2 + 1)}
        residual = {"residual": draw.normal(*shape)} if added else {}

        def forward(on: Any, a: Any, norm: BatchNorm = norm) -> Any:
            running = Moments(a["mean"], a["variance"])
            y, saved = on.batch_norm_forward(a["x"], a["w"], a["b"], running, norm, a.get("residual"))
            return [y, *saved, *running]

        label = f"{shape}, {'training' if training else 'inference'}"
        yield Case(
            f"batch_norm_forward {label}", draw.dtype, {"x": x, **residual, **of_channels},
            forward, frozenset(of_channels), FAST_AND_SIMPLE,
        )  # fmt: skip
        running = Moments(mean.copy(), of_channels["variance"].copy())
        y, saved = reference.batch_norm_forward(x, w, b, running, norm, residual.get("residual"))
        yield draw.call(
            "batch_norm_backward", draw.normal(*shape), x, draw.rounded(y), w, b, saved, norm,
            label=label, single=(3, 4, "5.0", "5.1"), variants=FAST_AND_SIMPLE,
        )  # fmt: skip


class _SameOnTwoRanks:
    """Implements `BatchRanks` for one of two ranks with the same elements, whose sums are twice its terms."""

    contributes = True

    def __init__(self, backend: Backend):
        self._backend = backend

    def add(self, array: Array) -> None:
        self._backend.copy(self._backend.scale(array, None, 2.0), out=array)


def _batch_norm_of_ranks(draw: Draw) -> Iterator[Case]:
    """A rank's part of a batch, there and back."""
    for shape in ((2, 9, 7, 8), (33, 35)):
        mean, x, dy = draw.normal(*shape[-1:]), draw.normal(*shape), draw.normal(*shape)
        of_channels = {"mean": mean, "variance": draw.rounded(mean**2 + 1)}

        def run(on: Any, a: Any) -> Any:
            norm, running = (
                BatchNorm(training=True, eps=1e-3, ranks=_SameOnTwoRanks(on)),
                Moments(a["mean"], a["variance"]),
            )
            y, saved = on.batch_norm_forward(a["x"], None, None, running, norm, None)
            dx, dw, db, _ = on.batch_norm_backward(a["dy"], a["x"], None, None, None, saved, norm)
            return [y, *saved, *running, dx, dw, db]

        yield Case(
            f"batch_norm of two ranks, of which one has {shape}", draw.dtype, {"x": x, "dy": dy, **of_channels},
            run, frozenset(of_channels), FAST_AND_SIMPLE,
        )  # fmt: skip


def _group_norm(draw: Draw) -> Iterator[Case]:
    reference = get_backend("reference")
    for shape, groups, affine in (
        ((2, 9, 7, 16), 2, True), ((33, 35), 5, True), ((3, 5), 1, False), ((70, 4, 8), 2, True),
        ((2, 16, 17, 12), 12, True), ((1, 19, 17, 6), 2, False),  # narrow groups of long samples, in parts
    ):  # fmt: skip
        w, b = (draw.normal(shape[-1]) if affine else None for _ in range(2))
        x, dy, label = draw.normal(*shape), draw.normal(*shape), f"{shape}, {groups} groups"
        norm = GroupNorm(groups, eps=1e-2)
        yield draw.call("group_norm_forward", x, w, b, norm, label=label, single=(1, 2), variants=FAST_AND_SIMPLE)
        saved = Moments(*(a.astype(np.float32) for a in reference.group_norm_forward(x, w, b, norm)[1]))
        single = 2, "3.0", "3.1"
        yield draw.call(
            "group_norm_backward", dy, x, w, saved, norm, label=label, single=single, variants=FAST_AND_SIMPLE
        )
        inputs = {"dy": dy, "x": x, "mean": saved.mean, "variance": saved.variance}
        inputs |= {} if w is None else {"w": w}
        inputs |= {name: np.ones(shape[-1], np.float32) for name in ("dw", "db")}

        def added(on: Any, a: Any, norm: GroupNorm = norm) -> Any:
            moments, into = Moments(a["mean"], a["variance"]), Into(a["dw"], a["db"], add=True)
            return on.group_norm_backward(a["dy"], a["x"], a.get("w"), moments, norm, into)

        yield Case(
            f"group_norm_backward {label}, added to what is there", draw.dtype, inputs, added,
            frozenset(inputs) - {"dy", "x"}, FAST_AND_SIMPLE,
        )  # fmt: skip


def _activations(draw: Draw) -> Iterator[Case]:
    reference = get_backend("reference")
    for activation in ACTIVATIONS:
        yield draw.call("activation_forward", SPECIAL, activation, label=activation.name)
        y = draw.rounded(reference.activation_forward(SPECIAL, activation))
        yield draw.call("activation_backward", draw.normal(3, 5), y, activation, label=activation.name)
    for kind in INPUT_ACTIVATIONS:
        yield draw.call("input_activation_forward", 3 * SPECIAL[:, :-1].copy(), kind, label=kind.name)
        x = draw.rounded(3 * draw.normal(3, 40))
        yield draw.call("input_activation_backward", draw.normal(3, 40), x, kind, label=kind.name)


def _cross_entropy(draw: Draw) -> Iterator[Case]:
    logits, labels = draw.normal(19, 33), draw.rng.integers(0, 33, 19).astype(np.int32)
    weight = draw.rng.uniform(0.5, 2, 33).astype(np.float32)
    many = draw.rng.integers(0, 3, SMALL_ROWS + 1).astype(np.int32)
    weighted = CrossEntropy(weight, 0.1)
    of_many = CrossEntropy(weight[:3], 0.1, ignore_index=1)
    long, of_long = draw.normal(5, 300), draw.rng.integers(0, 300, 5).astype(np.int32)  # a block takes a row
    for label, given, options in (
        ("of long rows", (long, of_long), CrossEntropy(None, 0.1, ignore_index=int(of_long[2]), reduction="none")),
        ("weighted", (logits, labels), weighted._replace(ignore_index=int(labels[3]))),
        ("plain", (logits, labels), CrossEntropy()),
        ("by rows", (logits, labels), weighted._replace(reduction="none")),
        ("of logarithms", (logits, labels), weighted._replace(reduction="sum", normalized=True)),
        (f"{len(many)} rows", (draw.normal(len(many), 3), many), of_many),
        (f"{len(many)} rows by rows", (draw.normal(len(many), 3), many), of_many._replace(reduction="none")),
    ):
        yield draw.call(
            "softmax_cross_entropy", *given, options, label=label, single=("2.0",), variants=FAST_AND_SIMPLE
        )


def _softmax(draw: Draw) -> Iterator[Case]:
    logits = draw.normal(19, 33)
    for x, log in product((logits, draw.normal(5, 300)), (False, True)):  # a warp takes a row, or a block
        dy, label = draw.normal(*x.shape), f"{'logarithm ' * log}{x.shape}"
        yield draw.call("softmax_forward", x, log=log, label=label)
        y = get_backend("reference").softmax_forward(x, log=log)
        yield draw.call("softmax_backward", dy, y, log=log, label=label)
    labels, weight = draw.rng.integers(0, 3, 999).astype(np.int32), draw.rng.uniform(0.5, 2, 3).astype(np.float32)
    yield draw.call("label_weight", labels, 3, CrossEntropy(weight, ignore_index=1), single=("2.0",))
    yield draw.call("sigmoid_cross_entropy", logits, draw.rng.uniform(size=(19, 33)).astype(np.float32))
