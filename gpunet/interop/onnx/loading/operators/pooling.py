"""Pools: the largest, the mean or a norm of each window of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gpunet import functional as F
from gpunet.autograd import Tensor
from gpunet.geometry import Geometry, Pair
from gpunet.interop.onnx.loading.operators.arithmetic import root
from gpunet.interop.onnx.loading.operators.registry import choice, operator
from gpunet.interop.onnx.loading.operators.windows import Windows, windows
from gpunet.interop.onnx.loading.values import Value, of_images, surrounded


def _pool(
    x: Value,
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
) -> tuple[Tensor, Windows]:
    images = x.images()
    return images, windows((images.shape[1], images.shape[2]), kernel, strides, dilations, pads, auto_pad)


@operator("MaxPool")
def max_pool(
    x: Value,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
    outputs: int = 1,
) -> list[Value]:
    """The largest element of each window; and, as a second output, where each stood in x."""
    images, given = _pool(x, kernel_shape, strides, dilations, pads, auto_pad)
    if given.dilation != (1, 1):
        if outputs > 1:
            raise ValueError(f"attribute dilations is {list(given.dilation)}, with which gpunet gives no Indices")
        return [of_images(_over_taps(images, given, bool(ceil_mode), F.maximum, -np.inf))]
    options: dict[str, Any] = {"stride": given.stride, "padding": given.padding, "ceil_mode": bool(ceil_mode)}
    y = of_images(F.max_pool2d(images, given.kernel_size, **options))
    if outputs == 1:
        return [y]
    geometry = Geometry.pool(images.shape, given.kernel_size, **options)
    return [y, Value(_places(images, geometry, choice("storage_order", storage_order, 0, 1)))]


def _places(images: Tensor, geometry: Geometry, storage_order: int) -> np.ndarray:
    """(N, C, OH, OW) int64: positions of the winners in x (N, C, H, W), read to the host."""
    n, h, w, c = geometry.x_shape
    _, mask = images.backend.max_pool2d_forward(images.data, geometry)
    row, column = np.divmod(images.backend.to_numpy(mask).astype(np.int64), geometry.window[1])
    _, oh, ow, _ = geometry.y_shape
    row += (np.arange(oh) * geometry.stride[0] - geometry.padding[0][0])[:, None, None]
    column += (np.arange(ow) * geometry.stride[1] - geometry.padding[1][0])[:, None]
    pixel = row * w + column if storage_order == 0 else column * h + row
    image = np.arange(n)[:, None, None, None] * c + np.arange(c)
    return (image * (h * w) + pixel).transpose(0, 3, 1, 2).copy()


@operator("AveragePool")
def average_pool(
    x: Value,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Value:
    """The mean of each window; padding counts if `count_include_pad` says so."""
    images, given = _pool(x, kernel_shape, strides, dilations, pads, auto_pad)
    counted, ceil = bool(count_include_pad), bool(ceil_mode)
    if given.dilation != (1, 1):
        total = _over_taps(images, given, ceil, F.add, 0.0)
        return of_images(total / _counts(images, given, ceil, counted))
    y = F.avg_pool2d(
        images, given.kernel_size, stride=given.stride, padding=given.padding, count_padding=counted, ceil_mode=ceil
    )
    return of_images(y)


@operator("LpPool")
def lp_pool(
    x: Value,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    p: int = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Value:
    """The p-norm of each window: the p-th root of the sum of the p-th powers of its elements."""
    images, given = _pool(x, kernel_shape, strides, dilations, pads, auto_pad)
    total = _over_taps(F.abs(images) ** p, given, bool(ceil_mode), F.add, 0.0)
    return of_images(_norm(total, p))


def _norm(total: Tensor, p: int) -> Tensor:
    """The p-norm, from the sum of the p-th powers."""
    if p < 1:
        raise ValueError(f"attribute p is {p} but must be positive")
    return root(total, p)


def _over_taps(
    images: Tensor, given: Windows, ceil: bool, join: Callable[[Any, Any], Tensor], outside: float
) -> Tensor:
    """The windows' pixels joined tap by tap, for windows that gpunet's pools do not have."""
    extents = images.shape[1], images.shape[2]
    steps = _steps(extents, given, ceil)
    padded = surrounded(images, [(0, 0), *_around(extents, given, steps), (0, 0)], outside)
    result = None
    for rows, columns in _taps(given, steps):
        part = padded[:, rows, columns, :]
        result = part if result is None else join(result, part)
    assert result is not None
    return result


def _around(extents: Pair, given: Windows, steps: Pair) -> list[Pair]:
    """(before, after) of the rows and of the columns that windows reach beyond the image."""
    axes = zip(extents, given.padding, given.stride, given.effective, steps, strict=True)
    return [(before, max((count - 1) * s + e - before - n, 0)) for n, (before, _), s, e, count in axes]


def _steps(extents: Pair, given: Windows, ceil: bool) -> Pair:
    """(OH, OW): as many windows as fit; with `ceil` one more if it begins before the image ends."""
    counts = []
    for n, s, e, (before, after) in zip(extents, given.stride, given.effective, given.padding, strict=True):
        left = n + before + after - e
        if left < 0:
            raise ValueError(f"a window of {e} pixels is larger than the padded image, {n} + {before} + {after} pixels")
        more = ceil and left % s > 0 and (left // s + 1) * s < n + before
        counts.append(left // s + 1 + more)
    return counts[0], counts[1]


def _taps(given: Windows, steps: Pair) -> Iterator[tuple[slice, slice]]:
    """The rows and columns of a padded image that tap (i, j) of all windows takes."""
    axes = [
        [slice(i * d, i * d + (n - 1) * s + 1, s) for i in range(k)]
        for k, d, n, s in zip(given.kernel_size, given.dilation, steps, given.stride, strict=True)
    ]
    for rows in axes[0]:
        for columns in axes[1]:
            yield rows, columns


def _counts(images: Tensor, given: Windows, ceil: bool, padding: bool) -> np.ndarray:
    """(OH, OW, 1): pixels of each window that its mean counts."""
    extents = images.shape[1], images.shape[2]
    axes = []
    for n, k, d, s, (before, after), count in zip(
        extents,
        given.kernel_size,
        given.dilation,
        given.stride,
        given.padding,
        _steps(extents, given, ceil),
        strict=True,
    ):
        low, high = (-before, n + after) if padding else (0, n)
        places = np.arange(count)[:, None] * s - before + np.arange(k) * d
        axes.append(((places >= low) & (places < high)).sum(1))
    return (axes[0][:, None] * axes[1])[..., None].astype(images.dtype)


@operator("GlobalAveragePool")
def global_average_pool(x: Value) -> Value:
    """The mean of each image's channel."""
    return of_images(F.adaptive_avg_pool2d(x.images(), 1))


@operator("GlobalMaxPool")
def global_max_pool(x: Value) -> Value:
    """The largest element of each image's channel."""
    return of_images(F.adaptive_max_pool2d(x.images(), 1))


@operator("GlobalLpPool")
def global_lp_pool(x: Value, *, p: int = 2) -> Value:
    """The p-norm of each image's channel."""
    return of_images(_norm(F.sum(F.abs(x.images()) ** p, (1, 2), keepdims=True), p))
