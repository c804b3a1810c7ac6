"""Plain deep networks of 3x3 convolutions (Simonyan & Zisserman 2015, "Very Deep Convolutional Networks …")."""

from __future__ import annotations

from gpunet import nn

VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Filters of the convolutions between the pools (table 1, column A)."""


def vgg11(input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10, batch_norm: bool = True) -> nn.Sequential:
    """VGG-11 for small images: the eight convolutions of column A, a 2x2 max pool after each group, one dense layer.

    The paper's three dense layers are for 224x224 images, of which the pools leave 7x7; of 32x32 they leave one pixel.

    Args:
        input_shape: (H, W, C), at least 32 pixels each way; 32x32x3 gives 9,225,610 parameters without batch norm, of which the
            convolutions have 9,220,480, and 9,228,362 with it.
        classes: number of outputs, logits.
        batch_norm: whether to normalise after each convolution, which then has no bias (Ioffe & Szegedy 2015; the paper is
            older).
    """
    h, w, c = input_shape
    if min(h, w) < 32:
        raise ValueError(f"vgg11: images are {h}x{w} but must be at least 32x32")
    layers: list[nn.Module] = []
    for group in VGG11:
        for filters in group:
            if batch_norm:
                layers.append(nn.Conv2d(c, filters, 3, padding="same", bias=False))
                layers.append(nn.BatchNorm2d(filters, activation="relu"))
            else:
                layers.append(nn.Conv2d(c, filters, 3, padding="same", activation="relu"))
            c = filters
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(c * (h // 32) * (w // 32), classes))
