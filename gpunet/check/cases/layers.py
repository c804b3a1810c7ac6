"""Cases of pooling, resampling, normalisation, activations and losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpunet.backends import get_backend
from gpunet.backends.contract.activation import Activation, InputActivation
from gpunet.backends.contract.norm import Moments
from gpunet.backends.cuda.loss import SMALL_ROWS
from gpunet.check.cases.case import FAST_AND_SIMPLE, Case, Draw
from gpunet.geometry import Geometry
from gpunet.resampling import linear, padded

ACTIVATIONS = (
    Activation("relu"), Activation("leaky_relu", 0.2), Activation("sigmoid"), Activation("tanh"), Activation("elu", alpha=0.7),
    Activation("relu6"), Activation("hard_tanh", low=-0.5, high=0.8), Activation("hard_sigmoid"),
)  # fmt: skip
INPUT_ACTIVATIONS = (
    InputActivation("gelu"), InputActivation("silu"), InputActivation("softplus", 2.5), InputActivation("hard_swish"),
    InputActivation("sigmoid"), InputActivation("tanh"), InputActivation("elu", 0.7),
)  # fmt: skip
SPECIAL = np.resize(np.array([0.5, -2, 0, 3, np.nan, np.inf], np.float32), (3, 5))
"""Numbers with NaN and infinity among them."""


def cases(dtype: str) -> Iterator[Case]:
    """The cases in one dtype."""
    draw = Draw("layers", dtype)
    yield from _pools(draw)
    yield from _resampling(draw)
    yield from _batch_norm(draw)
    yield from _group_norm(draw)
    yield from _activations(draw)
    yield from _cross_entropy(draw)
    if dtype == "float32":
        yield from _softmax(draw)


def _pools(draw: Draw) -> Iterator[Case]:
    reference = get_backend("reference")
    for window, extents in ((3, (9, 8)), ((17, 16), (18, 18)), ((258, 256), (259, 258))):
        for channels in (3, 4):
            padding = 1 if window == 3 else 0
            g = Geometry.pool((1, *extents, channels), window, stride=2, padding=padding)
            x = draw.rng.integers(0, 9, g.x_shape).astype(np.float32)
            x[0, 1, 1, 0] = np.nan
            label = f"{window}, {channels} channels"
            yield draw.call("max_pool2d_forward", x, g, label=label, variants=FAST_AND_SIMPLE)
            mask, dy = reference.max_pool2d_forward(x, g)[1], draw.normal(*g.y_shape)
            yield draw.call("max_pool2d_backward", dy, mask, g, label=label, variants=FAST_AND_SIMPLE)
            for count in (False, True) if window == 3 else ():
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


def _batch_norm(draw: Draw) -> Iterator[Case]:
    reference = get_backend("reference")
    cases = ((2, 9, 7, 8), None, True), ((33, 35), ACTIVATIONS[3], True), ((3, 5), None, False)
    for shape, activation, training in cases:
        options: dict[str, Any] = {"eps": 1e-3, "training": training, "activation": activation}
        gamma, beta, mean, x = (draw.normal(*extents) for extents in (shape[-1:], shape[-1:], shape[-1:], shape))
        of_channels = {"gamma": gamma, "beta": beta, "mean": mean, "variance": draw.rounded(mean**2 + 1)}
        residual = draw.normal(*shape)
        names = tuple(of_channels)

        def forward(on: Any, a: Any, options: Any = options, names: Any = names) -> Any:
            y, saved = on.batch_norm_forward(
                a["x"], *(a[name] for name in names), momentum=0.1, residual=a["residual"], **options
            )
            return [y, *saved, a["mean"], a["variance"]]

        label = f"{shape}, {'training' if training else 'inference'}"
        yield Case(
            f"batch_norm_forward {label}", draw.dtype, {"x": x, "residual": residual, **of_channels}, forward,
            frozenset(names), FAST_AND_SIMPLE,
        )  # fmt: skip
        arrays = [a.copy() for a in of_channels.values()]
        y, saved = reference.batch_norm_forward(x, *arrays, momentum=0.1, residual=residual, **options)
        yield draw.call(
            "batch_norm_backward", draw.normal(*shape), x, draw.rounded(y), gamma, saved,
            residual=True, label=label, single=(3, "4.0", "4.1"), variants=FAST_AND_SIMPLE, **options,
        )  # fmt: skip


def _group_norm(draw: Draw) -> Iterator[Case]:
    reference = get_backend("reference")
    for shape, groups, affine in (
        ((2, 9, 7, 16), 2, True), ((33, 35), 5, True), ((3, 5), 1, False), ((70, 4, 8), 2, True),
    ):  # fmt: skip
        gamma, beta = (draw.normal(shape[-1]) if affine else None for _ in range(2))
        x, dy, label = draw.normal(*shape), draw.normal(*shape), f"{shape}, {groups} groups"
        options: dict[str, Any] = {"groups": groups, "eps": 1e-2}
        yield draw.call(
            "group_norm_forward", x, gamma, beta, label=label, single=(1, 2), variants=FAST_AND_SIMPLE, **options
        )
        saved = Moments(*(a.astype(np.float32) for a in reference.group_norm_forward(x, gamma, beta, **options)[1]))
        single = 2, "3.0", "3.1"
        yield draw.call(
            "group_norm_backward", dy, x, gamma, saved, label=label, single=single, variants=FAST_AND_SIMPLE, **options
        )
        inputs = {"dy": dy, "x": x, "mean": saved.mean, "variance": saved.variance}
        inputs |= {} if gamma is None else {"gamma": gamma}
        inputs |= {name: np.ones(shape[-1], np.float32) for name in ("gamma_out", "beta_out")}

        def added(on: Any, a: Any, options: Any = options) -> Any:
            moments, out = Moments(a["mean"], a["variance"]), {name: a[name] for name in ("gamma_out", "beta_out")}
            return on.group_norm_backward(a["dy"], a["x"], a.get("gamma"), moments, accumulate=True, **out, **options)

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
    options: dict[str, Any] = {"smoothing": 0.1, "single": ("weight",), "variants": FAST_AND_SIMPLE}
    yield draw.call(
        "softmax_cross_entropy", logits, labels, weight=weight, ignore_index=int(labels[3]), label="weighted", **options
    )
    yield draw.call(
        "softmax_cross_entropy", logits, labels,
        weight=None, smoothing=0.0, ignore_index=None, label="plain", variants=FAST_AND_SIMPLE,
    )  # fmt: skip
    yield draw.call(
        "softmax_cross_entropy", logits, labels,
        weight=weight, ignore_index=None, reduction="none", label="by rows", **options,
    )  # fmt: skip
    yield draw.call(
        "softmax_cross_entropy", logits, labels,
        weight=weight, ignore_index=None, reduction="sum", normalized=True, label="of logarithms", **options,
    )  # fmt: skip
    many = draw.rng.integers(0, 3, SMALL_ROWS + 1).astype(np.int32)
    yield draw.call(
        "softmax_cross_entropy", draw.normal(len(many), 3), many,
        weight=weight[:3], ignore_index=1, label=f"{len(many)} rows", **options,
    )  # fmt: skip
    yield draw.call(
        "softmax_cross_entropy", draw.normal(len(many), 3), many,
        weight=weight[:3], ignore_index=1, reduction="none", label=f"{len(many)} rows by rows", **options,
    )  # fmt: skip


def _softmax(draw: Draw) -> Iterator[Case]:
    logits, dy = draw.normal(19, 33), draw.normal(19, 33)
    for log in (False, True):
        label = "logarithm" if log else ""
        yield draw.call("softmax_forward", logits, log=log, label=label)
        y = get_backend("reference").softmax_forward(logits, log=log)
        yield draw.call("softmax_backward", dy, y, log=log, label=label)
    labels, weight = draw.rng.integers(0, 3, 999).astype(np.int32), draw.rng.uniform(0.5, 2, 3).astype(np.float32)
    yield draw.call("label_weight", labels, weight, classes=3, ignore_index=1, single=("weight",))
    yield draw.call("sigmoid_cross_entropy", logits, draw.rng.uniform(size=(19, 33)).astype(np.float32))
