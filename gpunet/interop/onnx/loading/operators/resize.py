"""Images enlarged or shrunk, by ONNX's many conventions for where pixels lie.

Each convention becomes a table of `gpunet.resampling`, one for the rows and one for the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor
from typing import Any

import numpy as np

from gpunet.functional.resample import resample2d
from gpunet.interop.onnx.loading.operators.registry import choice, operator
from gpunet.interop.onnx.loading.values import Host, Value, check_size, normal_axis, of_images
from gpunet.resampling import Taps, table

PLACES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize",
    "tf_half_pixel_for_nn",
)  # fmt: skip
ROUNDING: dict[str, Callable[[float], int]] = {
    "round_prefer_floor": lambda place: ceil(place - 0.5),
    "round_prefer_ceil": lambda place: floor(place + 0.5),
    "floor": floor,
    "ceil": ceil,
}
OF_OPSET_10 = "floor, ceil where an axis shrinks"
"""How Resize of opset 10 rounds places, as ONNX's tests of that opset and onnxruntime have it."""


@dataclass(frozen=True)
class Convention:
    """How output pixels are computed, the same for rows and columns."""

    mode: str
    """"nearest", "linear" or "cubic"."""
    places: str
    """Where the output's pixels lie in the input: one of `PLACES`."""
    rounding: str = "round_prefer_floor"
    """For "nearest", one of `ROUNDING`, or `OF_OPSET_10`."""
    cubic: float = -0.75
    """The slope of the cubic kernel at distance 1."""
    exclude_outside: bool = False
    """Whether pixels beyond the border have no weight; otherwise they equal the border pixel."""
    antialias: bool = False
    """Whether shrinking weighs all pixels that an output covers."""


@dataclass(frozen=True)
class Axis:
    """One axis of a resize."""

    extent: int
    outputs: int
    scale: float
    """Pixels of the output per pixel of the input."""
    crop: tuple[float, float] = (0.0, 1.0)
    """Begin and end of the resized part, as shares of the input, for "tf_crop_and_resize"."""

    def place(self, p: float, convention: str) -> float:
        """Where output p lies among the input's pixels, whose centres lie at whole numbers."""
        n, count, scale = self.extent, self.outputs, self.scale
        middle = (p + 0.5) / scale - 0.5
        match convention:
            case "half_pixel":
                return middle
            case "half_pixel_symmetric":  # the middles of both images lie on each other
                return n / 2 * (1 - count / (scale * n)) + middle
            case "pytorch_half_pixel":
                return middle if count > 1 else 0.0
            case "align_corners":
                return 0.0 if scale * n == 1 else p * (n - 1) / (scale * n - 1)
            case "asymmetric":
                return p / scale
            case "tf_half_pixel_for_nn":
                return (p + 0.5) / scale
        begin, end = self.crop
        if count == 1:
            return (begin + end) * (n - 1) / 2
        return begin * (n - 1) + p * (end - begin) * (n - 1) / (count - 1)


@lru_cache(maxsize=1024)
def taps(axis: Axis, by: Convention) -> tuple[Taps, tuple[bool, ...]]:
    """(the table of an axis, for each output whether it lies outside of the input)."""
    last, rows, beyond = axis.extent - 1, [], []
    number: Any = np.float32 if by.mode == "nearest" else float  # ONNX's floats decide which pixel is the nearest
    for p in range(axis.outputs):
        place = float(axis.place(number(p), by.places))
        outside = by.places == "tf_crop_and_resize" and not 0 <= place <= last
        weights = [] if outside else _weights(place, axis.scale, by)
        if by.exclude_outside:
            weights = [(i, w) for i, w in weights if 0 <= i <= last]
        total = sum(w for _, w in weights)
        rows.append([(min(max(i, 0), last), w / total) for i, w in weights])
        beyond.append(outside)
    return table(axis.extent, rows), tuple(beyond)


def _weights(place: float, scale: float, by: Convention) -> list[tuple[int, float]]:
    """(pixel, weight) of the pixels around a place, also of pixels that do not exist."""
    if by.mode == "nearest":
        rounding = by.rounding if by.rounding != OF_OPSET_10 else "ceil" if scale < 1 else "floor"
        return [(ROUNDING[rounding](place), 1.0)]
    narrow = min(scale, 1.0) if by.antialias else 1.0
    reach = (1 if by.mode == "linear" else 2) / narrow
    pixels = range(floor(place - reach) + 1, ceil(place + reach))
    kernel = _triangle if by.mode == "linear" else _cubic
    return [(i, kernel(abs(i - place) * narrow, by.cubic)) for i in pixels]


def _triangle(distance: float, _: float) -> float:
    return max(1.0 - distance, 0.0)


def _cubic(distance: float, a: float) -> float:
    """The kernel of Keys 1981, equation 4, with slope a at distance 1."""
    x = distance
    if x <= 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a if x < 2 else 0.0


def _resized(x: Value, axes: Sequence[Axis], by: Convention, extrapolation: float = 0.0) -> Value:
    """The images with their rows and columns resized."""
    images = x.images()
    if any(axis.extent != axis.outputs or axis.crop != (0.0, 1.0) for axis in axes[:2]):
        raise ValueError(f"scales {[a.outputs / a.extent for a in axes]} change other axes of x than the image's own")
    check_size([axis.outputs for axis in axes], x.size)
    (rows, above), (columns, beside) = (taps(axis, by) for axis in axes[2:])
    y = resample2d(images, rows, columns)
    outside = np.array(above)[:, None, None] | np.array(beside)[:, None]
    if extrapolation and outside.any():
        y = y + (outside * extrapolation).astype(y.dtype)
    return of_images(y)


@operator("Resize")
def resize(
    x: Value,
    roi: Host | None = None,
    scales: Host | None = None,
    sizes: Host | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
    opset: int = 11,
) -> Value:
    """Images resized by factors or to extents."""
    choice("mode", mode, "nearest", "linear", "cubic")
    choice("nearest_mode", nearest_mode, *ROUNDING)
    choice("coordinate_transformation_mode", coordinate_transformation_mode, *PLACES)
    if opset < 11:  # the second input held the factors
        return _by_factors(x, roi, mode, OF_OPSET_10)
    along = [normal_axis(x, axis) for axis in axes] if axes is not None else list(range(x.ndim))
    shape = x.shape
    factors, outputs = [1.0] * x.ndim, list(shape)
    if sizes is not None and sizes.shape != (0,):
        wanted = sizes.integers()
        _check_length("sizes", wanted, along)
        policy = choice("keep_aspect_ratio_policy", keep_aspect_ratio_policy, "stretch", "not_larger", "not_smaller")
        for axis, factor, extent in _fitted(shape, along, wanted, policy):
            factors[axis], outputs[axis] = factor, extent
    elif scales is not None:
        given = [float(s) for s in scales.host().reshape(-1)]
        _check_length("scales", given, along)
        for axis, factor in zip(along, given, strict=True):
            factors[axis], outputs[axis] = factor, _scaled(shape[axis], factor)
    else:
        raise ValueError("takes either scales or sizes, got neither")
    crops = [(0.0, 1.0)] * x.ndim
    if coordinate_transformation_mode == "tf_crop_and_resize":
        for axis, crop in zip(along, _cropped(roi, along), strict=True):
            crops[axis] = crop
    by = Convention(
        mode, coordinate_transformation_mode, nearest_mode, cubic_coeff_a, bool(exclude_outside), bool(antialias)
    )
    parts = zip(shape, outputs, factors, crops, strict=True)
    return _resized(x, [Axis(*part) for part in parts], by, extrapolation_value)


def _cropped(roi: Value | None, along: Sequence[int]) -> list[tuple[float, float]]:
    """Begin and end of the resized part of each of these axes."""
    if roi is None:
        raise ValueError("tf_crop_and_resize takes the input roi, which is missing")
    ends = [float(v) for v in roi.host().reshape(-1)]
    _check_length("roi", ends[::2], along)
    return list(zip(ends[: len(along)], ends[len(along) :], strict=True))


def _check_length(name: str, values: Sequence[float], along: Sequence[int]) -> None:
    if len(values) != len(along):
        raise ValueError(f"{name} has {len(values)} values for the axes {list(along)}")


def _scaled(extent: int, factor: float) -> int:
    if not 0 < factor < 1e9:
        raise ValueError(f"a scale is {factor} but must be positive")
    outputs = floor(extent * factor)
    if outputs < 1:
        raise ValueError(f"a scale of {factor} leaves no pixels of {extent}")
    return outputs


def _fitted(
    shape: Sequence[int], along: Sequence[int], sizes: Sequence[int], policy: str
) -> list[tuple[int, float, int]]:
    """(axis, factor, extent) of each resized axis; policies but "stretch" keep their ratio."""
    pairs = [(size, shape[axis]) for axis, size in zip(along, sizes, strict=True)]
    if any(min(pair) < 1 for pair in pairs if pair[0] != pair[1]):  # no images remain no images
        raise ValueError(f"sizes {list(sizes)} of x {tuple(shape)} must all be positive")
    factors = [1.0 if size == extent else size / extent for size, extent in pairs]
    if policy == "stretch":
        return list(zip(along, factors, sizes, strict=True))
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [(axis, factor, floor(factor * shape[axis] + 0.5)) for axis in along]


@operator("Upsample")
def upsample(
    x: Value, factors: Host | None = None, *, mode: str = "nearest", scales: Sequence[float] | None = None
) -> Value:
    """Images resized by factors."""
    given = factors if scales is None else Value(np.asarray(scales))
    return _by_factors(x, given, mode, "floor")


def _by_factors(x: Value, factors: Value | None, mode: str, rounding: str) -> Value:
    """Images resized by factors, from places p / factor: Upsample, and Resize of opset 10."""
    choice("mode", mode, "nearest", "linear")
    if factors is None:
        raise ValueError("takes scales, got none")
    given = [float(s) for s in factors.host().reshape(-1)]
    _check_length("scales", given, range(x.ndim))
    axes = [Axis(n, _scaled(n, factor), factor) for n, factor in zip(x.shape, given, strict=True)]
    return _resized(x, axes, Convention(mode, "asymmetric", rounding))
