"""Image filters: small matrices, applied to each channel by a depthwise convolution.

``filters.kernel("sobel_x")`` is a filter's matrix, as it lies over the image (a cross-correlation,
as in networks: no flip). ``filters.apply(image, matrix)`` applies any matrix, and each filter is
also a function. All of them take

- image: (H, W, C) or (N, H, W, C), uint8 or float, on the host;
- border: what lies around the image: "reflect" (the image without its outermost pixels, as in
  `numpy.pad`), "edge" (its outermost pixels, repeated) or "zero";
- dtype: of the result; the image's own if None. uint8 results are rounded and clipped to 0 to 255,
  so choose a float dtype where the sign matters, as for edges;
- backend: where the convolution runs; NumPy if None. It computes in float32, or in float64 if the
  image or the result is float64;

and return an array of the image's shape. The median is not a convolution: see `median`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from math import cos, exp, floor, radians, sin
from typing import Any, TypedDict, Unpack

import numpy as np

from gpunet import functional as F
from gpunet.autograd import no_grad, tensor
from gpunet.backends import Backend, get_backend
from gpunet.backends.host.arrays import HostArrays
from gpunet.errors import BackendError
from gpunet.geometry import positive_int
from gpunet.progress import track, working

LONG = 2**24
"""Numbers in a batch from which a filter shows itself: fewer are done sooner than a timer is worth."""
BORDERS = {"reflect": "reflect", "edge": "edge", "zero": "constant"}
"""The names of the borders, and `numpy.pad`'s names for them."""


class Options(TypedDict, total=False):
    """What every filter takes; see the top of this module."""

    border: str
    dtype: Any
    backend: str | Backend | None


# ---- matrices

_CENTRE = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.float64)
_SLOPE, _SMOOTH = np.array([-1.0, 0, 1]), {"sobel": np.array([1.0, 2, 1]), "prewitt": np.array([1.0, 1, 1])}
_LAPLACIAN = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float64)
_EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float64)


def _box(size: int = 3) -> np.ndarray:
    row = _box_row("kernel", size)
    return np.outer(row, row)


def _gaussian(sigma: float = 1.0) -> np.ndarray:
    row = _gaussian_row("kernel", sigma)
    return np.outer(row, row)


def _motion(length: int = 9, angle: float = 0.0) -> np.ndarray:
    length = _odd("kernel", "length", length)
    middle = length // 2
    matrix = np.zeros((length + 2, length + 2))  # one more on each side, for rounding errors
    for step in range(-middle, middle + 1):
        row, column = middle + 1 - step * sin(radians(angle)), middle + 1 + step * cos(radians(angle))
        for i in (floor(row), floor(row) + 1):
            for j in (floor(column), floor(column) + 1):
                share = (1 - abs(row - i)) * (1 - abs(column - j))
                if share > 1e-12:  # cos(90°) is not exactly 0
                    matrix[i, j] += share / length
    return matrix[1:-1, 1:-1]


def _sharpen(amount: float = 1.0) -> np.ndarray:
    return _CENTRE - amount * _LAPLACIAN


_MATRICES: dict[str, Callable[..., np.ndarray]] = {
    "identity": lambda: _CENTRE.copy(),
    "box": _box,
    "gaussian": _gaussian,
    "motion": _motion,
    "sharpen": _sharpen,
    "sobel_x": lambda: np.outer(_SMOOTH["sobel"], _SLOPE),
    "sobel_y": lambda: np.outer(_SLOPE, _SMOOTH["sobel"]),
    "prewitt_x": lambda: np.outer(_SMOOTH["prewitt"], _SLOPE),
    "prewitt_y": lambda: np.outer(_SLOPE, _SMOOTH["prewitt"]),
    "laplacian": lambda: _LAPLACIAN.copy(),
    "emboss": lambda: _EMBOSS.copy(),
}
NAMES = tuple(_MATRICES)
"""The names that `kernel` takes."""


def kernel(name: str, **options: Any) -> np.ndarray:
    """The matrix of a filter, float64 (KH, KW), both odd; row 0 lies over the upper pixels.

    Args:
        name: one of `NAMES`.
        options: arguments of the filter's function: size of "box", sigma of "gaussian", length and
            angle of "motion", amount of "sharpen".
    """
    if name not in _MATRICES:
        raise ValueError(f"kernel: name is {name!r} but takes one of {', '.join(NAMES)}")
    return _MATRICES[name](**options)


# ---- filters


def apply(image: Any, matrix: str | np.ndarray | Sequence[Sequence[float]], **options: Unpack[Options]) -> np.ndarray:
    """Apply a matrix to every channel of an image.

    y[p, q] = sum over i, j of image[p + i - KH // 2, q + j - KW // 2] matrix[i, j]

    Args:
        matrix: (KH, KW), both odd, or a name for `kernel`.
    Raises:
        ValueError, TypeError: an image, matrix, border or dtype of the wrong kind; an image that is
            too small to be reflected.
    """
    weights = kernel(matrix) if isinstance(matrix, str) else np.asarray(matrix)
    if weights.ndim != 2 or weights.dtype.kind not in "biuf" or any(n % 2 == 0 for n in weights.shape):
        raise ValueError(
            f"apply: matrix must be numbers (KH, KW), both odd, got {weights.dtype} with shape {weights.shape}"
        )
    return _convolved("apply", image, [[weights]], **options)


def identity(image: Any, **options: Unpack[Options]) -> np.ndarray:
    """The image itself: the matrix is 1 in the middle and 0 around it."""
    return _convolved("identity", image, [[kernel("identity")]], **options)


def box_blur(image: Any, size: int = 3, **options: Unpack[Options]) -> np.ndarray:
    """The mean of size x size pixels; `size` is odd.

    Rows are filtered first, then columns, since the matrix is the product of both.
    """
    row = _box_row("box_blur", size)
    return _convolved("box_blur", image, [[row[None, :]], [row[:, None]]], **options)


def gaussian_blur(image: Any, sigma: float = 1.0, **options: Unpack[Options]) -> np.ndarray:
    """Means weighted by exp(-d^2 / (2 sigma^2)), over pixels at distances d up to 4 sigma.

    `sigma` is in pixels. Rows are filtered first, then columns, since the matrix is the product of
    both.
    """
    row = _gaussian_row("gaussian_blur", sigma)
    return _convolved("gaussian_blur", image, [[row[None, :]], [row[:, None]]], **options)


def motion_blur(image: Any, length: int = 9, angle: float = 0.0, **options: Unpack[Options]) -> np.ndarray:
    """The mean of `length` (odd) points on a line, one pixel apart, interpolated bilinearly.

    Args:
        angle: of the line, in degrees, anticlockwise from the horizontal.
    """
    length = _odd("motion_blur", "length", length)
    return _convolved("motion_blur", image, [[_motion(length, angle)]], **options)


def sharpen(image: Any, amount: float = 1.0, **options: Unpack[Options]) -> np.ndarray:
    """The image minus `amount` times its Laplacian.

    With amount=1 the matrix has 5 in the middle and -1 beside it.
    """
    return _convolved("sharpen", image, [[_sharpen(amount)]], **options)


def sobel(image: Any, **options: Unpack[Options]) -> np.ndarray:
    """Strength of edges: sqrt(gx^2 + gy^2) of the responses to "sobel_x" and "sobel_y".

    Each response is a slope across the edge and a mean (1, 2, 1) along it. "sobel_x" is positive
    where the image gets brighter to the right, "sobel_y" where it gets brighter downwards. A step
    of height h gives 4 h.
    """
    return _convolved("sobel", image, [[kernel("sobel_x"), kernel("sobel_y")]], magnitude=True, **options)


def prewitt(image: Any, **options: Unpack[Options]) -> np.ndarray:
    """Strength of edges as in `sobel`, from "prewitt_x" and "prewitt_y".

    Their means along the edge are (1, 1, 1), so a step of height h gives 3 h.
    """
    return _convolved("prewitt", image, [[kernel("prewitt_x"), kernel("prewitt_y")]], magnitude=True, **options)


def laplacian(image: Any, **options: Unpack[Options]) -> np.ndarray:
    """The sum of the second derivatives along both axes.

    It is positive on the dark side of an edge and negative on the bright side.
    """
    return _convolved("laplacian", image, [[kernel("laplacian")]], **options)


def emboss(image: Any, **options: Unpack[Options]) -> np.ndarray:
    """The image as a relief lit along the diagonal: bright where it rises to the lower right.

    The weights add up to 1.
    """
    return _convolved("emboss", image, [[kernel("emboss")]], **options)


def median(image: Any, size: int = 3, **options: Unpack[Options]) -> np.ndarray:
    """The median of size x size pixels of each channel: removes specks and keeps edges.

    `size` is odd. The median is not linear, so no convolution computes it; NumPy's sliding windows
    on the host do. NaN propagates.

    Raises:
        BackendError: a backend that is not on the host, for which there is no kernel.
    """
    size = _odd("median", "size", size)
    backend = options.get("backend")
    target = get_backend("numpy" if backend is None else backend)
    if not isinstance(target, HostArrays):
        raise BackendError(f"median: is computed on numpy and reference only, got backend {target.name}")
    batch, result = _checked("median", image, options.get("dtype"))
    padded = _padded("median", batch, size // 2, size // 2, options.get("border", "reflect"))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    # One image at a time, since the median copies all windows.
    y = np.stack([np.median(one, axis=(-2, -1)) for one in track(windows, "median", "image")])
    return _delivered(y, result).reshape(np.shape(image))


# ---- parts


def _convolved(
    operation: str,
    image: Any,
    passes: Sequence[Sequence[np.ndarray]],
    *,
    magnitude: bool = False,
    border: str = "reflect",
    dtype: Any = None,
    backend: str | Backend | None = None,
) -> np.ndarray:
    """Convolve the image with one bank of matrices after the other.

    The border for all passes is put around the image at first, since padding one axis and filtering
    it commutes with the other axis.

    Args:
        passes: banks of one matrix, or, with `magnitude`, of two.
        magnitude: whether to return sqrt(gx^2 + gy^2) of the two responses.
    """
    batch, result = _checked(operation, image, dtype)
    channels = batch.shape[3]
    down, right = (sum(bank[0].shape[axis] // 2 for bank in passes) for axis in (0, 1))
    computed = np.dtype(np.float64 if np.float64 in (batch.dtype, result) else np.float32)
    x = _padded(operation, batch.astype(computed), down, right, border)
    shown = working(operation, f"{len(x)} images") if x.size >= LONG else nullcontext()
    with shown, no_grad():
        y = tensor(x, backend="numpy" if backend is None else backend)
        for bank in passes:  # depthwise: each channel is a group and meets all matrices of the bank
            w = np.tile(np.stack(bank, axis=-1)[:, :, None, :], channels).astype(computed)
            y = F.conv2d(y, w, groups=channels)
        if magnitude:
            y = F.sqrt((y * y).reshape(*batch.shape, 2).sum(-1))
    return _delivered(y.numpy(), result).reshape(np.shape(image))


def _checked(operation: str, image: Any, dtype: Any) -> tuple[np.ndarray, np.dtype]:
    """(image as (N, H, W, C), dtype of the result)."""
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 and pixels.dtype.kind != "f":
        raise TypeError(f"{operation}: image is {pixels.dtype} but takes uint8 or a float dtype")
    if pixels.ndim not in (3, 4) or not pixels.size:
        hint = "; add the channel: image[..., None]" if pixels.ndim == 2 else ""
        raise ValueError(f"{operation}: image has shape {pixels.shape} but takes (H, W, C) or (N, H, W, C){hint}")
    result = pixels.dtype if dtype is None else np.dtype(dtype)
    if result != np.uint8 and result.kind != "f":
        raise TypeError(f"{operation}: dtype is {result} but takes uint8, a float dtype or None")
    return pixels.reshape(-1, *pixels.shape[-3:]), result


def _padded(operation: str, batch: np.ndarray, down: int, right: int, border: str) -> np.ndarray:
    """The batch with `down` rows above and below and `right` columns on each side added."""
    if border not in BORDERS:
        raise ValueError(f"{operation}: border is {border!r} but takes one of {', '.join(BORDERS)}")
    h, w = batch.shape[1:3]
    if border == "reflect" and (down >= h or right >= w):
        raise ValueError(
            f"{operation}: an image of {h}x{w} pixels is too small to be reflected by {down} rows and {right} columns; "
            'use border="edge" or "zero"'
        )
    return np.pad(batch, ((0, 0), (down, down), (right, right), (0, 0)), mode=BORDERS[border])  # type: ignore[call-overload]


def _delivered(y: np.ndarray, result: np.dtype) -> np.ndarray:
    """y in the result's dtype; uint8 is rounded and clipped."""
    return np.clip(np.rint(y), 0, 255).astype(np.uint8) if result == np.uint8 else y.astype(result)


def _box_row(operation: str, size: int) -> np.ndarray:
    """One row of the box filter."""
    return np.full(_odd(operation, "size", size), 1 / size)


def _gaussian_row(operation: str, sigma: float) -> np.ndarray:
    """One row of the Gaussian filter."""
    if not 0 < sigma < float("inf"):
        raise ValueError(f"{operation}: sigma is {sigma} but must be positive, in pixels")
    reach = int(4 * sigma + 0.5)
    row = np.array([exp(-(d**2) / (2 * sigma**2)) for d in range(-reach, reach + 1)])
    return row / row.sum()


def _odd(operation: str, argument: str, value: int) -> int:
    """The value, checked to be an odd positive integer."""
    if positive_int(operation, argument, value) % 2 == 0:
        raise ValueError(f"{operation}: {argument} is {value} but must be odd, to have a middle")
    return int(value)
