"""What several networks share: checks of their arguments, and the dense layers at their end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpunet import nn
from gpunet.geometry import Padding

ImageShape = tuple[int, int, int]
"""(H, W, C), without the batch axis."""
STEMS = ("small", "paper")
"""First layers: for images of about 32x32 pixels, and the paper's."""


def check_stem(model: str, stem: str) -> bool:
    """Whether the stem is the small one; ValueError for an unknown stem."""
    if stem not in STEMS:
        raise ValueError(f"{model}: stem is {stem!r} but takes {' or '.join(STEMS)}")
    return stem == "small"


def check_variant(model: str, variant: str, other: str) -> bool:
    """Whether the variant is `other`, and not the paper's; ValueError for an unknown one."""
    if variant not in ("paper", other):
        raise ValueError(f"{model}: variant is {variant!r} but takes paper or {other}")
    return variant == other


def check_extents(model: str, input_shape: ImageShape, least: int, note: str = "") -> None:
    """Raises a ValueError for images below `least` x `least` pixels; `note` ends its message."""
    h, w, _ = input_shape
    if min(h, w) < least:
        raise ValueError(f"{model}: images are {h}x{w} but must be at least {least}x{least}{note}")


def conv_norm(
    before: int, filters: int, size: int = 3, *, padding: Padding = "same", activation: str = "relu", **options: Any
) -> list[nn.Module]:
    """A convolution, batch norm and its activation.

    The convolution has no bias unless `bias` asks for one, because batch norm has one.
    """
    convolution = nn.Conv2d(before, filters, size, padding=padding, **{"bias": False, **options})
    return [convolution, nn.BatchNorm2d(filters, activation=activation)]


def dense_head(features: int, dense: Sequence[int], num_classes: int, dropout: float = 0.5) -> list[nn.Module]:
    """Hidden dense layers, each with ReLU and dropout, and the layer that gives the logits."""
    layers: list[nn.Module] = []
    for outputs in dense:
        layers += [nn.Linear(features, outputs, activation="relu"), nn.Dropout(dropout)]
        features = outputs
    return [*layers, nn.Linear(features, num_classes)]
