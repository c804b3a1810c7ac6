"""MobileNet.

Howard et al. 2017, "MobileNets: efficient convolutional neural networks for mobile vision
applications".
"""

from __future__ import annotations

from gpunet import nn
from gpunet.models.parts import ImageShape, check_extents, check_variant, conv_norm
from gpunet.nn.origin import recorded

__all__ = ["mobilenet"]

BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1),
)  # fmt: skip
"""Filters of each block, and the stride of its depthwise convolution (table 1)."""


@recorded
def mobilenet(
    input_shape: ImageShape = (32, 32, 3),
    num_classes: int = 10,
    width_mult: float = 1.0,
    stride: int = 1,
    variant: str = "paper",
) -> nn.Sequential:
    """MobileNet: 13 blocks of a depthwise 3x3 and a 1x1 convolution, the mean, a dense layer.

    A 3x3 convolution with 32 filters comes first. Batch norm and ReLU follow each convolution
    (figure 3). The blocks cost about a ninth of 3x3 convolutions with as many filters (section
    3.1).

    Args:
        input_shape: (H, W, C), at least 16x16 pixels times `stride`; 32x32x3 gives 3,217,226
            parameters.
        num_classes: number of outputs, logits.
        width_mult: multiplies all numbers of filters, the paper's width multiplier (section 3.3).
        stride: of the first convolution: 1 for images of about 32x32 pixels; 2 is the paper's,
            which gives 4,231,976 parameters for 224x224x3 and 1,000 classes.
        variant: "paper", or "timm" for the network of timm's weights `mobilenetv1_100`, with
            `stride=2`: ReLU6 takes the place of ReLU.
    """
    if stride not in (1, 2):
        raise ValueError(f"mobilenet: stride is {stride} but takes 1 or 2")
    check_extents("mobilenet", input_shape, 16 * stride)
    if not width_mult > 0:
        raise ValueError(f"mobilenet: width_mult is {width_mult} but must be positive")
    activation = "relu6" if check_variant("mobilenet", variant, "timm") else "relu"
    filters = max(1, round(32 * width_mult))
    layers = conv_norm(input_shape[2], filters, stride=stride, padding=1, activation=activation)
    for outputs, step in BLOCKS:
        outputs = max(1, round(outputs * width_mult))
        layers += conv_norm(filters, filters, stride=step, padding=1, groups=filters, activation=activation)
        layers += conv_norm(filters, outputs, 1, padding=0, activation=activation)
        filters = outputs
    return nn.Sequential(*layers, nn.GlobalAvgPool2d(), nn.Flatten(), nn.Linear(filters, num_classes))
