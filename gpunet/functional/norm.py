"""Normalisation by the statistics of a batch, or of parts of each sample."""

from __future__ import annotations

from math import prod
from typing import Any

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.functional.activation import activation_of
from gpunet.functional.conv import as_shaped
from gpunet.functional.movement import reshape
from gpunet.geometry import positive_int


class _BatchNorm(Function):
    name = "batch_norm"
    single = ("gamma", "beta", "running_mean", "running_var")

    def forward(
        self,
        x: Array,
        gamma: Array | None,
        beta: Array | None,
        running_mean: Array,
        running_var: Array,
        residual: Array | None,
        *,
        training: bool,
        momentum: float,
        eps: float,
        activation: Activation | None,
    ) -> Array:
        y, moments = self.backend.batch_norm_forward(
            x, gamma, beta, running_mean, running_var,
            momentum=momentum, eps=eps, training=training, activation=activation, residual=residual,
        )  # fmt: skip
        self.save(x, gamma, moments.mean, moments.variance)
        self.moments = moments
        self.y = None if activation is None else y
        self.eps, self.training, self.activation = eps, training, activation
        self.fresh = residual is None  # whose gradient may be dy itself
        return y

    def backward(self, dy: Array) -> Any:
        x, gamma, _, _ = self.saved
        dx, dgamma, dbeta, dresidual = self.backend.batch_norm_backward(
            dy, x, self.y, gamma, self.moments,
            eps=self.eps, training=self.training, activation=self.activation, residual=self.needs(5),
            gamma_out=self.destination(1), beta_out=self.destination(2), accumulate=self.accumulate,
        )  # fmt: skip
        return dx, dgamma, dbeta, None, None, dresidual


def batch_norm(
    x: Tensor,
    gamma: Any,
    beta: Any,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    training: bool,
    momentum: float | None = 0.1,
    batches: Tensor | None = None,
    eps: float = 1e-5,
    activation: str | Activation | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Each channel shifted to mean 0 and scaled to variance 1, then y = f(gamma x̂ + beta + residual), in one operation.

    Ioffe & Szegedy 2015, algorithms 1 and 2. The order of the last two is that of He et al. 2016, figure 2: the shortcut is
    added before the activation.

    Args:
        x: (…, C), any float dtype; the mean and the variance of a channel are over all axes but the last.
        gamma, beta: (C,), or None for 1 and 0.
        running_mean, running_var: (C,), what is expected of a batch at inference. In training they are changed in place:
            running = (1 - momentum) running + momentum batch, with the variance over n - 1.
        training: normalise by the batch's moments, with the variance over n; else by the running ones.
        momentum: the share of a new batch, from 0 to 1. (Keras and the paper call the rest momentum.) None for the mean of all
            batches so far: the share of the n-th is 1 / n.
        batches: (), how many batches the running moments are of, counted in place in training; with a momentum of None alone.
        eps: added to the variance.
        activation: as for `conv2d`, fused.
        residual: of x's shape, or None.
    Returns:
        (…, C).
    Raises:
        ValueError: shapes that do not fit, or, in training, 1 element a channel, which has no variance.
    A batch of no samples leaves the running moments as they are.
    """
    expect_tensor("batch_norm", "x", x)
    expect_tensor("batch_norm", "running_mean", running_mean)
    expect_tensor("batch_norm", "running_var", running_var)
    if x.ndim < 2:
        raise ValueError(f"batch_norm: x has shape {x.shape} but takes (…, C), at least 2 axes")
    gamma, beta, residual = as_shaped(gamma), as_shaped(beta), as_shaped(residual)
    by_channel = {"gamma": gamma, "beta": beta, "running_mean": running_mean, "running_var": running_var}
    for name, value in by_channel.items():
        if value is not None and tuple(value.shape) != x.shape[-1:]:
            raise ValueError(f"batch_norm: {name} has shape {tuple(value.shape)} but x {x.shape} takes {x.shape[-1:]}")
    if residual is not None and tuple(residual.shape) != x.shape:
        raise ValueError(f"batch_norm: residual has shape {tuple(residual.shape)} but x {x.shape}")
    check_momentum("batch_norm", momentum)
    if (momentum is None) != (batches is not None):
        raise ValueError(
            f"batch_norm: batches counts those of a momentum of None, got momentum {momentum} and batches {batches}"
        )
    if not eps >= 0:
        raise ValueError(f"batch_norm: eps is {eps} but must be at least 0")
    elements = prod(x.shape[:-1])
    if training and elements == 1:
        raise ValueError(
            f"batch_norm: training takes at least 2 elements a channel, but x {x.shape} has 1; use a larger batch, or eval()"
        )
    training = training and elements > 0  # nothing has no moments, and moves the running ones nowhere
    running = running_mean, running_var
    averages = training and batches is not None
    moments = tuple(Tensor(r.backend.full(r.shape, 0, r.dtype), r.backend) for r in running) if averages else running
    y = _BatchNorm.apply(
        x, gamma, beta, *moments, residual,
        training=training, momentum=1.0 if momentum is None else momentum, eps=eps,
        activation=activation_of("batch_norm", activation),
    )  # fmt: skip
    if averages:
        _average(running, moments, expect_tensor("batch_norm", "batches", batches))
    if training:
        running_mean.version += 1
        running_var.version += 1
    return y


def _average(running: tuple[Tensor, ...], moments: tuple[Tensor, ...], batches: Tensor) -> None:
    """Count a batch, and take its moments into the mean of all: running += (batch - running) / n, where the arrays are."""
    backend, apply = batches.backend, batches.backend.binary
    apply("add", batches.data, backend.full((), 1, batches.dtype), out=batches.data)
    batches.version += 1
    for mean, new in zip(running, moments, strict=True):
        share = apply("divide", apply("subtract", new.data, mean.data), batches.data)
        apply("add", mean.data, share, out=mean.data)


def check_momentum(operation: str, momentum: float | None) -> None:
    """ValueError for a momentum that is neither None nor from 0 to 1."""
    if momentum is not None and not 0 <= momentum <= 1:
        raise ValueError(
            f"{operation}: momentum is {momentum} but must be from 0 to 1, or None for the mean of all batches"
        )


class _GroupNorm(Function):
    name = "group_norm"
    fresh = True
    single = ("gamma", "beta")

    def forward(self, x: Array, gamma: Array | None, beta: Array | None, *, groups: int, eps: float) -> Array:
        y, self.moments = self.backend.group_norm_forward(x, gamma, beta, groups=groups, eps=eps)
        self.save(x, gamma)
        self.groups, self.eps = groups, eps
        return y

    def backward(self, dy: Array) -> Any:
        x, gamma = self.saved
        return self.backend.group_norm_backward(
            dy, x, gamma, self.moments, groups=self.groups, eps=self.eps,
            gamma_out=self.destination(1), beta_out=self.destination(2), accumulate=self.accumulate,
        )  # fmt: skip


def group_norm(x: Tensor, groups: int, gamma: Any = None, beta: Any = None, *, eps: float = 1e-5) -> Tensor:
    """Each group of channels of each sample shifted to mean 0 and scaled to variance 1, then y = gamma x̂ + beta.

    Wu & He 2018. What a sample becomes depends on no other, and training and inference are the same. With a group a channel
    this is instance normalisation (Ulyanov et al. 2016); for one group of all features, `layer_norm` takes other axes.

    Args:
        x: (N, …, C), any float dtype; moments are of the positions … and the C // groups neighbouring channels of a group.
        groups: must divide C.
        gamma, beta: (C,), or None for 1 and 0.
        eps: added to the variance, which is over n.
    Returns:
        (N, …, C).
    """
    if expect_tensor("group_norm", "x", x).ndim < 2 or not prod(x.shape[1:]):
        raise ValueError(
            f"group_norm: x has shape {x.shape} but takes (N, …, C), at least 2 axes, and no empty samples"
        )
    groups = positive_int("group_norm", "groups", groups)
    if x.shape[-1] % groups:
        raise ValueError(f"group_norm: groups={groups} must divide the channels of x {x.shape}")
    gamma, beta = _affine("group_norm", x, x.shape[-1:], gamma, beta, eps)
    return _GroupNorm.apply(x, gamma, beta, groups=groups, eps=eps)


def layer_norm(x: Tensor, gamma: Any = None, beta: Any = None, *, axes: int = 1, eps: float = 1e-5) -> Tensor:
    """The last `axes` axes of x together shifted to mean 0 and scaled to variance 1, then y = gamma x̂ + beta (Ba et al. 2016).

    Args:
        x: at least `axes` axes, any float dtype; (N, H, W, C) is normalised by pixel with 1, by image with 3.
        gamma, beta: of the shape of those axes, or None for 1 and 0.
        eps: added to the variance, which is over n.
    Returns:
        x's shape.
    """
    axes = positive_int("layer_norm", "axes", axes)
    if expect_tensor("layer_norm", "x", x).ndim < axes or not prod(x.shape[-axes:]):
        raise ValueError(f"layer_norm: x has shape {x.shape} but takes at least {axes} axes of elements to normalise")
    gamma, beta = _affine("layer_norm", x, x.shape[-axes:], gamma, beta, eps)
    rows = reshape(x, prod(x.shape[:-axes]), prod(x.shape[-axes:]))
    return reshape(_GroupNorm.apply(rows, gamma, beta, groups=1, eps=eps), *x.shape)


def _affine(operation: str, x: Tensor, shape: tuple[int, ...], gamma: Any, beta: Any, eps: float) -> tuple[Any, Any]:
    """gamma and beta, which `shape` is that of, flattened."""
    given = {"gamma": as_shaped(gamma), "beta": as_shaped(beta)}
    for name, value in given.items():
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"{operation}: {name} has shape {tuple(value.shape)} but x {x.shape} takes {shape}")
    if not eps >= 0:
        raise ValueError(f"{operation}: eps is {eps} but must be at least 0")
    # one that is flat stays the parameter that it is
    gamma, beta = (v if v is None or len(v.shape) == 1 else v.reshape(-1) for v in given.values())
    return gamma, beta
