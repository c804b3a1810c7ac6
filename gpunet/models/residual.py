"""Residual networks.

He et al. 2016, "Deep residual learning for image recognition".
"""

from __future__ import annotations

from gpunet import nn
from gpunet.autograd import Tensor
from gpunet.models.parts import ImageShape, check_extents, check_stem, conv_norm
from gpunet.nn.origin import recorded

__all__ = ["BasicBlock", "resnet9", "resnet18", "resnet34"]

RESNET18 = (2, 2, 2, 2)
"""Blocks of each group (table 1); filters double from group to group, from 64 on."""
RESNET34 = (3, 4, 6, 3)


class BasicBlock(nn.Module):
    """relu(x + layers(x)): (N, H, W, C) -> (N, H', W', O).

    The layers are two 3x3 convolutions with batch norm. If the shapes differ, x goes through a 1x1
    convolution with batch norm (section 3.3, option B).

    Args:
        in_channels, out_channels: C and O.
        stride: of the first convolution, and of the 1x1 convolution; H' = ceil(H / stride).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels, activation="relu")
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels, activation="relu")  # of the sum
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """x (N, H, W, C) -> (N, H', W', O)."""
        y = self.conv2(self.norm1(self.conv1(x)))
        return self.norm2(y, x if self.shortcut is None else self.shortcut(x))


@recorded
def resnet18(input_shape: ImageShape = (32, 32, 3), num_classes: int = 10, stem: str = "small") -> nn.Sequential:
    """ResNet-18: a convolution, eight residual blocks (table 1), the mean, a dense layer.

    Args:
        input_shape: (H, W, C), at least 8x8 pixels, or 32x32 with the paper's stem.
        num_classes: number of outputs, logits.
        stem: "small" is a 3x3 convolution, for images of about 32x32 pixels: 32x32x3 and 10 classes
            give 11,173,962 parameters. "paper" is 7x7 with stride 2 and a 3x3 max pool with stride
            2: 1,000 classes give 11,689,512.
    """
    return _resnet("resnet18", RESNET18, input_shape, num_classes, stem)


@recorded
def resnet34(input_shape: ImageShape = (32, 32, 3), num_classes: int = 10, stem: str = "small") -> nn.Sequential:
    """ResNet-34, with sixteen blocks; the arguments are those of `resnet18`.

    It has 21,282,122 parameters, or the paper's 21,797,672.
    """
    return _resnet("resnet34", RESNET34, input_shape, num_classes, stem)


def _resnet(name: str, blocks: tuple[int, ...], input_shape: ImageShape, num_classes: int, stem: str) -> nn.Sequential:
    small = check_stem(name, stem)
    check_extents(name, input_shape, 8 if small else 32, f" for the {stem} stem")
    window, stride = (3, 1) if small else (7, 2)
    layers = conv_norm(input_shape[2], 64, window, stride=stride, padding=window // 2)
    if not small:
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    filters = 64
    for group, count in enumerate(blocks):
        for i in range(count):
            outputs = 64 << group
            layers.append(BasicBlock(filters, outputs, 2 if group and i == 0 else 1))
            filters = outputs
    return nn.Sequential(*layers, nn.GlobalAvgPool2d(), nn.Flatten(), nn.Linear(filters, num_classes))


@recorded
def resnet9(input_shape: ImageShape = (32, 32, 3), num_classes: int = 10) -> nn.Sequential:
    """The nine-layer residual network of fast CIFAR-10 training.

    Page 2018, "How to train your ResNet", part 4. Its 3x3 convolutions have 64, 128 + pool,
    residual(128), 256 + pool, 512 + pool, residual(512) filters, each with batch norm and ReLU, and
    two in each residual. Then come the maximum over the remaining pixels (4x4 for images of 32x32)
    and a dense layer.

    Args:
        input_shape: (H, W, C), at least 8x8 pixels; 32x32x3 gives 6,573,130 parameters.
        num_classes: number of outputs, logits.
    """
    h, w, c = input_shape
    check_extents("resnet9", input_shape, 8)
    return nn.Sequential(
        *conv_norm(c, 64),
        *conv_norm(64, 128), nn.MaxPool2d(2),
        nn.Residual(*conv_norm(128, 128), *conv_norm(128, 128)),
        *conv_norm(128, 256), nn.MaxPool2d(2),
        *conv_norm(256, 512), nn.MaxPool2d(2),
        nn.Residual(*conv_norm(512, 512), *conv_norm(512, 512)),
        nn.MaxPool2d((h // 8, w // 8)), nn.Flatten(), nn.Linear(512, num_classes),
    )  # fmt: skip
