"""Batch normalisation of plain arrays, and its gradients."""

from __future__ import annotations

from math import prod
from typing import Any

from gpunet.arrays.call import Call, Layout
from gpunet.backends.contract import Array, BatchNorm, Moments
from gpunet.functional.norm import check_batch_norm, check_momentum, check_writable

__all__ = ["batch_norm", "batch_norm_grad"]


def batch_norm(
    x: Array, running_mean: Array, running_var: Array, weight: Array | None = None, bias: Array | None = None, *,
    training: bool, momentum: float = 0.1, eps: float = 1e-5, return_moments: bool = False, layout: Layout = "NHWC",
    out: Array | None = None,
) -> Any:  # fmt: skip
    """Normalise each channel to mean 0 and variance 1, then y = weight x̂ + bias.

    Args:
        x: (…, C); (N, C, H, W) in "NCHW".
        running_mean, running_var: (C,), the moments that normalise in inference. In training they
            are changed in place: running = (1 - momentum) running + momentum batch, with the
            variance over n - 1. They must be C-contiguous then.
        weight, bias: (C,), or None for 1 and 0. These and the moments are of x's dtype, or float32
            where x has 16 bits.
        training: normalise by the batch's moments, with the variance over n; otherwise by the
            running ones.
        momentum: the share of the batch in the running moments, from 0 to 1.
        eps: added to the variance, at least 0.
        return_moments: whether to return the mean and the variance that normalised, too, which
            `batch_norm_grad` takes.
        layout, out: as for `conv2d`.
    Returns:
        y, of x's shape, or (y, mean, variance); in inference the latter are the running ones.
    Raises:
        ValueError: shapes or options that do not fit, 1 element per channel in training, or moments
            that cannot be changed in place.
        TypeError: arrays of another library, of two kinds, or of a dtype that is not computed.
    A batch of no samples leaves the running moments as they are.
    """
    call = Call("batch_norm", layout, ("x",), x)
    source, running = _channels_last(call, x), {"running_mean": running_mean, "running_var": running_var}
    by_channel = {"weight": weight, "bias": bias, **running}
    for name, array in by_channel.items():
        if array is not None:
            call.check_kind(name, array)
    check_batch_norm(source, by_channel, None, training)
    check_momentum("batch_norm", momentum)
    channels = source.shape[-1:]
    training = training and prod(source.shape[:-1]) > 0  # an empty batch has no moments
    moments = Moments(*[call.small(name, array, channels) for name, array in running.items()])
    if training:
        check_writable("batch_norm", running)
        for name, array in running.items():
            if not array.flags.c_contiguous:
                raise ValueError(f"batch_norm: {name} must be C-contiguous to be changed, got strides {array.strides}")
    weight, bias = (call.small(name, array, channels) for name, array in (("weight", weight), ("bias", bias)))
    call.check_out(out, x.shape)
    norm = BatchNorm(training, momentum, eps)
    y, saved = call.backend.batch_norm_forward(source, weight, bias, moments, norm, None)
    y = call.deliver(y, out)
    return (y, *saved) if return_moments else y


def batch_norm_grad(
    dy: Array, x: Array, mean: Array, variance: Array, weight: Array | None = None, *, training: bool, eps: float = 1e-5,
    layout: Layout = "NHWC", out: Any = None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Gradients of batch normalisation.

    Args:
        dy: the gradient of `batch_norm`'s result, of x's shape and dtype.
        x: its input.
        mean, variance: (C,), the moments that normalised: those that `batch_norm` returned or, in
            inference, the running ones.
        weight: as for `batch_norm`.
        training: whether the moments were the batch's own, through which dx then goes too.
        eps: as for `batch_norm`.
        layout: "NHWC" or "NCHW".
        out: (dx, dw, db), the arrays to write to, any of which may be None; or None.
    Returns:
        (dx, dw, db): of x's shape, and (C,). The last two are float32 where x has 16 bits.
    Raises:
        ValueError, TypeError: as for `batch_norm`.
    """
    call = Call("batch_norm_grad", layout, ("dy", "x"), dy, x)
    call.check_shape("dy", dy, x.shape)
    source = _channels_last(call, x)
    if source.ndim < 2 or not source.size:
        raise ValueError(f"batch_norm_grad: x has shape {tuple(x.shape)} but takes (…, C) with elements")
    channels = source.shape[-1:]
    saved = Moments(*[call.small(name, a, channels) for name, a in (("mean", mean), ("variance", variance))])
    weight = call.small("weight", weight, channels)
    outs = call.outs(out, 3)
    for i, (given, shape, dtype) in enumerate(
        zip(outs, (x.shape, channels, channels), (None, call.wide, call.wide), strict=True)
    ):
        call.check_out(given, shape, name=f"out[{i}]", dtype=dtype)
    norm = BatchNorm(training, eps=eps)
    made = call.backend.batch_norm_backward(_channels_last(call, dy), source, None, weight, None, saved, norm)
    dx, dw, db = (call.deliver(array, given) for array, given in zip(made, outs, strict=False))
    return dx, dw, db


def _channels_last(call: Call, array: Array) -> Array:
    """An array of the call's layout as (…, C), C-contiguous."""
    if call.nchw:
        call.image_shape("x", array.shape)
    return call.images(array)
