"""Normalisations, and dropout, which stands with them for it too depends on training."""

from __future__ import annotations

from math import prod

import numpy as np

from gpunet import functional as F
from gpunet.autograd import Tensor
from gpunet.interop.onnx.loading.operators.registry import choice, operator
from gpunet.interop.onnx.loading.values import Host, Value, channels_last, normal_axis, of_images


@operator("BatchNormalization", parameters={"scale": None, "b": None})
def batch_norm(
    x: Value,
    scale: Value,
    b: Value,
    mean: Value,
    var: Value,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    training_mode: int = 0,
    training: bool = False,
    outputs: int = 1,
) -> list[Value]:
    """Normalise each channel by running moments; in training by the batch's, which update them.

    ONNX's momentum is the share of the old moments, gpunet's that of the batch.
    """
    choice("spatial", spatial, 1)
    by_batch, moments = training or bool(training_mode), [mean.tensor(), var.tensor()]
    if training_mode and not training:  # the outputs are the new moments, and the inputs stay as they are
        moments = [Tensor(m.backend.copy(m.data), m.backend) for m in moments]
    images = x.tensor(channels_last(x.ndim))
    y = F.batch_norm(
        images,
        moments[0],
        moments[1],
        scale.tensor(),
        b.tensor(),
        training=by_batch,
        momentum=1 - momentum,
        eps=epsilon,
    )
    if training_mode and not training:
        _biased(moments[1], images, momentum)
    return [of_images(y), *(Value(m) for m in moments)][:outputs]


def _biased(running: Tensor, images: Tensor, momentum: float) -> None:
    """Correct the running variance: ONNX's follows the batch's variance over n, gpunet's over n - 1."""
    batch = F.var(images.detach(), tuple(range(images.ndim - 1)), correction=1)
    count = prod(images.shape[:-1])
    backend = running.backend
    surplus = backend.scale(batch.data, None, (1 - momentum) / count)  # v / (n - 1) is v / n times n / (n - 1)
    running.data = backend.binary("subtract", running.data, surplus)


@operator("InstanceNormalization", parameters={"scale": None, "b": None})
def instance_norm(x: Value, scale: Value, b: Value, *, epsilon: float = 1e-5) -> Value:
    """Normalise each channel of each image."""
    images = x.tensor(channels_last(x.ndim))
    return of_images(F.group_norm(images, images.shape[-1], scale.tensor(), b.tensor(), eps=epsilon))


@operator("GroupNormalization", parameters={"scale": None, "bias": None})
def group_norm(
    x: Value,
    scale: Value,
    bias: Value,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    opset: int = 21,
) -> Value:
    """Normalise groups of channels; up to opset 20 scale and bias were one per group."""
    images = x.tensor(channels_last(x.ndim))
    per_channel = [
        _per_channel(v.tensor(), num_groups, images.shape[-1]) if opset < 21 else v.tensor() for v in (scale, bias)
    ]
    return of_images(F.group_norm(images, num_groups, *per_channel, eps=epsilon))


def _per_channel(by_group: Tensor, groups: int, channels: int) -> Tensor:
    """(channels,): each group's element for each of its channels."""
    if groups < 1 or channels % groups or by_group.shape != (groups,):
        raise ValueError(f"{groups} groups with scales of shape {by_group.shape} do not fit {channels} channels")
    column = F.reshape(by_group, groups, 1)
    return F.reshape(F.concatenate([column] * (channels // groups), 1), channels)  # F.index cannot be captured


@operator("LayerNormalization", parameters={"scale": None, "b": None})
def layer_norm(
    x: Value,
    scale: Value,
    b: Value | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    outputs: int = 1,
) -> list[Value]:
    """Normalise over the axes from `axis` on; further outputs are the mean and 1 / deviation."""
    values = x.tensor()
    axes = tuple(range(normal_axis(x, axis), x.ndim))
    extents, weights = x.shape[axes[0] :], [None if v is None else v.tensor() for v in (scale, b)]
    if all(w is None or w.shape == extents for w in weights):
        y = F.layer_norm(values, extents, *weights, eps=epsilon)
    else:
        y = F.layer_norm(values, extents, eps=epsilon)
        for join, weight in zip((F.multiply, F.add), weights, strict=True):
            y = y if weight is None else join(y, weight)
    if y.shape != values.shape:
        raise ValueError(f"scale and b broadcast x of shape {x.shape} to {y.shape}")
    if outputs == 1:
        return [Value(y)]
    mean = F.mean(values, axes, keepdims=True)
    deviation = F.sqrt(F.var(values, axes, keepdims=True, correction=0) + epsilon)
    return [Value(y), Value(mean), Value(1 / deviation)][:outputs]


@operator("LRN")
def local_response_norm(x: Value, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Value:
    """x / (bias + alpha mean(x^2))^beta, the mean over `size` channels around each, zeros beyond."""
    images = x.images()
    n, h, w, c = images.shape
    squares = F.reshape(images * images, n, h * w, c, 1)
    before = (size - 1) // 2
    around = F.avg_pool2d(
        squares, (1, size), stride=1, padding=((0, 0), (before, size - 1 - before)), count_padding=True
    )
    return of_images(images / (F.reshape(around, n, h, w, c) * alpha + bias) ** beta)


@operator("Dropout")
def dropout(
    x: Value,
    rate: Host | None = None,
    training_mode: Host | None = None,
    *,
    ratio: float = 0.5,
    seed: int | None = None,
    training: bool = False,
    outputs: int = 1,
) -> list[Value]:
    """Drop elements while the model is trained; otherwise the result is x, and all of it is kept.

    Which elements are dropped, gpunet's seed says and not the attribute: ONNX leaves it open.
    """
    p = ratio if rate is None else rate.number()
    asked = training_mode is not None and bool(training_mode.host())
    if asked and p > 0 and not training:
        raise ValueError(
            "input training_mode is true, but the model is in eval mode; call model.train() to drop elements"
        )
    drops = training and p > 0
    if drops and outputs > 1:
        raise ValueError("a mask is asked for, but gpunet's dropout gives none in training")
    y = Value(F.dropout(x.tensor(x.order), p), x.order) if drops else x
    return [y, Value(np.ones(x.shape, np.bool_))][:outputs]
