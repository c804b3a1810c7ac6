"""AlexNet.

Krizhevsky, Sutskever & Hinton 2012, "ImageNet classification with deep convolutional neural
networks".
"""

from __future__ import annotations

from collections.abc import Sequence

from gpunet import nn
from gpunet.models.parts import ImageShape, check_extents, check_stem, check_variant, dense_head
from gpunet.nn.origin import recorded

__all__ = ["alexnet"]


@recorded
def alexnet(
    input_shape: ImageShape | None = None,
    num_classes: int | None = None,
    stem: str | None = None,
    dense: Sequence[int] | None = None,
    variant: str = "paper",
) -> nn.Sequential:
    """AlexNet: five convolutions, overlapping max pools, and dense layers with dropout.

    The pools are 3x3 with stride 2; dropout is that of section 3.5. There is no local response
    normalisation, which later work found to be of no use (Simonyan & Zisserman 2015, section 4.1).

    Args:
        input_shape: (H, W, C), at least 15x15 pixels, or 67x67 with the paper's stem; (32, 32, 3)
            if None.
        num_classes: number of outputs, logits; 10 if None.
        stem: the first convolution, with 96 filters: "small", which None stands for, is 5x5 with
            stride 1, for images of about 32x32 pixels; "paper" is 11x11 with stride 4.
        dense: outputs of the hidden dense layers, (512, 512) if None. `alexnet((227, 227, 3), 1000,
            "paper", (4096, 4096))` is the paper's network, with 60,965,224 parameters; the defaults
            give 3,754,378.
        variant: "paper", or "torchvision" for the network of torchvision's weights, which is that
            of Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks":
            without groups, and with 64 filters in the first convolution. It takes at least 63x63
            pixels and no `stem`, and None stands for (224, 224, 3), 1,000 classes and (4096, 4096):
            61,100,840 parameters.
    """
    if check_variant("alexnet", variant, "torchvision"):
        if stem is not None:
            raise ValueError(f"alexnet: stem is {stem!r} but variant='torchvision' has a stem of its own")
        shape = (224, 224, 3) if input_shape is None else input_shape
        return _torchvision(
            shape, 1000 if num_classes is None else num_classes, (4096, 4096) if dense is None else dense
        )
    shape = (32, 32, 3) if input_shape is None else input_shape
    return _paper(
        shape,
        10 if num_classes is None else num_classes,
        "small" if stem is None else stem,
        (512, 512) if dense is None else dense,
    )


def _paper(input_shape: ImageShape, num_classes: int, stem: str, dense: Sequence[int]) -> nn.Sequential:
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


def _torchvision(input_shape: ImageShape, num_classes: int, dense: Sequence[int]) -> nn.Sequential:
    check_extents("alexnet", input_shape, 63, " for variant='torchvision'")
    body = nn.Sequential(
        nn.Conv2d(input_shape[2], 64, 11, stride=4, padding=2, activation="relu"), nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2, activation="relu"), nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1, activation="relu"),
        nn.Conv2d(384, 256, 3, padding=1, activation="relu"),
        nn.Conv2d(256, 256, 3, padding=1, activation="relu"), nn.MaxPool2d(3, stride=2),
    )  # fmt: skip
    layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(6), nn.Flatten()]
    features = 256 * 6 * 6
    for outputs in dense:  # dropout comes before each hidden layer, not behind it
        layers += [nn.Dropout(0.5), nn.Linear(features, outputs, activation="relu")]
        features = outputs
    return nn.Sequential(*body, *layers, nn.Linear(features, num_classes))
