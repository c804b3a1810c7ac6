"""Depthwise convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpunet.backends import get_backend
from gpunet.backends.contract import FUSED_POOL, Activation, Conv, Gate, Into
from gpunet.check.cases.case import FAST_AND_SIMPLE, Case, Draw
from gpunet.geometry import Geometry

RELU, TANH = Activation("relu"), Activation("tanh")
SHAPES: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 17, 33, 36), (3, 3, 1, 36), {"padding": 1}),  # several splits and slices
    ((2, 9, 11, 8), (3, 3, 1, 8), {"padding": ((0, 1), (1, 0)), "stride": 2}),
    ((2, 8, 7, 12), (5, 5, 1, 12), {"padding": 2}),
    ((1, 9, 14, 4), (5, 5, 1, 4), {"padding": "same", "stride": 2}),
    ((2, 8, 9, 8), (3, 4, 1, 8), {"padding": ((1, 2), (3, 0)), "dilation": (1, 2)}),
    ((2, 7, 9, 9), (3, 3, 1, 18), {"padding": 1, "stride": (2, 1)}),
    ((2, 17, 33, 1), (3, 3, 1, 36), {"padding": 1}),  # gray images: the filters share a channel
    ((2, 8, 7, 1), (5, 5, 1, 12), {"padding": 2}),
    ((2, 9, 8, 1), (5, 5, 1, 6), {"padding": 2}),
    ((1, 9, 8, 1), (3, 4, 1, 8), {"stride": 2}),
)
"""Shapes of x and w, and options: one for each variant of the kernels."""


def cases(dtype: str) -> Iterator[Case]:
    """The cases in one dtype."""
    draw = Draw("depthwise convolutions", dtype)
    for x_shape, w_shape, options in SHAPES:
        g = Geometry.conv(x_shape, w_shape, groups=x_shape[3], **options)
        label = f"depthwise {w_shape[0]}x{w_shape[1]}, stride {g.stride}, {x_shape[3]} to {g.filters} channels"
        yield from _calls(draw, label, g)


def _calls(draw: Draw, label: str, g: Geometry) -> Iterator[Case]:
    x, w, b, dy = draw.normal(*g.x_shape), draw.normal(*g.w_shape), draw.normal(g.filters), draw.normal(*g.y_shape)
    gate = Gate(draw.rounded(np.tanh(draw.normal(*g.y_shape))), TANH)
    behind = TANH if draw.dtype == "float32" else RELU  # in 16 bits, what is in front of a pool is rounded
    for conv, given in ((Conv(g, RELU), gate), (Conv(g, behind, Geometry.pool(g.y_shape, FUSED_POOL)), None)):
        if given is None:
            label += ", pooled"
            mask = get_backend("reference").conv2d_forward(x, w, b, conv)[1]
            dy, y = draw.normal(*conv.y_shape), draw.rounded(np.tanh(draw.normal(*conv.y_shape)))
            given = Gate(y, behind, mask)
        yield draw.call("conv2d_forward", x, w, b, conv, label=label, variants=FAST_AND_SIMPLE)
        yield draw.call("conv2d_input_grad", dy, w, conv, given, label=label, variants=FAST_AND_SIMPLE)
        yield draw.call("conv2d_weight_grad", dy, x, conv, given, label=label, variants=FAST_AND_SIMPLE)
    without, dy = f"{label}, no bias", draw.normal(*g.y_shape)
    yield draw.call("conv2d_forward", x, w, None, Conv(g), label=without, variants=FAST_AND_SIMPLE)
    added = f"{label}, residual"
    yield draw.call("conv2d_forward", x, w, b, Conv(g, RELU), dy, label=added, variants=FAST_AND_SIMPLE)
    yield draw.call("conv2d_weight_grad", dy, x, Conv(g), into=Into(needs_bias=False), label=without)
