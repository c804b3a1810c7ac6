"""Normalisations by their formulas."""

from __future__ import annotations

from abc import ABC
from math import prod

import numpy as np

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.norm import Moments
from gpunet.backends.host.arrays import deliver
from gpunet.backends.host.backend import HostBackend


class ReferenceNorm(HostBackend, ABC):
    """Batch and group normalisation."""

    def batch_norm_forward(
        self,
        x: Array,
        gamma: Array | None,
        beta: Array | None,
        running_mean: Array,
        running_var: Array,
        *,
        momentum: float,
        eps: float,
        training: bool,
        activation: Activation | None = None,
        residual: Array | None = None,
    ) -> tuple[Array, Moments]:
        saved = Moments(running_mean, running_var)
        if training:
            wide = np.promote_types(x.dtype, np.float32)
            axes, n = _all_but_channels(x)
            moments = x.mean(axis=axes, dtype=np.float64), x.var(axis=axes, dtype=np.float64)
            saved = Moments(*(a.astype(wide) for a in moments))
            running_mean[...] = (1 - momentum) * running_mean + momentum * saved.mean
            running_var[...] = (1 - momentum) * running_var + momentum * saved.variance * n / (n - 1)
        y = (x - saved.mean) / np.sqrt(saved.variance + eps)
        if gamma is not None:
            y = y * gamma
        if beta is not None:
            y = y + beta
        if residual is not None:
            y = y + residual
        y = y.astype(x.dtype)
        return y if activation is None else self.activation_forward(y, activation), saved

    def batch_norm_backward(
        self,
        dy: Array,
        x: Array,
        y: Array | None,
        gamma: Array | None,
        saved: Moments,
        *,
        eps: float,
        training: bool,
        activation: Activation | None = None,
        residual: bool = False,
        gamma_out: Array | None = None,
        beta_out: Array | None = None,
        accumulate: bool = False,
    ) -> tuple[Array, Array, Array, Array | None]:
        g = dy if activation is None else self.activation_backward(dy, y, activation)
        axes, n = _all_but_channels(x)
        deviation = np.sqrt(saved.variance + eps)
        h = (x - saved.mean) / deviation
        dbeta, dgamma = (a.sum(axis=axes, dtype=np.float64).astype(h.dtype) for a in (g, g * h))
        dx = (g - (dbeta + h * dgamma) / n if training else g) / deviation
        if gamma is not None:
            dx = dx * gamma
        dgamma = deliver(dgamma.astype(x.dtype), gamma_out, accumulate)
        dbeta = deliver(dbeta.astype(x.dtype), beta_out, accumulate)
        return dx.astype(x.dtype), dgamma, dbeta, g if residual else None

    def group_norm_forward(
        self, x: Array, gamma: Array | None, beta: Array | None, *, groups: int, eps: float
    ) -> tuple[Array, Moments]:
        parts, wide = _groups(x, groups), np.promote_types(x.dtype, np.float32)
        moments = parts.mean(axis=(1, 3), dtype=np.float64), parts.var(axis=(1, 3), dtype=np.float64)
        saved = Moments(*(a.astype(wide) for a in moments))
        y = _standardized(x, saved, groups, eps)[0]
        if gamma is not None:
            y = y * gamma
        if beta is not None:
            y = y + beta
        return y.astype(x.dtype), saved

    def group_norm_backward(
        self,
        dy: Array,
        x: Array,
        gamma: Array | None,
        saved: Moments,
        *,
        groups: int,
        eps: float,
        gamma_out: Array | None = None,
        beta_out: Array | None = None,
        accumulate: bool = False,
    ) -> tuple[Array, Array, Array]:
        h, deviation = _standardized(x, saved, groups, eps)
        axes, _ = _all_but_channels(x)
        dbeta, dgamma = (a.sum(axis=axes, dtype=np.float64) for a in (dy, dy * h))
        d, h = _groups(dy if gamma is None else dy * gamma, groups), _groups(h, groups)
        offset, slope = (a.mean(axis=(1, 3), keepdims=True, dtype=np.float64).astype(h.dtype) for a in (d, d * h))
        dx = ((d - offset - h * slope) / deviation).astype(x.dtype).reshape(x.shape)
        dgamma = deliver(dgamma.astype(x.dtype), gamma_out, accumulate)
        return dx, dgamma, deliver(dbeta.astype(x.dtype), beta_out, accumulate)


def _all_but_channels(x: Array) -> tuple[tuple[int, ...], int]:
    """The axes of (…, C) but the last, and how many elements share a channel."""
    return tuple(range(x.ndim - 1)), x.size // x.shape[-1]


def _standardized(x: Array, saved: Moments, groups: int, eps: float) -> tuple[Array, Array]:
    """(h of x's shape, deviations (N, 1, groups, 1)) of group norm."""
    mean, variance = (a[:, None, :, None] for a in saved)
    deviation = np.sqrt(variance + eps)
    return ((_groups(x, groups) - mean) / deviation).reshape(x.shape), deviation


def _groups(x: Array, groups: int) -> Array:
    """(N, …, C) as (N, positions, groups, channels of a group)."""
    return x.reshape(len(x), prod(x.shape[1:-1]), groups, x.shape[-1] // groups)
