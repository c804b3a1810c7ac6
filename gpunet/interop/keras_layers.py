"""Keras's layers that have weights: the order of their arrays, and how gpunet lays them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpunet import nn
from gpunet.nn import Module

CONV, DEPTHWISE, POINTWISE = "convolution", "depthwise convolution", "pointwise convolution"
TRANSPOSED, DENSE = "transposed convolution", "dense layer"
BATCH, LAYER, GROUP, SLOPES = "batch norm", "layer norm", "group norm", "PReLU"
"""Kinds of layers; those of one kind are matched in their order."""

CLASSES = {
    "Conv2D": "conv2d", "DepthwiseConv2D": "depthwise_conv2d", "SeparableConv2D": "separable_conv2d",
    "Conv2DTranspose": "conv2d_transpose", "Dense": "dense", "BatchNormalization": "batch_normalization",
    "LayerNormalization": "layer_normalization", "GroupNormalization": "group_normalization", "PReLU": "p_re_lu",
}  # fmt: skip
"""Keras's classes, and how its files call them."""
KINDS = {
    "conv2d": CONV, "depthwise_conv2d": DEPTHWISE, "conv2d_transpose": TRANSPOSED, "dense": DENSE,
    "batch_normalization": BATCH, "layer_normalization": LAYER, "group_normalization": GROUP, "p_re_lu": SLOPES,
}  # fmt: skip
"""The kind of each; a separable convolution is two layers."""
SEPARABLE = "separable_conv2d"
NORMS = (BATCH, LAYER, GROUP)
EPSILON = 1e-3
"""Keras's default, where gpunet has 1e-5."""


@dataclass(frozen=True)
class Unit:
    """Arrays of a file that one layer of gpunet takes.

    Attributes:
        path: of the layer in the file.
        kind: see above.
        arrays: {entry here: (path of the array, array)}.
        config: the layer's settings; empty where the file does not have them.
    """

    path: str
    kind: str
    arrays: Mapping[str, tuple[str, np.ndarray]]
    config: Mapping[str, Any]


def kind_of(module: Module) -> str | None:
    """The kind of a layer of gpunet's; None for one without weights that Keras has."""
    if isinstance(module, nn.Conv2d):
        return DEPTHWISE if module.groups > 1 and module.weight.shape[2] == 1 else CONV
    kinds = {
        nn.ConvTranspose2d: TRANSPOSED, nn.Linear: DENSE, nn.BatchNorm2d: BATCH, nn.LayerNorm: LAYER,
        nn.GroupNorm: GROUP, nn.PReLU: SLOPES,
    }  # fmt: skip
    return next((kind for made, kind in kinds.items() if isinstance(module, made)), None)


def units(path: str, name: str, variables: Sequence[np.ndarray], config: Mapping[str, Any]) -> list[Unit]:
    """What a layer of a file holds for layers of gpunet's: one unit, or two of a separable one.

    Args:
        path: of the layer.
        name: what files call its class, such as "conv2d".
        variables: its arrays, in Keras's order.
        config: its settings, or {}.
    Raises:
        ValueError: as many arrays as no such layer has.
    """
    placed = [(f"{path}/vars/{i}", array) for i, array in enumerate(variables)]
    if name == SEPARABLE:
        if len(placed) not in (2, 3):
            raise ValueError(f"{path} has {len(placed)} arrays but a separable convolution has 2 or 3")
        depthwise = Unit(path, DEPTHWISE, {"weight": _depthwise(*placed[0])}, config)
        return [depthwise, Unit(path, POINTWISE, dict(zip(("weight", "bias"), placed[1:], strict=False)), config)]
    kind = KINDS[name]
    if kind in NORMS:
        return [Unit(path, kind, _norm(path, kind, placed, config), config)]
    if len(placed) not in ((1,) if kind == SLOPES else (1, 2)):
        raise ValueError(f"{path} has {len(placed)} arrays, which no {kind} has")
    weight = placed[0]
    if kind == CONV and config.get("groups", 1) != 1 and weight[1].ndim == 4 and weight[1].shape[2] == 1:
        kind = DEPTHWISE
    elif kind == DEPTHWISE:
        weight = _depthwise(*weight)
    elif kind == SLOPES and weight[1].ndim and all(n == 1 for n in weight[1].shape[:-1]):
        weight = weight[0], weight[1].reshape(-1)  # shared_axes=[1, 2]
    return [Unit(path, kind, dict(zip(("weight", "bias"), [weight, *placed[1:]], strict=False)), config)]


def _depthwise(path: str, kernel: np.ndarray) -> tuple[str, np.ndarray]:
    """Keras's (KH, KW, C, M) as (KH, KW, 1, C M): the filters of a channel stand side by side."""
    if kernel.ndim != 4:
        raise ValueError(f"{path} is {kernel.shape} but a depthwise kernel has 4 axes")
    kh, kw, channels, filters = kernel.shape
    return path, kernel.reshape(kh, kw, 1, channels * filters)


def _norm(path: str, kind: str, placed: list[Any], config: Mapping[str, Any]) -> dict[str, tuple[str, np.ndarray]]:
    """The arrays of a norm, of which scale=False and center=False leave some out."""
    moments = ["running_mean", "running_var"] if kind == BATCH else []
    names = [name for name, said in (("weight", "scale"), ("bias", "center")) if config.get(said, True)]
    if not config and len(placed) == len(moments):
        names = []
    if len(placed) != len(names) + len(moments):
        told = "" if config else ", and a file without settings does not tell which: give a .keras file"
        raise ValueError(f"{path} has {len(placed)} arrays but a {kind} has {len(names) + len(moments)}{told}")
    return dict(zip(names + moments, placed, strict=True))


def neutral(module: Module, entry: str) -> np.ndarray | None:
    """What a norm's absent scale or shift stands for: 1 or 0."""
    value = getattr(module, entry, None)
    if kind_of(module) not in NORMS or value is None or entry not in ("weight", "bias"):
        return None
    return np.full(value.shape, 1.0 if entry == "weight" else 0.0, np.float32)
