"""Convolutions of plain arrays, transposed and depthwise ones, and their gradients."""

from __future__ import annotations

from typing import Any

from gpunet.arrays.call import OIHW, Call, Layout, are_usual, conv_of, host_backend, transposed_conv_of
from gpunet.backends.contract import Array, Into
from gpunet.geometry import Padding, Pair, Shape4, pair
from gpunet.modes import mode

__all__ = ["conv2d", "conv2d_input_grad", "conv2d_weight_grad", "conv_transpose2d", "depthwise_conv2d"]


def conv2d(
    x: Array, weight: Array, bias: Array | None = None, *, stride: int | Pair = 1, padding: Padding = 0,
    dilation: int | Pair = 1, groups: int = 1, layout: Layout = "NHWC", out: Array | None = None,
) -> Array:  # fmt: skip
    """2-D convolution (without a flip) of images with filters, as `functional.conv2d` computes it.

    Args:
        x: (N, H, W, C) images; (N, C, H, W) in "NCHW".
        weight: (KH, KW, C // groups, O) filters, of x's dtype; (O, C // groups, KH, KW) in "NCHW".
        bias: (O,), added to every pixel; None for none.
        stride, padding, dilation: in pixels, as for `functional.conv2d`: a padding is an integer,
            (vertical, horizontal), ((top, bottom), (left, right)), "valid" or "same".
        groups: number of groups of channels, each with filters of its own.
        layout: "NHWC" or "NCHW".
        out: the array to write to; None for a new one. It may share memory with the inputs.
    Returns:
        (N, OH, OW, O), with OH = floor((H + top + bottom - dilation (KH - 1) - 1) / stride) + 1;
        (N, O, OH, OW) in "NCHW".
    Raises:
        ValueError: channels, groups, windows or an `out` that do not fit.
        TypeError: arrays of another library, of two kinds, or of a dtype that is not computed.
    """
    if layout == "NHWC" and out is None and are_usual(x, weight, bias):  # a shorter way to the same, for small images
        conv = conv_of("conv2d", False, x.shape, weight.shape, stride, padding, dilation, groups, mode.matrix_precision)
        if bias is None or bias.shape == weight.shape[3:]:
            return host_backend().conv2d_forward(x, weight, bias, conv)[0]
    call = Call("conv2d", layout, ("x", "weight", "bias"), x, weight, bias)
    return _convolved(call, x, weight, bias, (stride, padding, dilation, groups), out)


def depthwise_conv2d(
    x: Array, weight: Array, bias: Array | None = None, *, stride: int | Pair = 1, padding: Padding = 0,
    dilation: int | Pair = 1, layout: Layout = "NHWC", out: Array | None = None,
) -> Array:  # fmt: skip
    """`conv2d` with filters for each channel by itself: groups = C.

    Its gradients are those of `conv2d` with ``groups=C``.

    Args:
        x: (N, H, W, C) images; (N, C, H, W) in "NCHW".
        weight: (KH, KW, 1, M C), M filters for each channel, those of a channel side by side;
            (M C, 1, KH, KW) in "NCHW".
        bias: (M C,), or None.
        stride, padding, dilation, layout, out: as for `conv2d`.
    Returns:
        (N, OH, OW, M C); (N, M C, OH, OW) in "NCHW".
    Raises:
        ValueError, TypeError: as for `conv2d`.
    """
    call = Call("depthwise_conv2d", layout, ("x", "weight", "bias"), x, weight, bias)
    channels = call.image_shape("x", x.shape)[3]
    return _convolved(call, x, weight, bias, (stride, padding, dilation, channels), out)


def _convolved(
    call: Call, x: Array, weight: Array, bias: Array | None, options: tuple[Any, ...], out: Array | None
) -> Array:
    if call.nchw:
        x_shape, w_shape = call.image_shape("x", x.shape), call.filter_shape(weight.shape)
    else:  # Geometry checks them
        x_shape, w_shape = x.shape, weight.shape
    conv = conv_of(call.operation, call.nchw, x_shape, w_shape, *options, mode.matrix_precision)
    if bias is not None:
        call.check_shape("bias", bias, w_shape[3:])
    if out is not None:
        call.check_out(out, call.outer_shape(conv.y_shape))
    y, _ = call.backend.conv2d_forward(call.images(x), call.filters(weight), call.plain(bias), conv)
    return call.deliver(y, out)


def conv2d_input_grad(
    dy: Array, weight: Array, x_shape: Shape4, *, stride: int | Pair = 1, padding: Padding = 0,
    dilation: int | Pair = 1, groups: int = 1, layout: Layout = "NHWC", out: Array | None = None,
) -> Array:  # fmt: skip
    """Gradient of a convolution's input: dy convolved with the filters rotated by 180 degrees.

    Args:
        dy: (N, OH, OW, O), the gradient of `conv2d`'s result; (N, O, OH, OW) in "NCHW".
        weight: the filters of the convolution, of dy's dtype.
        x_shape: the shape of its input in the same layout, which dy's does not tell if the stride
            skips pixels.
        stride, padding, dilation, groups, layout, out: as for `conv2d`.
    Returns:
        dx, of `x_shape`.
    Raises:
        ValueError, TypeError: as for `conv2d`.
    """
    call = Call("conv2d_input_grad", layout, ("dy", "weight"), dy, weight)
    inner, w_shape = call.given_shape("x_shape", x_shape), call.filter_shape(weight.shape)
    options = stride, padding, dilation, groups
    conv = conv_of(call.operation, call.nchw, inner, w_shape, *options, mode.matrix_precision)
    call.check_shape("dy", dy, call.outer_shape(conv.y_shape))
    call.check_out(out, call.outer_shape(inner))
    return call.deliver(call.backend.conv2d_input_grad(call.images(dy), call.filters(weight), conv), out)


def conv2d_weight_grad(
    dy: Array, x: Array, kernel_size: int | Pair, *, stride: int | Pair = 1, padding: Padding = 0,
    dilation: int | Pair = 1, groups: int = 1, bias: bool = True, layout: Layout = "NHWC", out: Any = None,
) -> tuple[Array, Array | None]:  # fmt: skip
    """Gradients of a convolution's filters and of its bias.

    Args:
        dy: (N, OH, OW, O), the gradient of `conv2d`'s result; (N, O, OH, OW) in "NCHW".
        x: the input of the convolution, of dy's dtype.
        kernel_size: height and width of the filters, in pixels.
        stride, padding, dilation, groups, layout: as for `conv2d`.
        bias: whether to compute the gradient of the bias.
        out: (dw, db), the arrays to write to, either of which may be None; or None.
    Returns:
        (dw, db): of the filters' shape in the layout, and (O,) or None. Both are float32 where dy
        has 16 bits.
    Raises:
        ValueError, TypeError: as for `conv2d`.
    """
    call = Call("conv2d_weight_grad", layout, ("dy", "x"), dy, x)
    y_shape, x_shape = call.image_shape("dy", dy.shape), call.image_shape("x", x.shape)
    window, taken = pair(call.operation, "kernel_size", kernel_size), call.divided("groups", x_shape[3], groups)
    w_shape, options = (*window, taken, y_shape[3]), (stride, padding, dilation, groups)
    conv = conv_of(call.operation, call.nchw, x_shape, w_shape, *options, mode.matrix_precision)
    call.check_shape("dy", dy, call.outer_shape(conv.y_shape))
    given_w, given_b = call.outs(out, 2)
    call.check_out(given_w, call.outer_shape(conv.geometry.w_shape, OIHW), name="out[0]", dtype=call.wide)
    call.check_out(given_b, y_shape[3:], name="out[1]", dtype=call.wide)
    into = Into(needs_bias=bias or given_b is not None)
    dw, db = call.backend.conv2d_weight_grad(call.images(dy), call.images(x), conv, None, into)
    return call.deliver(dw, given_w, OIHW), db if db is None else call.deliver(db, given_b)


def conv_transpose2d(
    x: Array, weight: Array, bias: Array | None = None, *, stride: int | Pair = 1, padding: Padding = 0,
    output_padding: int | Pair = 0, dilation: int | Pair = 1, groups: int = 1, layout: Layout = "NHWC",
    out: Array | None = None,
) -> Array:  # fmt: skip
    """Transposed convolution: each pixel of x adds the filters, times itself, to a window of y.

    It is the input gradient of a convolution, so that its own input gradient is
    ``conv2d(dy, weight)``, and that of its filters ``conv2d_weight_grad(x, dy, kernel_size)``.

    Args:
        x: (N, H, W, I) images; (N, I, H, W) in "NCHW".
        weight: (KH, KW, O // groups, I) filters, of x's dtype; (I, O // groups, KH, KW) in "NCHW",
            as in PyTorch.
        bias: (O,), or None.
        stride, padding, output_padding, dilation, groups: as for `functional.conv_transpose2d`.
        layout, out: as for `conv2d`.
    Returns:
        (N, OH, OW, O), with OH = (H - 1) stride - top - bottom + dilation (KH - 1) + output_padding
        + 1; (N, O, OH, OW) in "NCHW".
    Raises:
        ValueError, TypeError: as for `conv2d`.
    """
    call = Call("conv_transpose2d", layout, ("x", "weight", "bias"), x, weight, bias)
    x_shape, w_shape = call.image_shape("x", x.shape), call.filter_shape(weight.shape)
    options = stride, padding, output_padding, dilation, groups
    conv = transposed_conv_of(call.operation, call.nchw, x_shape, w_shape, *options, mode.matrix_precision)
    y_shape = conv.geometry.x_shape
    call.check_shape("bias", bias, y_shape[3:])
    call.check_out(out, call.outer_shape(y_shape))
    y = call.backend.conv_transpose2d(call.images(x), call.filters(weight), call.plain(bias), conv)
    return call.deliver(y, out)
