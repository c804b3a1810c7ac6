"""AlexNet.

Krizhevsky, Sutskever & Hinton 2012, "ImageNet classification with deep convolutional neural
networks".
"""

from __future__ import annotations

from collections.abc import Sequence

from gpunet import nn
from gpunet.models.parts import ImageShape, check_extents, check_stem, dense_head
from gpunet.nn.origin import recorded

__all__ = ["alexnet"]


@recorded
def alexnet(
    input_shape: ImageShape = (32, 32, 3), num_classes: int = 10, stem: str = "small", dense: Sequence[int] = (512, 512)
) -> nn.Sequential:
    """AlexNet: five convolutions, overlapping max pools, and dense layers with dropout.

    The pools are 3x3 with stride 2; dropout is that of section 3.5. There is no local response
    normalisation, which later work found to be of no use (Simonyan & Zisserman 2015, section 4.1).

    Args:
        input_shape: (H, W, C), at least 15x15 pixels, or 67x67 with the paper's stem.
        num_classes: number of outputs, logits.
        stem: the first convolution, with 96 filters: "small" is 5x5 with stride 1, for images of
            about 32x32 pixels; "paper" is 11x11 with stride 4.
        dense: outputs of the hidden dense layers. `alexnet((227, 227, 3), 1000, "paper", (4096,
            4096))` is the paper's network, with 60,965,224 parameters; the defaults give 3,754,378.
    """
    small = check_stem("alexnet", stem)
    check_extents("alexnet", input_shape, 15 if small else 67, f" for the {stem} stem")
    h, w, c = input_shape
    if small:
        first = nn.Conv2d(c, 96, 5, padding="same", activation="relu")
    else:
        first = nn.Conv2d(c, 96, 11, stride=4, activation="relu")
    body = nn.Sequential(
        first, nn.MaxPool2d(3, stride=2),
        nn.Conv2d(96, 256, 5, padding="same", groups=2, activation="relu"), nn.MaxPool2d(3, stride=2),
        nn.Conv2d(256, 384, 3, padding="same", activation="relu"),
        nn.Conv2d(384, 384, 3, padding="same", groups=2, activation="relu"),
        nn.Conv2d(384, 256, 3, padding="same", groups=2, activation="relu"), nn.MaxPool2d(3, stride=2),
    )  # fmt: skip

    def left(extent: int) -> int:
        """Pixels along an axis that convolutions and pools leave."""
        extent = extent if small else (extent - 11) // 4 + 1
        for _ in range(3):
            extent = (extent - 3) // 2 + 1
        return extent

    return nn.Sequential(*body, nn.Flatten(), *dense_head(256 * left(h) * left(w), dense, num_classes))
