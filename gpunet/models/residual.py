"""Residual networks (He et al. 2016, "Deep Residual Learning for Image Recognition")."""

from __future__ import annotations

from gpunet import nn


def resnet9(input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10) -> nn.Sequential:
    """The nine-layer residual net of fast CIFAR-10 training (Page 2018, "How to Train Your ResNet", part 4).

    Convolutions 3x3 of 64, 128 + pool, residual(128), 256 + pool, 512 + pool, residual(512) filters, each with batch norm and
    ReLU; two to a residual; then the maximum over what is left of the image (4x4 of 32x32) and a dense layer.

    Args:
        input_shape: (H, W, C), at least 8 pixels each way; 32x32x3 gives 6,573,130 parameters.
        classes: number of outputs, logits.
    """
    h, w, c = input_shape
    if min(h, w) < 8:
        raise ValueError(f"resnet9: images are {h}x{w} but must be at least 8x8")
    return nn.Sequential(
        *_conv(c, 64),
        *_conv(64, 128), nn.MaxPool2d(2),
        nn.Residual(*_conv(128, 128), *_conv(128, 128)),
        *_conv(128, 256), nn.MaxPool2d(2),
        *_conv(256, 512), nn.MaxPool2d(2),
        nn.Residual(*_conv(512, 512), *_conv(512, 512)),
        nn.MaxPool2d((h // 8, w // 8)), nn.Flatten(), nn.Linear(512, classes),
    )  # fmt: skip


def _conv(before: int, filters: int) -> list[nn.Module]:
    # no bias: batch norm would take it off again, and has its own
    return [
        nn.Conv2d(before, filters, 3, padding="same", bias=False),
        nn.BatchNorm2d(filters, activation="relu"),
    ]
