"""Images of other extents: upsampling, padding, adaptive pooling.

All of them are the primitive `resample2d`, with tables of `gpunet.resampling`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, inf
from numbers import Real
from typing import Any, Literal, cast

from gpunet import resampling
from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract import Array
from gpunet.functional.pool import max_pool2d
from gpunet.geometry import Pair, pair, sides_of
from gpunet.resampling import Taps

__all__ = ["adaptive_avg_pool2d", "adaptive_max_pool2d", "pad2d", "upsample2d"]

Sides = int | Pair | tuple[Pair, Pair]
Size = int | None | tuple[int | None, int | None]
"""Extents of an output; None stands for those of x."""
UPSAMPLING = ("nearest", "bilinear")
PADDING = ("zero", "reflect", "edge")


class _Resample2d(Function, name="resample2d", fresh=True):
    def forward(self, x: Array, *, rows: Taps, columns: Taps) -> Array:
        self.rows, self.columns = rows, columns
        return self.backend.resample2d(x, rows, columns)

    def backward(self, dy: Array) -> Any:
        return self.backend.resample2d(dy, self.rows.transposed, self.columns.transposed)


class _Upsample2d(_Resample2d, name="upsample2d"):
    """Enlarges or shrinks images."""


class _Pad2d(_Resample2d, name="pad2d"):
    def forward(self, x: Array, *, rows: Taps, columns: Taps, first: Pair = (0, 0)) -> Array:
        self.first = first
        return super().forward(x, rows=rows, columns=columns)


class _AdaptiveAvgPool2d(_Resample2d, name="adaptive_avg_pool2d"):
    """Means over windows of different extents."""


class _AdaptiveMaxPool2d(_Resample2d, name="adaptive_max_pool2d"):
    """Copies windows of different extents side by side, for a max pool of equal windows."""


def resample2d(x: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Images whose pixels are weighted sums of x's, by two tables; (N, H, W, C) -> (N, OH, OW, C)."""
    return _Resample2d.apply(x, rows=rows, columns=columns)


@dataclass(frozen=True)
class Upsampling:
    """The options of `upsample2d`.

    Raises:
        ValueError, TypeError: options that `upsample2d` does not take; `operation` names it.
    """

    operation: str
    scale_factor: float | tuple[float, float] | None
    size: int | Pair | None
    mode: Literal["nearest", "bilinear"]
    align_corners: bool
    antialias: bool

    def __post_init__(self) -> None:
        name, factor, size = self.operation, self.scale_factor, self.size
        if (factor is None) == (size is None):
            raise ValueError(f"{name}: takes exactly one of scale_factor and size, got {factor!r} and {size!r}")
        if size is not None:
            pair(name, "size", size)
        elif len(_both(factor)) != 2 or not all(map(_is_factor, _both(factor))):
            raise ValueError(f"{name}: scale_factor must be one or two positive numbers, got {factor!r}")
        if self.mode not in UPSAMPLING:
            raise ValueError(f"{name}: mode is {self.mode!r} but takes one of {', '.join(UPSAMPLING)}")
        for option in ("align_corners", "antialias"):
            if self.mode == "nearest" and getattr(self, option):
                raise ValueError(f"{name}: {option} goes with mode 'bilinear', got 'nearest'")

    def taps(self, shape: tuple[int, ...]) -> tuple[Taps, Taps]:
        """The tables of the rows and of the columns, for images of a shape (N, H, W, C)."""
        tables = []
        for n, target, factor in zip(shape[1:3], _both(self.size), _both(self.scale_factor), strict=True):
            outputs, ratio = (target, None) if factor is None else (floor(n * factor), 1 / factor)
            if outputs < 1:
                raise ValueError(f"{self.operation}: scale_factor {self.scale_factor} leaves no pixels of x {shape}")
            if self.mode == "nearest":
                tables.append(resampling.nearest(n, outputs, ratio))
            else:
                make = resampling.smooth if self.antialias else resampling.linear
                tables.append(make(n, outputs, ratio, align_corners=self.align_corners))
        rows, columns = tables
        return rows, columns

    def resized(self, x: Tensor) -> Tensor:
        """The images x (N, H, W, C) with their new extents."""
        _extents(self.operation, x)
        rows, columns = self.taps(x.shape)
        return _Upsample2d.apply(x, rows=rows, columns=columns)


def upsample2d(
    x: Tensor,
    scale_factor: float | tuple[float, float] | None = None,
    *,
    size: int | Pair | None = None,
    mode: Literal["nearest", "bilinear"] = "nearest",
    align_corners: bool = False,
    antialias: bool = False,
) -> Tensor:
    """Enlarge or shrink images; the coordinates are PyTorch's.

    Args:
        x: (N, H, W, C), any float dtype.
        scale_factor: factor of both extents, or (vertical, horizontal): OH = floor(H scale_factor).
            Give either this or `size`, not both.
        size: OH and OW, or one extent for both, in pixels.
        mode: "nearest" takes pixel floor(p H / OH) for output p; "bilinear" weighs the four pixels
            around ((p + 1/2) H / OH - 1/2, …), and repeats x's border beyond it. With a
            `scale_factor`, H / OH is 1 / scale_factor, as in PyTorch.
        align_corners: for "bilinear", keep the centres of the corner pixels in place: output p lies
            at p (H - 1) / (OH - 1).
        antialias: for "bilinear" scaling down, weigh all pixels that an output covers, not only
            four of them.
    Returns:
        (N, OH, OW, C).
    Raises:
        ValueError: an invalid scale_factor, size or mode, or a scale_factor that leaves no pixel.
    """
    return Upsampling("upsample2d", scale_factor, size, mode, align_corners, antialias).resized(x)


def pad2d(x: Tensor, padding: Sides, *, mode: Literal["zero", "reflect", "edge"] = "zero") -> Tensor:
    """Put pixels around images.

    Args:
        x: (N, H, W, C), any float dtype.
        padding: pixels on each side: an integer, (vertical, horizontal) or
            ((top, bottom), (left, right)).
        mode: "zero"; "reflect", x mirrored at its border pixels, which are not repeated; "edge",
            the border pixels repeated.
    Returns:
        (N, top + H + bottom, left + W + right, C).
    Raises:
        ValueError: an invalid padding or mode, or a reflection of more pixels than there are behind
            the border.
    """
    name = "pad2d"
    extents = _extents(name, x)
    sides = check_padding(name, padding, mode)
    if mode == "reflect" and any(max(around) >= extent for around, extent in zip(sides, extents, strict=True)):
        raise ValueError(f"{name}: padding {sides} must be smaller than the image it reflects, x {tuple(x.shape)}")
    rows, columns = (resampling.padded(extent, *around, mode) for extent, around in zip(extents, sides, strict=True))
    return _Pad2d.apply(x, rows=rows, columns=columns, first=(sides[0][0], sides[1][0]))


def adaptive_avg_pool2d(x: Tensor, output_size: Size) -> Tensor:
    """Mean over windows that cover the image, as many as the output has pixels.

    Args:
        x: (N, H, W, C), any float dtype.
        output_size: OH and OW, or one extent for both; None keeps x's; 1 is global average pooling
            (Lin et al. 2013, section 3.2). Window p is from floor(p H / OH) to
            ceil((p + 1) H / OH), as in PyTorch: windows overlap where OH does not divide H.
    Returns:
        (N, OH, OW, C).
    Raises:
        ValueError: an invalid output_size.
    """
    h, w = _extents("adaptive_avg_pool2d", x)
    oh, ow = adaptive_size("adaptive_avg_pool2d", output_size, (h, w))
    return _AdaptiveAvgPool2d.apply(x, rows=resampling.averaged(h, oh), columns=resampling.averaged(w, ow))


def adaptive_max_pool2d(x: Tensor, output_size: Size) -> Tensor:
    """Maximum over the windows of `adaptive_avg_pool2d`.

    The gradient goes to the first largest element of each window. Windows of different extents are
    copied side by side, and shorter ones are filled up with their last pixel, which stands behind
    the others, so that these stay first among equals.

    Args:
        x: (N, H, W, C), any float dtype.
        output_size: OH and OW, or one extent for both; None keeps x's; 1 is global max pooling.
    Returns:
        (N, OH, OW, C).
    Raises:
        ValueError: an invalid output_size.
    """
    h, w = _extents("adaptive_max_pool2d", x)
    oh, ow = adaptive_size("adaptive_max_pool2d", output_size, (h, w))
    if h % oh == 0 and w % ow == 0:
        return max_pool2d(x, (h // oh, w // ow))
    (rows, kh), (columns, kw) = resampling.side_by_side(h, oh), resampling.side_by_side(w, ow)
    return max_pool2d(_AdaptiveMaxPool2d.apply(x, rows=rows, columns=columns), (kh, kw))


def adaptive_size(operation: str, output_size: Any, extents: Pair) -> Pair:
    """(OH, OW), with x's extents in place of None, or an error for an invalid output_size."""
    both = _both(output_size)
    if None in both and len(both) == 2:
        output_size = tuple(n if given is None else given for given, n in zip(both, extents, strict=True))
    return pair(operation, "output_size", output_size)


def check_padding(operation: str, padding: Any, mode: Any) -> tuple[Pair, Pair]:
    """((top, bottom), (left, right)), or a ValueError for options that `pad2d` does not take."""
    if mode not in PADDING:
        raise ValueError(f"{operation}: mode is {mode!r} but takes one of {', '.join(PADDING)}")
    if isinstance(padding, str):
        raise ValueError(f"{operation}: padding is {padding!r} but takes numbers of pixels")
    return cast(tuple[Pair, Pair], sides_of(operation, padding))  # pairs, since padding is no name


def _is_factor(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < inf


def _both(value: Any) -> tuple[Any, Any]:
    """(vertical, horizontal) of one value or two."""
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


def _extents(operation: str, x: Any) -> Pair:
    """(H, W), or a ValueError if x is no batch of images."""
    expect_tensor(operation, "x", x)
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise ValueError(f"{operation}: x has shape {x.shape} but takes 4 axes (N, H, W, C) without empty images")
    return x.shape[1], x.shape[2]
