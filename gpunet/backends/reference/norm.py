"""Normalisations by their formulas."""

from __future__ import annotations

from math import prod

import numpy as np

from gpunet.backends.contract import NEW, Array, BatchNorm, BatchNormGrads, BatchRanks, GroupNorm, Into, Moments
from gpunet.backends.host.arrays import HostArrays, deliver_both
from gpunet.backends.host.ranks import sums_over, sums_through_moments


class ReferenceNorm(HostArrays):
    """Batch and group normalisation."""

    def batch_norm_forward(
        self, x: Array, w: Array | None, b: Array | None, running: Moments, norm: BatchNorm, residual: Array | None
    ) -> tuple[Array, Moments]:
        saved = running
        if norm.training:
            saved, n = _batch_moments(x, norm.ranks)
            for average, value in zip(running, (saved.mean, saved.variance * n / (n - 1)), strict=True):
                average[...] = (1 - norm.momentum) * average + norm.momentum * value
        y = (x - saved.mean) / np.sqrt(saved.variance + norm.eps)
        if w is not None:
            y = y * w
        if b is not None:
            y = y + b
        if residual is not None:
            y = y + residual
        y = y.astype(x.dtype)
        return y if norm.activation is None else self.activation_forward(y, norm.activation), saved

    def batch_norm_backward(
        self, dy: Array, x: Array, y: Array | None, w: Array | None, b: Array | None, saved: Moments, norm: BatchNorm,
        into: Into = NEW,
    ) -> BatchNormGrads:  # fmt: skip
        g = dy if norm.activation is None else self.activation_backward(dy, y, norm.activation)
        axes, n = _all_but_channels(x)
        deviation = np.sqrt(saved.variance + norm.eps)
        h = (x - saved.mean) / deviation
        db, dw = (a.sum(axis=axes, dtype=np.float64).astype(h.dtype) for a in (g, g * h))
        if (whole := sums_through_moments(norm, dw, db, n)) is None:
            dx = g / deviation
        else:
            whole_dw, whole_db, whole_n = whole
            dx = (g - (whole_db + h * whole_dw) / whole_n) / deviation
        if w is not None:
            dx = dx * w
        return dx.astype(x.dtype), *deliver_both(dw, db, into, x.dtype), g if norm.residual else None

    def group_norm_forward(self, x: Array, w: Array | None, b: Array | None, norm: GroupNorm) -> tuple[Array, Moments]:
        saved = _moments(_in_groups(x, norm), (1, 3))
        y, _ = _standardized(x, saved, norm)
        if w is not None:
            y = y * w
        if b is not None:
            y = y + b
        return y.astype(x.dtype), saved

    def group_norm_backward(
        self, dy: Array, x: Array, w: Array | None, saved: Moments, norm: GroupNorm, into: Into = NEW
    ) -> tuple[Array, Array, Array]:
        h, deviation = _standardized(x, saved, norm)
        axes, _ = _all_but_channels(x)
        db, dw = (a.sum(axis=axes, dtype=np.float64) for a in (dy, dy * h))
        d, h = _in_groups(dy if w is None else dy * w, norm), _in_groups(h, norm)
        mean_d, mean_dh = (a.mean(axis=(1, 3), keepdims=True, dtype=np.float64).astype(h.dtype) for a in (d, d * h))
        dx = ((d - mean_d - h * mean_dh) / deviation).astype(x.dtype).reshape(x.shape)
        return dx, *deliver_both(dw, db, into, x.dtype)


def _all_but_channels(x: Array) -> tuple[tuple[int, ...], int]:
    """All axes of x (…, C) but the last, and the number of elements that share a channel."""
    return tuple(range(x.ndim - 1)), x.size // x.shape[-1]


def _moments(a: Array, axes: tuple[int, ...]) -> Moments:
    """Mean and biased variance along axes, summed in float64; the result is float32 or wider."""
    wide = np.promote_types(a.dtype, np.float32)
    mean, variance = a.mean(axis=axes, dtype=np.float64), a.var(axis=axes, dtype=np.float64)
    return Moments(mean.astype(wide), variance.astype(wide))


def _batch_moments(x: Array, ranks: BatchRanks | None) -> tuple[Moments, float]:
    """(the `_moments` of a batch, of which each of `ranks` has a part, the number of its elements per channel)."""
    axes, own = _all_but_channels(x)
    if ranks is None:
        return _moments(x, axes), own
    wide = np.promote_types(x.dtype, np.float32)
    total, n = sums_over(ranks, x.sum(axis=axes, dtype=np.float64), own)
    (squares,) = sums_over(ranks, ((x.astype(np.float64) - total / n) ** 2).sum(axis=axes))
    return Moments((total / n).astype(wide), (squares / n).astype(wide)), n


def _standardized(x: Array, saved: Moments, norm: GroupNorm) -> tuple[Array, Array]:
    """(h of x's shape, the standard deviations (N, 1, num_groups, 1)) of group normalisation."""
    mean, variance = (a[:, None, :, None] for a in saved)
    deviation = np.sqrt(variance + norm.eps)
    return ((_in_groups(x, norm) - mean) / deviation).reshape(x.shape), deviation


def _in_groups(x: Array, norm: GroupNorm) -> Array:
    """x (N, …, C) as (N, positions, groups, channels of a group)."""
    return x.reshape(len(x), prod(x.shape[1:-1]), norm.num_groups, x.shape[-1] // norm.num_groups)
