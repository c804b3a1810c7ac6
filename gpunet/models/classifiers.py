"""Small image classifiers: LeNet-5, and the plain network of today's courses."""

from __future__ import annotations

from gpunet import nn
from gpunet.models.parts import ImageShape, check_extents
from gpunet.nn.origin import recorded

__all__ = ["cnn", "lenet"]


@recorded
def lenet(input_shape: ImageShape = (28, 28, 1), num_classes: int = 10) -> nn.Sequential:
    """LeNet-5 (LeCun et al. 1998, section II.B) with ReLU and max pooling, as it is taught today.

    Args:
        input_shape: (H, W, C), at least 12x12 pixels; 28x28x1 gives 61,706 parameters.
        num_classes: number of outputs, logits.
    """
    h, w, c = input_shape
    check_extents("lenet", input_shape, 12, "; use cnn for smaller images")
    features = 16 * ((h // 2 - 4) // 2) * ((w // 2 - 4) // 2)
    return nn.Sequential(
        nn.Conv2d(c, 6, 5, padding="same", activation="relu"), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5, padding="valid", activation="relu"), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(features, 120, activation="relu"), nn.Linear(120, 84, activation="relu"),
        nn.Linear(84, num_classes),
    )  # fmt: skip


@recorded
def cnn(input_shape: ImageShape = (28, 28, 1), num_classes: int = 10, dropout: float = 0.0) -> nn.Sequential:
    """The plain network of today's courses: 3x3 convolutions, max pools and dense layers.

    Two blocks, with 32 and 64 filters, have two convolutions and a pool each; the hidden dense
    layer has 128 outputs. ReLU follows each layer but the last.

    Args:
        input_shape: (H, W, C), at least 4x4 pixels; 28x28x1 gives 467,818 parameters.
        num_classes: number of outputs, logits.
        dropout: probability of dropping an element before each dense layer.
    """
    h, w, c = input_shape
    check_extents("cnn", input_shape, 4)
    layers: list[nn.Module] = []
    for before, filters in ((c, 32), (32, 64)):
        layers += [
            nn.Conv2d(before, filters, 3, padding="same", activation="relu"),
            nn.Conv2d(filters, filters, 3, padding="same", activation="relu"),
            nn.MaxPool2d(2),
        ]  # fmt: skip
    drop = [nn.Dropout(dropout)] if dropout else []
    features = 64 * (h // 2 // 2) * (w // 2 // 2)
    head = [nn.Flatten(), *drop, nn.Linear(features, 128, activation="relu"), *drop, nn.Linear(128, num_classes)]
    return nn.Sequential(*layers, *head)
