"""A network that trains in a moment, for campaigns of many runs: ``gpunet train --model tiny_net:make``."""

from gpunet import nn


def make(input_shape, num_classes):
    """A convolution with batch norm, dropout and a dense layer: weights, buffers and random masks."""
    h, w, c = input_shape
    return nn.Sequential(
        nn.Conv2d(c, 4, kernel_size=3, padding="same"), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.25), nn.Linear(h // 2 * (w // 2) * 4, num_classes),
    )  # fmt: skip
