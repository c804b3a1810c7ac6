"""Normalisation by running moments, or by the moments of parts of each sample."""

from __future__ import annotations

from math import prod

import numpy as np

from gpunet.backends.contract import BatchNorm, GroupNorm
from gpunet.interop.onnx.exporting.translate.elementwise import activated
from gpunet.interop.onnx.exporting.translate.step import Step, Table, UntranslatableError


def _batch_norm(step: Step) -> None:
    norm: BatchNorm = step.options["norm"]
    if norm.training:
        raise UntranslatableError("moments of the batch, as in training mode")
    first, channels = len(step.shape) == 4, step.shape[-1]
    x = step.first() if first else step.plain()
    if len(step.shape) not in (2, 4):
        x = step.reshaped(x, (None, channels))
    by_channel = [_parameter(step, i, otherwise) for i, otherwise in ((1, 1), (2, 0), (3, 0), (4, 1))]
    y = step.emit("BatchNormalization", x, *by_channel, epsilon=norm.eps)
    if len(step.shape) not in (2, 4):
        y = step.reshaped(y, step.dims)
    if step.given(5):
        y = step.emit("Add", y, step.first(5) if first else step.plain(5))
    step.done_as(activated(step, y, norm.activation), first=first)


def _parameter(step: Step, i: int, otherwise: float, channels: int | None = None) -> str:
    """The name of an initializer with the values of input i, or with this one for each channel."""
    array = step.array(i)
    if array is None:
        return step.graph.constant(np.full(channels or step.shape[-1], otherwise, step.dtype))
    return step.weight(i, array)


def _group_norm(step: Step) -> None:
    """x (N, …, C), whose moments are over the positions and the neighbouring channels of a group."""
    norm: GroupNorm = step.options["norm"]
    channels = step.shape[-1]
    if len(step.shape) == 2 and norm.num_groups == 1:
        step.done(step.emit("LayerNormalization", step.plain(), *_affine(step), axis=1, epsilon=norm.eps))
        return
    x, first = _with_channels_second(step)
    dims = (step.dims[0], channels, *step.dims[1:-1])
    if len(step.shape) > 2 and norm.num_groups == channels:
        y = step.emit("InstanceNormalization", x, *_affine(step), epsilon=norm.eps)
    elif len(step.shape) > 2 and step.graph.opset >= 21:
        y = step.emit("GroupNormalization", x, *_affine(step), epsilon=norm.eps, num_groups=norm.num_groups)
    else:
        y = step.reshaped(x, (step.dims[0], norm.num_groups, prod(step.shape[1:]) // norm.num_groups))
        ones, zeros = (_parameter_of_groups(step, norm.num_groups, value) for value in (1, 0))
        y = step.emit("InstanceNormalization", y, ones, zeros, epsilon=norm.eps)
        y = _scaled(step, step.reshaped(y, dims))
    if not first and len(step.shape) > 2:
        y = step.emit("Transpose", y, perm=(0, *range(2, len(step.shape)), 1))
    step.done_as(y, first=first)


def _with_channels_second(step: Step) -> tuple[str, bool]:
    """(x with its channels on the second axis, whether it is an image)."""
    if len(step.shape) == 4:
        return step.first(), True
    x = step.plain()
    return (x if len(step.shape) == 2 else step.emit("Transpose", x, perm=_channels_second(step))), False


def _channels_second(step: Step) -> tuple[int, ...]:
    return (0, len(step.shape) - 1, *range(1, len(step.shape) - 1))


def _affine(step: Step) -> tuple[str, str]:
    return _parameter(step, 1, 1), _parameter(step, 2, 0)


def _parameter_of_groups(step: Step, groups: int, value: float) -> str:
    return step.graph.constant(np.full(groups, value, step.dtype))


def _scaled(step: Step, x: str) -> str:
    """x, with the channels on the second axis, times the weight, plus the bias."""
    for i, kind in ((1, "Mul"), (2, "Add")):
        array = step.array(i)
        if array is not None:
            x = step.emit(kind, x, step.weight(i, array.reshape(-1, *[1] * (len(step.shape) - 2))))
    return x


TABLE: Table = {"batch_norm": _batch_norm, "group_norm": _group_norm}
