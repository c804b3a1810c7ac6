"""Normalisation by the statistics of a batch, or of parts of each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract import Activation, Array, Backend, BatchNorm, GroupNorm, Moments, check_eps
from gpunet.distributed import Ranks, is_single_row, is_stand_in, world
from gpunet.distributed.devices import add
from gpunet.functional.activation import activation_of
from gpunet.functional.conv import as_shaped, moments_left
from gpunet.functional.movement import reshape
from gpunet.geometry import positive_int

__all__ = ["batch_norm", "group_norm", "layer_norm"]


class _BatchNorm(Function, name="batch_norm"):
    single = ("weight", "bias", "running_mean", "running_var")

    def forward(
        self,
        x: Array,
        weight: Array | None,
        bias: Array | None,
        running_mean: Array,
        running_var: Array,
        residual: Array | None,
        *,
        norm: BatchNorm,
    ) -> Array:
        running = Moments(running_mean, running_var)
        y, self.moments = self.backend.batch_norm_forward(x, weight, bias, running, norm, residual)
        self.save(x, weight, bias, *self.moments)
        self.y = None if norm.activation is None else y
        self.norm = replace(norm, left=None)  # which are not needed any more
        self.fresh = residual is None  # the gradient of a residual may be dy itself
        return y

    def backward(self, dy: Array) -> Any:
        x, weight, bias, _, _ = self.saved
        dx, dw, db, dresidual = self.backend.batch_norm_backward(
            dy, x, self.y, weight, bias, self.moments, self.norm, self.into(weight=1, bias=2)
        )
        return dx, dw, db, None, None, dresidual


@dataclass(frozen=True, slots=True)
class _Sharing:
    """Implements `BatchRanks` for a batch that all ranks share."""

    ranks: Ranks
    backend: Backend
    contributes: bool

    def add(self, array: Array) -> None:
        add(self.ranks, self.backend, array)


def batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Any = None,
    bias: Any = None,
    *,
    training: bool,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    num_batches_tracked: Tensor | None = None,
    activation: str | Activation | None = None,
    residual: Tensor | None = None,
    synchronised: bool = False,
) -> Tensor:
    """Normalise each channel to mean 0 and variance 1, then y = f(weight x̂ + bias + residual).

    Ioffe & Szegedy 2015, algorithms 1 and 2. A residual is added before the activation, as in He et
    al. 2016, figure 2.

    Args:
        x: (…, C), any float dtype; the mean and the variance of a channel are over all axes but the
            last.
        running_mean, running_var: (C,), the moments that normalise in inference. In training they
            are changed in place: running = (1 - momentum) running + momentum batch, with the
            variance over n - 1.
        weight, bias: (C,), or None for 1 and 0.
        training: normalise by the batch's moments, with the variance over n; otherwise by the
            running ones.
        momentum: the share of a new batch in the running moments, from 0 to 1. (Keras and the paper
            call the rest momentum.) None for the mean of all batches so far: the share of the n-th
            batch is then 1 / n.
        eps: added to the variance, at least 0.
        num_batches_tracked: (), the number of batches that the running moments are the mean of,
            counted in place in training; given if, and only if, the momentum is None.
        activation: as for `conv2d`, fused.
        residual: of x's shape, or None.
        synchronised: whether the moments of training are those of the samples of all ranks, where
            several train (`gpunet.distributed`). All must then call it.
    Returns:
        (…, C).
    Raises:
        ValueError: shapes that do not fit, or, in training, 1 element per channel, which has no
            variance.
    A batch of no samples leaves the running moments as they are.
    """
    expect_tensor("batch_norm", "x", x)
    weight, bias, residual = as_shaped(weight), as_shaped(bias), as_shaped(residual)
    moments = {"running_mean": running_mean, "running_var": running_var}
    running = tuple(expect_tensor("batch_norm", name, moment) for name, moment in moments.items())
    joins = synchronised and training and world().size > 1
    # all ranks together have at least 2 elements, unless the batch has one row, which counts on one rank alone
    alone = training and (not joins or is_single_row())
    check_batch_norm(x, {"weight": weight, "bias": bias, **moments}, residual, alone)
    check_momentum("batch_norm", momentum)
    if training:
        check_writable("batch_norm", {name: moment.data for name, moment in moments.items()})
    if (momentum is None) != (num_batches_tracked is not None):
        got = f"momentum {momentum} and num_batches_tracked {num_batches_tracked}"
        raise ValueError(f"batch_norm: num_batches_tracked goes with a momentum of None, got {got}")
    if joins and not prod(x.shape[:-1]):
        raise ValueError(
            f"batch_norm: synchronised takes 1 element per channel or more on each rank, x has shape {x.shape}"
        )
    training = training and prod(x.shape[:-1]) > 0  # an empty batch has no moments
    averages = training and momentum is None
    target = tuple(Tensor(r.backend.full(r.shape, 0, r.dtype), r.backend) for r in running) if averages else running
    share, fused = 1.0 if momentum is None else momentum, activation_of("batch_norm", activation)
    sharing = _Sharing(world(), x.backend, not is_stand_in()) if joins else None
    left = moments_left(x) if training else None
    norm = BatchNorm(training, share, eps, fused, residual is not None, left, sharing)
    y = _BatchNorm.apply(x, weight, bias, *target, residual, norm=norm)
    if averages:
        _average(running, target, expect_tensor("batch_norm", "num_batches_tracked", num_batches_tracked))
    if training:
        running_mean.version += 1
        running_var.version += 1
    return y


def check_batch_norm(x: Any, by_channel: dict[str, Any], residual: Any, training: bool) -> None:
    """Raise ValueError unless the shapes fit, and a batch that is trained on has a variance."""
    if x.ndim < 2:
        raise ValueError(f"batch_norm: x has shape {x.shape} but takes (…, C), at least 2 axes")
    for name, value in by_channel.items():
        if value is not None and tuple(value.shape) != x.shape[-1:]:
            raise ValueError(f"batch_norm: {name} has shape {tuple(value.shape)} but x {x.shape} takes {x.shape[-1:]}")
    if residual is not None and tuple(residual.shape) != x.shape:
        raise ValueError(f"batch_norm: residual has shape {tuple(residual.shape)} but x {x.shape}")
    if training and prod(x.shape[:-1]) == 1:
        raise ValueError(f"batch_norm: train on at least 2 elements per channel, or call eval(); x {x.shape} has 1")


def check_writable(operation: str, arrays: dict[str, Array]) -> None:
    """Raise ValueError if one of the arrays is NumPy's and its memory may only be read."""
    for name, array in arrays.items():
        if isinstance(array, np.ndarray) and not array.flags.writeable:
            raise ValueError(
                f"{operation}: {name} is memory that may only be read, and would be written; copy it first"
            )


def _average(running: tuple[Tensor, ...], moments: tuple[Tensor, ...], batches: Tensor) -> None:
    """Count one more batch, and take its moments into the mean of all, in place."""
    backend, apply = batches.backend, batches.backend.binary
    apply("add", batches.data, backend.full((), 1, batches.dtype), out=batches.data)
    batches.version += 1
    for mean, new in zip(running, moments, strict=True):
        share = apply("divide", apply("subtract", new.data, mean.data), batches.data)
        apply("add", mean.data, share, out=mean.data)


def check_momentum(operation: str, momentum: float | None) -> None:
    """Raise ValueError unless the momentum is None or from 0 to 1."""
    if momentum is not None and not 0 <= momentum <= 1:
        raise ValueError(f"{operation}: momentum is {momentum} but must be from 0 to 1, or None for the mean of all")


class _GroupNorm(Function, name="group_norm", fresh=True):
    single = ("weight", "bias")

    def forward(self, x: Array, weight: Array | None, bias: Array | None, *, norm: GroupNorm) -> Array:
        y, self.moments = self.backend.group_norm_forward(x, weight, bias, norm)
        self.save(x, weight)
        self.norm = norm
        return y

    def backward(self, dy: Array) -> Any:
        x, weight = self.saved
        return self.backend.group_norm_backward(dy, x, weight, self.moments, self.norm, self.into(weight=1, bias=2))


def group_norm(x: Tensor, num_groups: int, weight: Any = None, bias: Any = None, *, eps: float = 1e-5) -> Tensor:
    """Normalise each group of a sample's channels to mean 0 and variance 1: y = weight x̂ + bias.

    Wu & He 2018. The result for a sample depends on no other sample, and training and inference are
    the same. With one group per channel this is instance normalisation (Ulyanov et al. 2016). For
    one group of all features, `layer_norm` takes other axes.

    Args:
        x: (N, …, C), any float dtype; the moments are over the positions … and the C // num_groups
            neighbouring channels of a group.
        num_groups: the number of groups; it must divide C.
        weight, bias: (C,), or None for 1 and 0.
        eps: added to the variance, which is over n; at least 0.
    Returns:
        (N, …, C).
    Raises:
        ValueError: shapes that do not fit, or empty samples.
    """
    if expect_tensor("group_norm", "x", x).ndim < 2 or not prod(x.shape[1:]):
        raise ValueError(f"group_norm: x has shape {x.shape} but takes (N, …, C) without empty samples")
    num_groups = positive_int("group_norm", "num_groups", num_groups)
    if x.shape[-1] % num_groups:
        raise ValueError(f"group_norm: num_groups={num_groups} must divide the channels of x {x.shape}")
    weight, bias = _flat_parameters("group_norm", x, x.shape[-1:], weight, bias)
    return _GroupNorm.apply(x, weight, bias, norm=GroupNorm(num_groups, eps))


def layer_norm(
    x: Tensor, normalized_shape: int | Sequence[int], weight: Any = None, bias: Any = None, *, eps: float = 1e-5
) -> Tensor:
    """Normalise x over its last axes together to mean 0 and variance 1: y = weight x̂ + bias.

    Ba et al. 2016.

    Args:
        x: (…, *normalized_shape), any float dtype. Of x (N, H, W, C), C normalises each pixel, (H,
            W, C) each image.
        normalized_shape: the extents of the last axes, or of the last axis alone.
        weight, bias: of that shape, or None for 1 and 0.
        eps: added to the variance, which is over n; at least 0.
    Returns:
        Of x's shape.
    Raises:
        ValueError: shapes that do not fit.
    """
    shape = normalized_extents("layer_norm", normalized_shape)
    if expect_tensor("layer_norm", "x", x).shape[-len(shape) :] != shape:
        raise ValueError(f"layer_norm: x has shape {x.shape} but its last axes must be normalized_shape {shape}")
    weight, bias = _flat_parameters("layer_norm", x, shape, weight, bias)
    check_eps("layer_norm", eps)
    rows = reshape(x, prod(x.shape[: -len(shape)]), prod(shape))
    return reshape(_GroupNorm.apply(rows, weight, bias, norm=GroupNorm(1, eps)), *x.shape)


def normalized_extents(operation: str, normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    """The extents of the axes that a layer normalisation joins, which must be positive."""
    given = normalized_shape if isinstance(normalized_shape, tuple | list) and normalized_shape else (normalized_shape,)
    return tuple(positive_int(operation, "normalized_shape", n) for n in given)


def _flat_parameters(operation: str, x: Tensor, shape: tuple[int, ...], weight: Any, bias: Any) -> tuple[Any, ...]:
    """Weight and bias, each of which must have that shape, with one axis."""
    given = {"weight": as_shaped(weight), "bias": as_shaped(bias)}
    for name, value in given.items():
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"{operation}: {name} has shape {tuple(value.shape)} but x {x.shape} takes {shape}")
    # a parameter with one axis is passed on as it is, so that its gradient is written where it lies
    return tuple(value if value is None or len(value.shape) == 1 else value.reshape(-1) for value in given.values())
