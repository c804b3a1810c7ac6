"""Plain arrays of images, enlarged or shrunk, and the gradient of that."""

from __future__ import annotations

from typing import Literal

from gpunet.arrays.call import Call, Layout
from gpunet.backends.contract import Array
from gpunet.functional.resample import Upsampling
from gpunet.geometry import Pair, Shape4

__all__ = ["upsample2d", "upsample2d_grad"]


def upsample2d(
    x: Array, scale_factor: float | tuple[float, float] | None = None, *, size: int | Pair | None = None,
    mode: Literal["nearest", "bilinear"] = "nearest", align_corners: bool = False, antialias: bool = False,
    layout: Layout = "NHWC", out: Array | None = None,
) -> Array:  # fmt: skip
    """Enlarge or shrink images; the coordinates are PyTorch's.

    Args:
        x: (N, H, W, C) images; (N, C, H, W) in "NCHW".
        scale_factor, size, mode, align_corners, antialias: as for `functional.upsample2d`.
        layout, out: as for `conv2d`.
    Returns:
        (N, OH, OW, C); (N, C, OH, OW) in "NCHW".
    Raises:
        ValueError: options or an `out` that do not fit, or images without pixels.
        TypeError: an array of another library, or of a dtype that is not computed.
    """
    call = Call("upsample2d", layout, ("x",), x)
    n, *extents, c = _with_pixels(call, call.image_shape("x", x.shape))
    options = Upsampling(call.operation, scale_factor, size, mode, align_corners, antialias)
    rows, columns = options.taps((n, *extents, c))
    call.check_out(out, call.outer_shape((n, rows.outputs, columns.outputs, c)))
    return call.deliver(call.backend.resample2d(call.images(x), rows, columns), out)


def upsample2d_grad(
    dy: Array, x_shape: Shape4, scale_factor: float | tuple[float, float] | None = None, *, size: int | Pair | None = None,
    mode: Literal["nearest", "bilinear"] = "nearest", align_corners: bool = False, antialias: bool = False,
    layout: Layout = "NHWC", out: Array | None = None,
) -> Array:  # fmt: skip
    """Gradient of `upsample2d`'s input: each pixel of dy goes back to those that it was made of.

    Args:
        dy: (N, OH, OW, C), the gradient of the result; (N, C, OH, OW) in "NCHW".
        x_shape: the shape of the input, in the same layout.
        scale_factor, size, mode, align_corners, antialias: those of `upsample2d`.
        layout, out: as for `conv2d`.
    Returns:
        dx, of `x_shape`.
    Raises:
        ValueError, TypeError: as for `upsample2d`.
    """
    call = Call("upsample2d_grad", layout, ("dy",), dy)
    n, *extents, c = _with_pixels(call, call.given_shape("x_shape", x_shape))
    options = Upsampling(call.operation, scale_factor, size, mode, align_corners, antialias)
    rows, columns = options.taps((n, *extents, c))
    call.check_shape("dy", dy, call.outer_shape((n, rows.outputs, columns.outputs, c)))
    call.check_out(out, call.outer_shape((n, *extents, c)))
    dx = call.backend.resample2d(call.images(dy), rows.transposed, columns.transposed)
    return call.deliver(dx, out)


def _with_pixels(call: Call, shape: Shape4) -> Shape4:
    if 0 in shape[1:]:
        raise ValueError(f"{call.operation}: x has shape {call.outer_shape(shape)} but takes images with pixels")
    return shape
