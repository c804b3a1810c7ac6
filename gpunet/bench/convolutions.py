"""The convolutions of the nets as problems: each pass by itself, and the fused passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from math import prod
from typing import Any

import numpy as np

from gpunet.backends import Backend
from gpunet.backends.contract import FUSED_POOL, Activation, Array, Conv, Gate, Into
from gpunet.bench import nets
from gpunet.bench.nets import Convolution
from gpunet.bench.primitives import TOLERANCE, Arrays, Problem
from gpunet.geometry import Geometry
from gpunet.precision import STORED

PASSES = ("forward", "input_grad", "weight_grad", "fused")
"""Passes that are measured. "fused" is the convolution with its bias, the ReLU and the 2x2 max pool
that the net fuses into it, and all gradients."""
GATED = ("gated_input_grad", "gated_weight_grad")
FUSED = ("fused", "fused_forward", *GATED)
"""The fused pass and its parts, see `parts`."""
SINGLE = "56x56"
"""The name of a convolution that belongs to no net, of a size that papers often time."""
SINGLE_LAYER, SINGLE_BATCH = Convolution((56, 56, 64), (3, 3, 64, 64), activation=True), 32
CHECKED = 10**8
"""Multiply-adds that are compared with float64. Of a large batch, only some images are compared."""
FUSED_CHECKED = 10**7
"""The same for the fused pass, of which fewer are compared, with wider tolerances."""
TOLERANCES = {
    "float32": (TOLERANCE, 1e-2), "3xtf32": (TOLERANCE, 1e-2), "tf32": (2e-3, 0.1), "bfloat16": (1e-2, 0.25),
    "float16": (2e-3, 0.1),
}  # fmt: skip
"""The largest errors that are allowed: of a single pass, and of the fused pass. There, if the two
largest elements of a window differ by no more than rounding, another one may win, and a gradient
goes to another place. A wrong gradient would still exceed the tolerance by far."""
RELU = Activation("relu")
Make = Callable[[int], Conv]
"""Returns the convolution for a number of images."""


@cache
def layers_of(net: str) -> list[Convolution]:
    """The convolutions of a net, or the one that `SINGLE` names."""
    return [SINGLE_LAYER] if net == SINGLE else nets.convolutions(net)


def layer(case: dict[str, Any]) -> Convolution:
    """The convolution of a case."""
    return layers_of(case["net"])[case["layer"]]


def problem(case: dict[str, Any]) -> Problem:
    """The pass that a case names, or one of its `parts`, on random data.

    It is computed in float32 if the case names no precision.
    """
    found, which, precision = layer(case), case["pass"], case.get("precision", "float32")
    make = partial(_conv, found, which in FUSED, "float32" if precision in STORED else precision)
    conv, rng = make(case["batch"]), np.random.default_rng(0)
    geometry = conv.geometry

    def draw(shape: Sequence[int], scale: float = 1.0) -> np.ndarray:
        array = (scale * rng.normal(size=shape)).astype(np.float32)
        return array.astype(np.dtype(precision)) if precision in STORED else array

    inputs = {
        "x": draw(geometry.x_shape),
        "w": draw(geometry.w_shape, prod(geometry.w_shape[:3]) ** -0.5),
        "b": draw((geometry.filters,)),
        "dy": draw(conv.y_shape),
    }
    if which in GATED:
        inputs["y"] = draw(conv.y_shape)
    taken, outputs, function = _RUNS[which]
    if which == "fused" and found.inner:
        outputs = (*outputs, "dx")
    images = _checked_images(geometry, FUSED_CHECKED if which in FUSED else CHECKED)
    return Problem(
        {name: inputs[name] for name in taken},
        lambda backend, arrays: function(backend, arrays, make, *([found.inner] if which == "fused" else [])),
        outputs=outputs, images=images, batched=tuple(name for name in ("x", "dy", "y") if name in taken),
        summed=("dw", "db"), tolerance=TOLERANCES[precision][which in FUSED],
    )  # fmt: skip


def parts(case: dict[str, Any]) -> list[dict[str, Any]]:
    """The launches of a pass as cases of their own: three of the fused pass, and one of the others.

    The gradients of the fused pass have a gate only where no max pool is fused, for behind the pool
    it is opened by another launch.
    """
    found, names = layer(case), [case["pass"]]
    if case["pass"] == "fused":
        gate = "gated_" if found.activation and not found.pool else ""
        names = ["fused_forward", *([f"{gate}input_grad"] if found.inner else []), f"{gate}weight_grad"]
    return [{**case, "pass": name} for name in names]


def _checked_images(geometry: Geometry, most: int) -> np.ndarray | None:
    """Positions of the images that are compared, evenly spaced, with at most `most` multiply-adds;
    None for all images."""
    n = geometry.x_shape[0]
    count = max(1, most * n // geometry.multiply_adds)
    return None if count >= n else np.linspace(0, n - 1, count).astype(int)


def _conv(found: Convolution, fused: bool, precision: str, batch: int) -> Conv:
    """The convolution, with what the net has fused behind it if `fused`."""
    geometry = found.geometry(batch)
    pool = Geometry.pool(geometry.y_shape, FUSED_POOL) if fused and found.pool else None
    return Conv(geometry, RELU if fused and found.activation else None, pool, precision)


def _forward(backend: Backend, a: Arrays, make: Make) -> Sequence[Array]:
    return [backend.conv2d_forward(a["x"], a["w"], None, make(a["x"].shape[0]))[0]]


def _input_grad(backend: Backend, a: Arrays, make: Make) -> Sequence[Array]:
    conv = make(a["dy"].shape[0])
    return [backend.conv2d_input_grad(a["dy"], a["w"], conv, _gate(a, conv))]


def _weight_grad(backend: Backend, a: Arrays, make: Make) -> Sequence[Array]:
    conv = make(a["x"].shape[0])
    into = Into(needs_bias=conv.activation is not None)
    dw, db = backend.conv2d_weight_grad(a["dy"], a["x"], conv, _gate(a, conv), into)
    return [dw] if db is None else [dw, db]


def _gate(a: Arrays, conv: Conv) -> Gate | None:
    return conv.gate(a["y"], None) if "y" in a else None


def _fused_forward(backend: Backend, a: Arrays, make: Make) -> Sequence[Array]:
    return [backend.conv2d_forward(a["x"], a["w"], a["b"], make(a["x"].shape[0]))[0]]


def _fused(backend: Backend, a: Arrays, make: Make, inner: bool) -> Sequence[Array]:
    conv = make(a["x"].shape[0])
    y, mask = backend.conv2d_forward(a["x"], a["w"], a["b"], conv)
    dy, gate = backend.open_pool(a["dy"], conv, conv.gate(y, mask))
    dw, db = backend.conv2d_weight_grad(dy, a["x"], conv, gate)
    dx = [backend.conv2d_input_grad(dy, a["w"], conv, gate)] if inner else []
    return [y, dw, db, *dx]


_RUNS: dict[str, tuple[tuple[str, ...], tuple[str, ...], Callable[..., Sequence[Array]]]] = {
    "forward": (("x", "w"), ("y",), _forward),
    "input_grad": (("dy", "w"), ("dx",), _input_grad),
    "weight_grad": (("dy", "x"), ("dw",), _weight_grad),
    "fused": (("x", "w", "b", "dy"), ("y", "dw", "db"), _fused),
    "fused_forward": (("x", "w", "b"), ("y",), _fused_forward),
    "gated_input_grad": (("dy", "w", "y"), ("dx",), _input_grad),
    "gated_weight_grad": (("dy", "x", "y"), ("dw", "db"), _weight_grad),
}
"""Of each pass, and of the parts of the fused one: what it takes, what it returns, how it runs."""
