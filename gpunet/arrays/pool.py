"""Pooling of plain arrays, and its gradients."""

from __future__ import annotations

from typing import Any

from gpunet.arrays.call import Call, Layout, pool_of
from gpunet.backends.contract import Array
from gpunet.functional.pool import counts_padding
from gpunet.geometry import Padding, Pair, Shape4

__all__ = ["avg_pool2d", "avg_pool2d_grad", "max_pool2d", "max_unpool2d"]


def max_pool2d(
    x: Array, kernel_size: int | Pair, *, stride: int | Pair | None = None, padding: Padding = 0, ceil_mode: bool = False,
    return_mask: bool = False, layout: Layout = "NHWC", out: Any = None,
) -> Any:  # fmt: skip
    """Maximum over each window of each channel and, if asked for, where it stands.

    Args:
        x: (N, H, W, C) images; (N, C, H, W) in "NCHW".
        kernel_size, stride, padding, ceil_mode: as for `functional.max_pool2d`.
        return_mask: whether to return the mask too, which `max_unpool2d` takes.
        layout: "NHWC" or "NCHW".
        out: the array to write the maxima to; with `return_mask`, (y, mask), either of which may be
            None.
    Returns:
        y (N, OH, OW, C), or (y, mask). The mask has y's shape, and is uint8 for windows of up to 256
        pixels, else uint16 or int32: the winner's position in its window, row by row. The first of
        equal values wins, and NaN wins over numbers. In "NCHW" both are (N, C, OH, OW).
    Raises:
        ValueError: windows, a padding or an `out` that do not fit.
        TypeError: an array of another library, or of a dtype that is not computed.
    """
    call = Call("max_pool2d", layout, ("x",), x)
    shape = call.image_shape("x", x.shape)
    pool = pool_of(call.operation, call.nchw, shape, kernel_size, stride, padding, ceil_mode)
    given_y, given_mask = call.outs(out, 2) if return_mask else (out, None)
    call.check_out(given_y, call.outer_shape(pool.y_shape))
    call.check_out(given_mask, call.outer_shape(pool.y_shape), name="out[1]", dtype=pool.mask_dtype)
    y, mask = call.backend.max_pool2d_forward(call.images(x), pool)
    y = call.deliver(y, given_y)
    return (y, call.deliver(mask, given_mask)) if return_mask else y


def max_unpool2d(
    y: Array, mask: Array, x_shape: Shape4, kernel_size: int | Pair, *, stride: int | Pair | None = None,
    padding: Padding = 0, ceil_mode: bool = False, layout: Layout = "NHWC", out: Array | None = None,
) -> Array:  # fmt: skip
    """Write the values of windows to where their maxima stood: zeros, and y scattered by a mask.

    Where windows overlap, the values of those that one pixel won are added up. So this is also the
    gradient of `max_pool2d`, from the gradient of its result.

    Args:
        y: (N, OH, OW, C), values for each window; (N, C, OH, OW) in "NCHW".
        mask: of y's shape, as `max_pool2d` returned it.
        x_shape: the shape of the pool's input, in the same layout.
        kernel_size, stride, padding, ceil_mode: those of the pool.
        layout, out: as for `conv2d`.
    Returns:
        An array of `x_shape`.
    Raises:
        ValueError, TypeError: as for `max_pool2d`; also a mask of another dtype.
    """
    call = Call("max_unpool2d", layout, ("y",), y)
    shape = call.given_shape("x_shape", x_shape)
    pool = pool_of(call.operation, call.nchw, shape, kernel_size, stride, padding, ceil_mode)
    call.check_shape("y", y, call.outer_shape(pool.y_shape))
    call.check_kind("mask", mask)
    call.check_shape("mask", mask, y.shape)
    if mask.dtype != pool.mask_dtype:
        raise TypeError(f"max_unpool2d: mask is {mask.dtype} but windows {pool.window} take {pool.mask_dtype}")
    call.check_out(out, call.outer_shape(shape))
    return call.deliver(call.backend.max_pool2d_backward(call.images(y), call.images(mask), pool), out)


def avg_pool2d(
    x: Array, kernel_size: int | Pair, *, stride: int | Pair | None = None, padding: Padding = 0,
    count_padding: bool | None = None, ceil_mode: bool = False, layout: Layout = "NHWC", out: Array | None = None,
) -> Array:  # fmt: skip
    """Mean over each window of each channel.

    Args:
        x: (N, H, W, C) images; (N, C, H, W) in "NCHW".
        kernel_size, stride, padding, count_padding, ceil_mode: as for `functional.avg_pool2d`.
        layout, out: as for `conv2d`.
    Returns:
        (N, OH, OW, C); (N, C, OH, OW) in "NCHW".
    Raises:
        ValueError, TypeError: as for `max_pool2d`.
    """
    call = Call("avg_pool2d", layout, ("x",), x)
    shape = call.image_shape("x", x.shape)
    pool = pool_of(call.operation, call.nchw, shape, kernel_size, stride, padding, ceil_mode)
    call.check_out(out, call.outer_shape(pool.y_shape))
    y = call.backend.avg_pool2d_forward(call.images(x), pool, counts_padding(padding, count_padding))
    return call.deliver(y, out)


def avg_pool2d_grad(
    dy: Array, x_shape: Shape4, kernel_size: int | Pair, *, stride: int | Pair | None = None, padding: Padding = 0,
    count_padding: bool | None = None, ceil_mode: bool = False, layout: Layout = "NHWC", out: Array | None = None,
) -> Array:  # fmt: skip
    """Gradient of `avg_pool2d`'s input: each window's dy, shared by what it was the mean of.

    Args:
        dy: (N, OH, OW, C), the gradient of the means; (N, C, OH, OW) in "NCHW".
        x_shape: the shape of the pool's input, in the same layout.
        kernel_size, stride, padding, count_padding, ceil_mode: those of the pool.
        layout, out: as for `conv2d`.
    Returns:
        dx, of `x_shape`.
    Raises:
        ValueError, TypeError: as for `max_pool2d`.
    """
    call = Call("avg_pool2d_grad", layout, ("dy",), dy)
    shape = call.given_shape("x_shape", x_shape)
    pool = pool_of(call.operation, call.nchw, shape, kernel_size, stride, padding, ceil_mode)
    call.check_shape("dy", dy, call.outer_shape(pool.y_shape))
    call.check_out(out, call.outer_shape(shape))
    dx = call.backend.avg_pool2d_backward(call.images(dy), pool, counts_padding(padding, count_padding))
    return call.deliver(dx, out)
