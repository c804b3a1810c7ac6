"""U-Net: a network that gives every pixel a class."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from gpunet import functional as F
from gpunet import nn
from gpunet.autograd import Tensor
from gpunet.nn.origin import recorded

__all__ = ["UNet"]


def _interpolated(before: int, after: int) -> nn.Module:
    # The convolution comes first: it commutes with the interpolation, and there are a quarter of
    # the pixels there.
    return nn.Sequential(nn.Conv2d(before, after, 1), nn.Upsample2d(2, mode="bilinear"))


UPSAMPLERS: dict[str, Callable[[int, int], nn.Module]] = {
    "transposed": lambda before, after: nn.ConvTranspose2d(before, after, 2, stride=2),
    "bilinear": _interpolated,
}
MOST_HALVINGS = 16
"""Of images with 65,536 pixels along an axis they leave one."""


@recorded
class UNet(nn.Module):
    """U-Net (Ronneberger, Fischer & Brox 2015, figure 1): (N, H, W, C) -> logits (N, H, W, K).

    On the way down, each level has two 3x3 convolutions with ReLU, then a 2x2 max pool; the
    channels double at each level. On the way up, a 2x2 transposed convolution with stride 2 halves
    the channels, its result is joined with the output of the same level on the way down, and two
    convolutions follow. Convolutions are padded ("same"; the paper's are not), so the logits have
    the images' height and width.

    Args:
        in_channels: C.
        num_classes: K.
        base_channels: channels at the first level; the paper's is 64.
        depth: how many times height and width are halved; the paper's is 4. With the paper's
            numbers, 1 channel and 2 classes, there are 31,030,658 parameters.
        batch_norm: whether to normalise after each 3x3 convolution, before the ReLU; the paper does
            not.
        upsample: "transposed", or "bilinear" for interpolation and a 1x1 convolution instead of
            transposed convolutions.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 2,
        *,
        base_channels: int = 16,
        depth: int = 3,
        batch_norm: bool = False,
        upsample: str = "transposed",
    ) -> None:
        if upsample not in UPSAMPLERS:
            raise ValueError(f"UNet: upsample is {upsample!r} but takes one of {', '.join(UPSAMPLERS)}")
        if depth not in range(MOST_HALVINGS + 1):
            raise ValueError(f"UNet: depth is {depth} but takes 0 to {MOST_HALVINGS}")
        channels = [base_channels << level for level in range(depth + 1)]
        self.down = [_two_convolutions(*ends, batch_norm) for ends in pairwise((in_channels, *channels))]
        self.pool = nn.MaxPool2d(2)
        self.upsamplers = [UPSAMPLERS[upsample](2 * c, c) for c in reversed(channels[:-1])]
        self.up = [_two_convolutions(2 * c, c, batch_norm) for c in reversed(channels[:-1])]
        self.head = nn.Conv2d(base_channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, H, W, C), with H and W multiples of 2^depth -> (N, H, W, K)."""
        step = 1 << len(self.up)
        if x.ndim != 4 or x.shape[1] % step or x.shape[2] % step:
            raise ValueError(f"UNet: takes images (N, H, W, C) with H and W multiples of {step}, got {x.shape}")
        levels = [self.down[0](x)]  # the output of each level on the way down
        for block in self.down[1:]:
            levels.append(block(self.pool(levels[-1])))
        *kept, x = levels
        for upsampler, joined, block in zip(self.upsamplers, reversed(kept), self.up, strict=True):
            x = block(F.concatenate([joined, upsampler(x)], axis=3))
        return self.head(x)


def _two_convolutions(before: int, after: int, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers.append(nn.Conv2d(channels, after, 3, padding="same", bias=not batch_norm))  # a norm has its own bias
        layers += [nn.BatchNorm2d(after), nn.ReLU()] if batch_norm else [nn.ReLU()]
    return nn.Sequential(*layers)
