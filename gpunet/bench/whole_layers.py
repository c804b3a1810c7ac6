"""Layers as problems: the forward and the backward pass of one, as a user calls it, with the
gradients of all its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import numpy as np

from gpunet import functional as F
from gpunet.autograd import Tensor
from gpunet.backends import Backend
from gpunet.backends.contract import Array
from gpunet.bench.primitives import Arrays, Problem


@dataclass(frozen=True)
class Layer:
    """One layer in gpunet and in PyTorch."""

    x_shape: tuple[int, int, int]
    """(H, W, C) of an input image."""
    y_shape: tuple[int, int, int]
    """(H, W, C) of its output."""
    apply: Callable[..., Tensor]
    """gpunet's layer: a function of x and the parameters."""
    torch: Callable[..., Any]
    """PyTorch's layer: a function of torch.nn.functional, x and the parameters."""
    parameters: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """The shapes of the parameters, in the order in which both functions take them."""


def _batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean, variance = (Tensor(x.backend.full(weight.shape, value, x.dtype), x.backend) for value in (0.0, 1.0))
    return F.batch_norm(x, mean, variance, weight, bias, training=True)


def _upsample(mode: Any) -> Layer:
    return Layer(
        (32, 32, 64),
        (64, 64, 64),
        lambda x: F.upsample2d(x, 2, mode=mode),
        lambda functional, x: functional.interpolate(x, scale_factor=2, mode=mode),
    )


def _conv_transpose(window: int, padding: int) -> Layer:
    options: dict[str, Any] = {"stride": 2, "padding": padding}
    return Layer(
        (16, 16, 64),
        (32, 32, 32),
        partial(F.conv_transpose2d, **options),
        lambda functional, x, w, b: functional.conv_transpose2d(x, w, b, **options),
        {"w": (window, window, 32, 64), "b": (32,)},
    )


_BY_CHANNEL: dict[str, tuple[int, ...]] = {"weight": (64,), "bias": (64,)}
LAYERS = {
    "batch_norm": Layer(
        (32, 32, 64),
        (32, 32, 64),
        _batch_norm,
        lambda functional, x, weight, bias: functional.batch_norm(x, None, None, weight, bias, training=True),
        _BY_CHANNEL,
    ),
    "group_norm": Layer(
        (32, 32, 64),
        (32, 32, 64),
        lambda x, weight, bias: F.group_norm(x, 8, weight, bias),
        lambda functional, x, weight, bias: functional.group_norm(x, 8, weight, bias),
        _BY_CHANNEL,
    ),
    "max_pool": Layer(
        (32, 32, 64), (16, 16, 64), lambda x: F.max_pool2d(x, 2), lambda functional, x: functional.max_pool2d(x, 2)
    ),
    "upsample nearest": _upsample("nearest"),
    "upsample bilinear": _upsample("bilinear"),
    "conv_transpose 2x2": _conv_transpose(2, 0),
    "conv_transpose 4x4": _conv_transpose(4, 1),
}
"""The layers that are measured. Normalisation is that of training; group norm has 8 groups. The
pool has windows of 2x2, the other layers double height and width; the transposed convolutions go from 64 to 32 channels."""


def problem(case: dict[str, Any]) -> Problem:
    """Both passes of the layer that a case names, on random data."""
    layer, rng = LAYERS[case["layer"]], np.random.default_rng(0)

    def draw(shape: Sequence[int], scale: float = 1.0) -> np.ndarray:
        return (scale * rng.normal(size=shape)).astype(np.float32)

    inputs = {"x": draw((case["batch"], *layer.x_shape)), "dy": draw((case["batch"], *layer.y_shape))}
    for name, shape in layer.parameters.items():
        inputs[name] = draw(shape, prod(shape[:2]) ** -0.5 if len(shape) > 1 else 1.0)

    def run(backend: Backend, a: Arrays) -> Sequence[Array]:
        x, *parameters = (Tensor(a[name], backend, requires_grad=True) for name in ("x", *layer.parameters))
        y = layer.apply(x, *parameters)
        y.backward(a["dy"])
        return [y.data, *(t.grad for t in (x, *parameters))]

    return Problem(inputs, run, ("y", "dx", *(f"d{name}" for name in layer.parameters)))
