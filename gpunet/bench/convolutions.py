"""The convolutions of the nets as problems: each pass by itself, and the fused passes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np

from gpunet.backends import Backend
from gpunet.backends.contract import FUSED_POOL, Activation, Array, Conv, Into
from gpunet.bench import nets
from gpunet.bench.nets import Convolution
from gpunet.bench.primitives import TOLERANCE, Arrays, Problem
from gpunet.geometry import Geometry

PASSES = ("forward", "input_grad", "weight_grad", "fused")
"""Passes that are measured. "fused" is the convolution with its bias, the ReLU and the 2x2 max pool
that the net fuses into it, and all gradients."""
SINGLE = "56x56"
"""The name of a convolution that belongs to no net, of a size that papers often time."""
SINGLE_LAYER, SINGLE_BATCH = Convolution((56, 56, 64), (3, 3, 64, 64), activation=True), 32
CHECKED = 10**8
"""Multiply-adds that are compared with float64. Of a large batch, only some images are compared."""
FUSED_CHECKED, FUSED_TOLERANCE = 10**7, 1e-2
"""The same for the fused pass. If the two largest elements of a window differ by no more than
rounding, another one may win, and a gradient goes to another place. So fewer multiply-adds are
compared, with a wider tolerance, which a wrong gradient would still exceed by far."""
RELU = Activation("relu")


@cache
def layers_of(net: str) -> list[Convolution]:
    """The convolutions of a net, or the one that `SINGLE` names."""
    return [SINGLE_LAYER] if net == SINGLE else nets.convolutions(net)


def layer(case: dict[str, Any]) -> Convolution:
    """The convolution of a case."""
    return layers_of(case["net"])[case["layer"]]


def problem(case: dict[str, Any]) -> Problem:
    """The pass that a case names, on random data."""
    found, which = layer(case), case["pass"]
    geometry = found.geometry(case["batch"])
    rng = np.random.default_rng(0)

    def draw(shape: Sequence[int], scale: float = 1.0) -> np.ndarray:
        return (scale * rng.normal(size=shape)).astype(np.float32)

    conv = _fused_conv(found, case["batch"]) if which == "fused" else Conv(geometry)
    inputs = {
        "x": draw(geometry.x_shape),
        "w": draw(geometry.w_shape, prod(geometry.w_shape[:3]) ** -0.5),
        "b": draw((geometry.filters,)),
        "dy": draw(conv.y_shape),
    }
    taken, outputs, function = {
        "forward": (("x", "w"), ("y",), _forward),
        "input_grad": (("dy", "w"), ("dx",), _input_grad),
        "weight_grad": (("dy", "x"), ("dw",), _weight_grad),
        "fused": (("x", "w", "b", "dy"), ("y", "dw", "db", *(("dx",) if found.inner else ())), _fused),
    }[which]
    images = _checked_images(geometry, FUSED_CHECKED if which == "fused" else CHECKED)
    return Problem(
        {name: inputs[name] for name in taken},
        lambda backend, arrays: function(backend, arrays, found),
        outputs=outputs, images=images, batched=tuple(name for name in ("x", "dy") if name in taken),
        summed=("dw", "db"), tolerance=FUSED_TOLERANCE if which == "fused" else TOLERANCE,
    )  # fmt: skip


def _checked_images(geometry: Geometry, most: int) -> np.ndarray | None:
    """Positions of the images that are compared, evenly spaced, with at most `most` multiply-adds;
    None for all images."""
    n = geometry.x_shape[0]
    count = max(1, most * n // geometry.multiply_adds)
    return None if count >= n else np.linspace(0, n - 1, count).astype(int)


def _forward(backend: Backend, a: Arrays, found: Convolution) -> Sequence[Array]:
    return [backend.conv2d_forward(a["x"], a["w"], None, Conv(found.geometry(a["x"].shape[0])))[0]]


def _input_grad(backend: Backend, a: Arrays, found: Convolution) -> Sequence[Array]:
    return [backend.conv2d_input_grad(a["dy"], a["w"], Conv(found.geometry(a["dy"].shape[0])))]


def _weight_grad(backend: Backend, a: Arrays, found: Convolution) -> Sequence[Array]:
    conv = Conv(found.geometry(a["x"].shape[0]))
    return [backend.conv2d_weight_grad(a["dy"], a["x"], conv, into=Into(needs_bias=False))[0]]


def _fused(backend: Backend, a: Arrays, found: Convolution) -> Sequence[Array]:
    conv = _fused_conv(found, a["x"].shape[0])
    y, mask = backend.conv2d_forward(a["x"], a["w"], a["b"], conv)
    dy, gate = backend.open_pool(a["dy"], conv, conv.gate(y, mask))
    dw, db = backend.conv2d_weight_grad(dy, a["x"], conv, gate)
    dx = [backend.conv2d_input_grad(dy, a["w"], conv, gate)] if found.inner else []
    return [y, dw, db, *dx]


def _fused_conv(found: Convolution, batch: int) -> Conv:
    """The convolution with what the net has fused behind it."""
    geometry = found.geometry(batch)
    pool = Geometry.pool(geometry.y_shape, FUSED_POOL) if found.pool else None
    return Conv(geometry, RELU if found.activation else None, pool)
