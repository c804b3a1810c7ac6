"""Pooling: the maximum or the mean of each window of each channel."""

from __future__ import annotations

from typing import Any

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract import Array
from gpunet.geometry import Geometry, Padding, Pair

__all__ = ["avg_pool2d", "max_pool2d"]


class _MaxPool2d(Function, name="max_pool2d", fresh=True):
    def forward(self, x: Array, *, geometry: Geometry) -> Array:
        y, self.mask = self.backend.max_pool2d_forward(x, geometry)
        self.geometry = geometry
        return y

    def backward(self, dy: Array) -> Any:
        return self.backend.max_pool2d_backward(dy, self.mask, self.geometry)


class _AvgPool2d(Function, name="avg_pool2d", fresh=True):
    def forward(self, x: Array, *, geometry: Geometry, count_padding: bool) -> Array:
        self.geometry, self.count_padding = geometry, count_padding
        return self.backend.avg_pool2d_forward(x, geometry, count_padding)

    def backward(self, dy: Array) -> Any:
        return self.backend.avg_pool2d_backward(dy, self.geometry, self.count_padding)


def max_pool2d(
    x: Tensor,
    kernel_size: int | Pair,
    *,
    stride: int | Pair | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
) -> Tensor:
    """Maximum over each window of each channel.

    Args:
        x: (N, H, W, C), any float dtype.
        kernel_size: height and width of a window, in pixels.
        stride: step between windows, in pixels; kernel_size if None.
        padding: as for `conv2d`, smaller than the window; padded pixels never win.
        ceil_mode: where pixels are left over at the lower or right end, add a window that reaches
            beyond it, unless this window would start behind the image: ceil instead of floor, as in
            PyTorch.
    Returns:
        (N, OH, OW, C), with OH = floor((H + top + bottom - kernel_size) / stride) + 1.
    Raises:
        ValueError: a window larger than the padded input.
    The gradient goes to the first largest element of each window.
    """
    shape, name = expect_tensor("max_pool2d", "x", x).shape, "max_pool2d"
    geometry = Geometry.pool(shape, kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode, operation=name)
    return _MaxPool2d.apply(x, geometry=geometry)


def avg_pool2d(
    x: Tensor,
    kernel_size: int | Pair,
    *,
    stride: int | Pair | None = None,
    padding: Padding = 0,
    count_padding: bool | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Mean over each window of each channel.

    Args:
        x: (N, H, W, C), any float dtype.
        kernel_size, stride, padding: as for `max_pool2d`.
        count_padding: whether padded zeros count in the mean; if None they do, except with padding
            "same".
        ceil_mode: as for `max_pool2d`; what lies beyond the padding never counts.
    Returns:
        (N, OH, OW, C), with the extents of `max_pool2d`.
    Raises:
        ValueError: a window larger than the padded input.
    """
    shape, name = expect_tensor("avg_pool2d", "x", x).shape, "avg_pool2d"
    geometry = Geometry.pool(shape, kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode, operation=name)
    return _AvgPool2d.apply(x, geometry=geometry, count_padding=counts_padding(padding, count_padding))


def counts_padding(padding: Padding, count_padding: bool | None) -> bool:
    """Whether padded zeros count in a mean, as `avg_pool2d` says."""
    return padding != "same" if count_padding is None else count_padding
