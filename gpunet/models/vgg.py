"""Plain deep networks of 3x3 convolutions (Simonyan & Zisserman 2015, "Very Deep Convolutional Networks …")."""

from __future__ import annotations

from collections.abc import Sequence

from gpunet import nn
from gpunet.models.parts import check_extents, dense_head

VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Filters of the convolutions between the pools (table 1, column A)."""
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Table 1, column D."""


def vgg11(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    batch_norm: bool = True,
    dense: Sequence[int] = (),
) -> nn.Sequential:
    """VGG-11: the eight convolutions of column A, a 2x2 max pool after each group, and dense layers.

    The paper's hidden dense layers, `dense=(4096, 4096)`, are for 224x224 images, of which the pools leave 7x7: with its
    1,000 classes and no batch norm they make 132,863,336 parameters. Of 32x32 the pools leave one pixel, so there are none.

    Args:
        input_shape: (H, W, C), at least 32 pixels each way; 32x32x3 gives 9,225,610 parameters without batch norm, of which the
            convolutions have 9,220,480, and 9,228,362 with it.
        num_classes: number of outputs, logits.
        batch_norm: whether to normalise after each convolution, which then has no bias (Ioffe & Szegedy 2015; the paper is
            older).
        dense: outputs of the hidden dense layers, each with ReLU and, as in the paper, half dropped in training.
    """
    return _vgg("vgg11", VGG11, input_shape, num_classes, batch_norm, dense)


def vgg16(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    batch_norm: bool = True,
    dense: Sequence[int] = (),
) -> nn.Sequential:
    """VGG-16: the thirteen convolutions of column D; all else as for `vgg11`.

    32x32x3 gives 14,719,818 parameters without batch norm, of which the convolutions have 14,714,688, and 14,724,042 with it;
    the paper's own net, for 224x224x3 with 1,000 classes and `dense=(4096, 4096)`, has 138,357,544.
    """
    return _vgg("vgg16", VGG16, input_shape, num_classes, batch_norm, dense)


def _vgg(
    name: str,
    groups: tuple[tuple[int, ...], ...],
    input_shape: tuple[int, int, int],
    num_classes: int,
    batch_norm: bool,
    dense: Sequence[int],
) -> nn.Sequential:
    h, w, c = input_shape
    check_extents(name, input_shape, 32)
    layers: list[nn.Module] = []
    for group in groups:
        for filters in group:
            if batch_norm:
                layers.append(nn.Conv2d(c, filters, 3, padding="same", bias=False))
                layers.append(nn.BatchNorm2d(filters, activation="relu"))
            else:
                layers.append(nn.Conv2d(c, filters, 3, padding="same", activation="relu"))
            c = filters
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), *dense_head(c * (h // 32) * (w // 32), dense, num_classes))
