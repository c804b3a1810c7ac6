"""Normalisation by the statistics of a batch."""

from __future__ import annotations

from math import prod
from typing import Any

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.base import Activation, Array
from gpunet.functional.activation import activation_of
from gpunet.functional.conv import as_shaped


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
    momentum: float = 0.1,
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
        momentum: the share of a new batch, from 0 to 1. (Keras and the paper call the rest momentum.)
        eps: added to the variance.
        activation: as for `conv2d`, fused.
        residual: of x's shape, or None.
    Returns:
        (…, C).
    Raises:
        ValueError: shapes that do not fit, or, in training, fewer than 2 elements a channel, which have no variance.
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
    if not 0 <= momentum <= 1:
        raise ValueError(f"batch_norm: momentum is {momentum} but must be from 0 to 1")
    if not eps >= 0:
        raise ValueError(f"batch_norm: eps is {eps} but must be at least 0")
    if training and prod(x.shape[:-1]) < 2:
        raise ValueError(
            f"batch_norm: training takes at least 2 elements a channel, but x {x.shape} has {prod(x.shape[:-1])}; "
            "use a larger batch, or eval()"
        )
    y = _BatchNorm.apply(
        x, gamma, beta, running_mean, running_var, residual,
        training=training, momentum=momentum, eps=eps, activation=activation_of("batch_norm", activation),
    )  # fmt: skip
    if training:
        running_mean.version += 1
        running_var.version += 1
    return y
