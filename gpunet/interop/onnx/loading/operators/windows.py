"""The windows of convolutions and pools, as ONNX's attributes describe them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from gpunet.geometry import Pair
from gpunet.interop.onnx.loading.operators.registry import choice
from gpunet.interop.onnx.loading.values import check_size

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
Sides = tuple[Pair, Pair]


@dataclass(frozen=True)
class Windows:
    """The attributes that convolutions and pools of images share, by gpunet's names."""

    kernel_size: Pair
    stride: Pair
    dilation: Pair
    padding: Sides
    """((top, bottom), (left, right)), in pixels."""

    @property
    def effective(self) -> Pair:
        """Extents that a dilated window covers, in pixels."""
        (kh, kw), (dh, dw) = self.kernel_size, self.dilation
        return dh * (kh - 1) + 1, dw * (kw - 1) + 1


def windows(
    extents: Pair,
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
) -> Windows:
    """The windows over images of these extents (H, W).

    Raises:
        ValueError: attributes of other than two dimensions, an unknown auto_pad, steps or windows
            that are not positive, or padding that is negative or huge.
    """
    choice("auto_pad", auto_pad, *AUTO_PADS)
    kernel_size = _both("kernel_shape", kernel)
    stride, dilation = _both("strides", strides or (1, 1)), _both("dilations", dilations or (1, 1))
    for attribute, values in (("kernel_shape", kernel_size), ("strides", stride), ("dilations", dilation)):
        if min(values) < 1:
            raise ValueError(f"attribute {attribute} is {list(values)} but must be positive")
    effective = tuple(d * (k - 1) + 1 for k, d in zip(kernel_size, dilation, strict=True))
    if auto_pad in ("NOTSET", "VALID"):
        sides = sides_of_pads((0, 0, 0, 0) if pads is None or auto_pad == "VALID" else pads)
    else:
        totals = [
            max((-(-n // s) - 1) * s + e - n, 0) for n, s, e in zip(extents, stride, effective, strict=True)
        ]  # the output has ceil(n / s) pixels
        sides = (split_pad(totals[0], auto_pad), split_pad(totals[1], auto_pad))
    if min(min(side) for side in sides) < 0:
        raise ValueError(f"attribute pads is {list(pads or ())} but must not be negative")
    check_size([n + before + after for n, (before, after) in zip(extents, sides, strict=True)], prod(extents))
    return Windows(kernel_size, stride, dilation, sides)


def sides_of_pads(pads: Sequence[int]) -> Sides:
    """((top, bottom), (left, right)) of ONNX's pads [top, left, bottom, right]."""
    if len(pads) != 4:
        raise ValueError(f"attribute pads is {list(pads)} but windows of images take four: top, left, bottom, right")
    top, left, bottom, right = (int(p) for p in pads)
    return (top, bottom), (left, right)


def split_pad(total: int, auto_pad: str) -> Pair:
    """(before, after) of the padded pixels: SAME_UPPER has the odd one after, SAME_LOWER before."""
    less, more = total // 2, total - total // 2
    return (more, less) if auto_pad == "SAME_LOWER" else (less, more)


def _both(attribute: str, values: Sequence[int]) -> Pair:
    if len(values) != 2:
        raise ValueError(f"attribute {attribute} is {list(values)} but gpunet's images take two: vertical, horizontal")
    return int(values[0]), int(values[1])
