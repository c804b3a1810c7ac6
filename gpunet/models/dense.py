"""The dense layers at the end of the networks that have several."""

from __future__ import annotations

from collections.abc import Sequence

from gpunet import nn


def dense_head(features: int, dense: Sequence[int], classes: int, dropout: float = 0.5) -> list[nn.Module]:
    """Hidden dense layers, each with ReLU and dropout, and the one that gives the logits."""
    layers: list[nn.Module] = []
    for outputs in dense:
        layers += [nn.Linear(features, outputs, activation="relu"), nn.Dropout(dropout)]
        features = outputs
    return [*layers, nn.Linear(features, classes)]
