"""Plain deep networks of 3x3 convolutions.

Simonyan & Zisserman 2015, "Very deep convolutional networks for large-scale image recognition".
"""

from __future__ import annotations

from collections.abc import Sequence

from gpunet import nn
from gpunet.models.parts import ImageShape, check_extents, check_variant, conv_norm, dense_head
from gpunet.nn.origin import recorded

__all__ = ["vgg11", "vgg16"]

FILTERS = {
    "vgg11": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "vgg16": ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}
"""Filters of the convolutions between the pools (table 1, columns A and D)."""
TORCHVISION_PIXELS = 7
"""Height and width of what torchvision's dense layers take, which 224x224 pixels leave."""


@recorded
def vgg11(
    input_shape: ImageShape = (32, 32, 3),
    num_classes: int = 10,
    batch_norm: bool = True,
    dense: Sequence[int] = (),
    variant: str = "paper",
) -> nn.Sequential:
    """VGG-11: the eight convolutions of column A, a 2x2 max pool per group, dense layers.

    The paper's hidden dense layers, `dense=(4096, 4096)`, are for images of 224x224 pixels, of
    which the pools leave 7x7. With its 1,000 classes and no batch norm there are 132,863,336
    parameters. Of 32x32 pixels the pools leave one, so there are no hidden dense layers by default.

    Args:
        input_shape: (H, W, C), at least 32x32 pixels; 32x32x3 gives 9,225,610 parameters without
            batch norm, of which the convolutions have 9,220,480, and 9,228,362 with it.
        num_classes: number of outputs, logits.
        batch_norm: whether to normalise after each convolution, which then has no bias (Ioffe &
            Szegedy 2015; the VGG paper is older).
        dense: outputs of the hidden dense layers, each with ReLU and, as in the paper, dropout of
            0.5.
        variant: "paper", or "torchvision" for the network of torchvision's weights, with
            `dense=(4096, 4096)`: the mean over 7x7 windows comes before the dense layers, whatever
            the images' size, and convolutions have a bias beside batch norm too.
    """
    return _vgg("vgg11", input_shape, num_classes, batch_norm, dense, variant)


@recorded
def vgg16(
    input_shape: ImageShape = (32, 32, 3),
    num_classes: int = 10,
    batch_norm: bool = True,
    dense: Sequence[int] = (),
    variant: str = "paper",
) -> nn.Sequential:
    """VGG-16: the thirteen convolutions of column D; the arguments are those of `vgg11`.

    32x32x3 gives 14,719,818 parameters without batch norm, of which the convolutions have
    14,714,688, and 14,724,042 with it. The paper's network, for 224x224x3 with 1,000 classes and
    `dense=(4096, 4096)`, has 138,357,544.
    """
    return _vgg("vgg16", input_shape, num_classes, batch_norm, dense, variant)


def _vgg(
    name: str, input_shape: ImageShape, num_classes: int, batch_norm: bool, dense: Sequence[int], variant: str
) -> nn.Sequential:
    h, w, c = input_shape
    theirs = check_variant(name, variant, "torchvision")
    check_extents(name, input_shape, 32)
    layers: list[nn.Module] = []
    for group in FILTERS[name]:
        for filters in group:
            if batch_norm:
                layers += conv_norm(c, filters, bias=theirs)
            else:
                layers.append(nn.Conv2d(c, filters, 3, padding="same", activation="relu"))
            c = filters
        layers.append(nn.MaxPool2d(2))
    if theirs:
        layers.append(nn.AdaptiveAvgPool2d(TORCHVISION_PIXELS))
    pixels = TORCHVISION_PIXELS**2 if theirs else (h // 32) * (w // 32)
    return nn.Sequential(*layers, nn.Flatten(), *dense_head(c * pixels, dense, num_classes))
