"""Images of other extents: upsampling, padding, adaptive pooling. All are `Backend.resample2d`, by tables of
`gpunet.resampling`."""

from __future__ import annotations

from math import floor, inf
from numbers import Real
from typing import Any, Literal, cast

from gpunet import resampling
from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract.arrays import Array
from gpunet.functional.pool import max_pool2d
from gpunet.geometry import Pair, pair, sides_of
from gpunet.resampling import Taps

Sides = int | Pair | tuple[Pair, Pair]
Size = int | None | tuple[int | None, int | None]
"""Extents of an output; None keeps x's."""
UPSAMPLING = ("nearest", "bilinear")
PADDING = ("zero", "reflect", "edge")


class _Resample2d(Function):
    name = "resample2d"

    def forward(self, x: Array, *, rows: Taps, columns: Taps) -> Array:
        self.rows, self.columns = rows, columns
        return self.backend.resample2d(x, rows, columns)

    def backward(self, dy: Array) -> Any:
        return self.backend.resample2d(dy, self.rows.transposed, self.columns.transposed)


class _Upsample2d(_Resample2d):
    name = "upsample2d"


class _Pad2d(_Resample2d):
    name = "pad2d"

    def forward(self, x: Array, *, rows: Taps, columns: Taps, first: Pair = (0, 0)) -> Array:
        self.first = first
        return super().forward(x, rows=rows, columns=columns)


class _AdaptiveAvgPool2d(_Resample2d):
    name = "adaptive_avg_pool2d"


class _AdaptiveMaxPool2d(_Resample2d):
    name = "adaptive_max_pool2d"


def upsample2d(
    x: Tensor,
    scale: float | tuple[float, float] | None = None,
    *,
    size: int | Pair | None = None,
    mode: Literal["nearest", "bilinear"] = "nearest",
    align_corners: bool = False,
    antialias: bool = False,
) -> Tensor:
    """Images of other extents, each pixel taken from those of x around its place; the coordinates are PyTorch's.

    Args:
        x: (N, H, W, C), any float dtype.
        scale: factor of the extents, or (vertical, horizontal): OH = floor(H scale). Exactly one of it and `size` is given.
        size: OH and OW, or one extent for both, in pixels.
        mode: "nearest" takes pixel floor(p H / OH); "bilinear" weighs the four pixels around ((p + 1/2) H / OH - 1/2, …), on
            x's border the border's. With a `scale`, H / OH is 1 / scale, as PyTorch has it.
        align_corners: for "bilinear", let the corners' middles stay where they are: p (H - 1) / (OH - 1).
        antialias: for "bilinear" scaling down, weigh all pixels that an output stands for, not four of them.
    Returns:
        (N, OH, OW, C).
    Raises:
        ValueError: a scale, size or mode that is none, or a scale that leaves no pixel.
    """
    name = "upsample2d"
    _extents(name, x)
    check_upsampling(name, scale, size, mode, align_corners, antialias)
    rows, columns = upsampling_taps(name, x.shape, scale, size, mode, align_corners, antialias)
    return _Upsample2d.apply(x, rows=rows, columns=columns)


def upsampling_taps(
    operation: str, shape: tuple[int, ...], scale: Any, size: Any, mode: str, align_corners: bool, antialias: bool
) -> tuple[Taps, Taps]:
    """The tables of the rows and of the columns, for images of a shape; the options as `check_upsampling` takes them."""
    tables = []
    for n, target, factor in zip(shape[1:3], _both(size), _both(scale), strict=True):
        outputs, ratio = (target, None) if factor is None else (floor(n * factor), 1 / factor)
        if outputs < 1:
            raise ValueError(f"{operation}: scale {scale} leaves no pixels of x {tuple(shape)}")
        if mode == "nearest":
            tables.append(resampling.nearest(n, outputs, ratio))
        else:
            make = resampling.smooth if antialias else resampling.linear
            tables.append(make(n, outputs, ratio, align_corners=align_corners))
    rows, columns = tables
    return rows, columns


def pad2d(x: Tensor, padding: Sides, *, mode: Literal["zero", "reflect", "edge"] = "zero") -> Tensor:
    """Pixels around images.

    Args:
        x: (N, H, W, C), any float dtype.
        padding: pixels on each side: an integer, (vertical, horizontal) or ((top, bottom), (left, right)).
        mode: "zero"; "reflect", x mirrored at its border pixels, which are not repeated; "edge", the border pixels again.
    Returns:
        (N, top + H + bottom, left + W + right, C).
    Raises:
        ValueError: a padding or mode that is none, or a reflection of more pixels than lie behind the border's.
    """
    name = "pad2d"
    extents = _extents(name, x)
    sides = check_padding(name, padding, mode)
    if mode == "reflect" and any(max(around) >= extent for around, extent in zip(sides, extents, strict=True)):
        raise ValueError(f"{name}: padding {sides} must be smaller than the image it reflects, x {tuple(x.shape)}")
    rows, columns = (resampling.padded(extent, *around, mode) for extent, around in zip(extents, sides, strict=True))
    return _Pad2d.apply(x, rows=rows, columns=columns, first=(sides[0][0], sides[1][0]))


def adaptive_avg_pool2d(x: Tensor, size: Size) -> Tensor:
    """Mean over windows that cover the image in so many pixels.

    Args:
        x: (N, H, W, C), any float dtype.
        size: OH and OW, or one extent for both; None keeps x's; 1 is global average pooling (Lin et al. 2013, section 3.2).
            Window p of an axis is from floor(p H / OH) to ceil((p + 1) H / OH), as PyTorch has it: windows overlap where OH
            does not divide H.
    Returns:
        (N, OH, OW, C).
    """
    h, w = _extents("adaptive_avg_pool2d", x)
    oh, ow = adaptive_size("adaptive_avg_pool2d", size, (h, w))
    return _AdaptiveAvgPool2d.apply(x, rows=resampling.averaged(h, oh), columns=resampling.averaged(w, ow))


def adaptive_max_pool2d(x: Tensor, size: Size) -> Tensor:
    """Maximum over windows that cover the image in so many pixels; those of `adaptive_avg_pool2d`.

    The gradient goes to the first largest element of each window. Windows of unlike extents are laid side by side, a shorter
    one's last pixels repeated: behind the pixels themselves, so that those stay the first of equals.

    Args:
        x: (N, H, W, C), any float dtype.
        size: OH and OW, or one extent for both; None keeps x's; 1 is global max pooling.
    Returns:
        (N, OH, OW, C).
    """
    h, w = _extents("adaptive_max_pool2d", x)
    oh, ow = adaptive_size("adaptive_max_pool2d", size, (h, w))
    if h % oh == 0 and w % ow == 0:
        return max_pool2d(x, (h // oh, w // ow))
    (rows, kh), (columns, kw) = resampling.side_by_side(h, oh), resampling.side_by_side(w, ow)
    return max_pool2d(_AdaptiveMaxPool2d.apply(x, rows=rows, columns=columns), (kh, kw))


def check_upsampling(operation: str, scale: Any, size: Any, mode: Any, align_corners: Any, antialias: Any) -> None:
    """ValueError or TypeError for options that `upsample2d` does not take."""
    if (scale is None) == (size is None):
        raise ValueError(f"{operation}: takes exactly one of scale and size, got scale={scale!r} and size={size!r}")
    if size is not None:
        pair(operation, "size", size)
    elif len(_both(scale)) != 2 or not all(map(_is_factor, _both(scale))):
        raise ValueError(f"{operation}: scale must be one or two positive numbers, got {scale!r}")
    if mode not in UPSAMPLING:
        raise ValueError(f"{operation}: mode is {mode!r} but takes one of {', '.join(UPSAMPLING)}")
    if align_corners and mode == "nearest":
        raise ValueError(f"{operation}: align_corners goes with bilinear, got mode {mode!r}")
    if antialias and mode == "nearest":
        raise ValueError(f"{operation}: antialias goes with bilinear, got mode {mode!r}")


def adaptive_size(operation: str, size: Any, extents: Pair) -> Pair:
    """(OH, OW), in which None is x's extent, or an error for a size that is none."""
    both = _both(size)
    if None in both and len(both) == 2:
        size = tuple(n if given is None else given for given, n in zip(both, extents, strict=True))
    return pair(operation, "size", size)


def check_padding(operation: str, padding: Any, mode: Any) -> tuple[Pair, Pair]:
    """((top, bottom), (left, right)), or a ValueError for options that `pad2d` does not take."""
    if mode not in PADDING:
        raise ValueError(f"{operation}: mode is {mode!r} but takes one of {', '.join(PADDING)}")
    if isinstance(padding, str):
        raise ValueError(f"{operation}: padding is {padding!r} but takes numbers of pixels")
    return cast(tuple[Pair, Pair], sides_of(operation, padding))  # no name, so pairs


def _is_factor(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < inf


def _both(value: Any) -> tuple[Any, Any]:
    """(vertical, horizontal) of one value or two."""
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


def _extents(operation: str, x: Any) -> Pair:
    """(H, W), after the check that there are images."""
    expect_tensor(operation, "x", x)
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise ValueError(
            f"{operation}: x has shape {tuple(x.shape)} but takes 4 axes (N, H, W, C), with images not empty"
        )
    return x.shape[1], x.shape[2]
