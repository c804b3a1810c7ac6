"""Batch normalisation by the moments of a batch of which each rank has a share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from gpunet.autograd import Function
from gpunet.backends.contract import Array, BatchNorm, Moments
from gpunet.distributed import Ranks, is_stand_in

FLOATS = np.dtype(np.float32), np.dtype(np.float64)


class JoinedBatchNorm(Function, name="batch_norm"):
    """`batch_norm` in training, whose sums go over the samples of all ranks.

    With n samples of all ranks, and sums over all of them, dx = w / sqrt(variance + eps) (g - (db +
    h dw) / n), as in `NormPrimitives.batch_norm_backward`. The inference pass gives w / sqrt(variance
    + eps) g, and this rank's terms of db and dw.
    """

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
        ranks: Ranks,
    ) -> Array:
        if x.dtype not in FLOATS:
            raise TypeError(f"batch_norm: synchronised takes float32 or float64, got {x.dtype}")
        self.ranks, self.counts = ranks, not is_stand_in()
        self.n, mean, variance = self._joined_moments(x)
        if self.n == 1:
            raise ValueError("batch_norm: train on at least 2 elements per channel, or call eval(); all ranks have 1")
        self._move(Moments(running_mean, running_var), mean, variance, norm.momentum)
        to_device = self.backend.asarray
        self.moments = Moments(to_device(mean, running_mean.dtype), to_device(variance, running_var.dtype))
        self.norm = replace(norm, training=False, left=None)
        y, _ = self.backend.batch_norm_forward(x, weight, bias, self.moments, self.norm, residual)
        self.save(x, weight, bias, *self.moments)
        self.y = None if norm.activation is None else y
        self.fresh = residual is None  # the gradient of a residual may be dy itself
        return y

    def backward(self, dy: Array) -> Any:
        x, weight, bias, _, _ = self.saved
        dx, dw, db, dresidual = self.backend.batch_norm_backward(dy, x, self.y, weight, bias, self.moments, self.norm)
        return self._corrected(dx, x, weight, dw, db), dw, db, None, None, dresidual

    def _joined_moments(self, x: Array) -> tuple[int, np.ndarray, np.ndarray]:
        """(elements per channel, their mean, their variance) of all ranks; the last two float64 (C,)."""
        backend, binary, axes = self.backend, self.backend.binary, tuple(range(len(x.shape) - 1))
        n = int(np.prod(x.shape[:-1]))
        mean = backend.scale(backend.sum(x, axes), None, 1 / n)
        off = binary("subtract", x, mean)
        squares = backend.sum(binary("multiply", off, off), axes)
        own = np.stack([backend.to_numpy(a).astype(np.float64) for a in (mean, squares)])
        parts = self.ranks.gather("the moments of a batch", (n if self.counts else 0, own))
        counts = np.array([n for n, _ in parts])[:, None]
        means, distances = np.stack([of_rank for _, of_rank in parts], axis=1)
        # Chan et al. 1983, "Algorithms for computing the sample variance"
        total = int(counts.sum())
        whole = (counts * means).sum(axis=0) / total
        distances = np.where(counts, distances + counts * (means - whole) ** 2, 0)
        return total, whole, distances.sum(axis=0) / total

    def _move(self, running: Moments, mean: np.ndarray, variance: np.ndarray, momentum: float) -> None:
        """Update the running moments in place, with the unbiased variance."""
        backend = self.backend
        for kept, new in zip(running, (mean, variance * (self.n / (self.n - 1))), strict=True):
            share = backend.asarray(momentum * new, kept.dtype)
            backend.binary("add", backend.scale(kept, None, 1 - momentum), share, out=kept)

    def _corrected(self, dx: Array, x: Array, weight: Array | None, dw: Array, db: Array) -> Array:
        """dx with its last term. A row that counts for nothing has none, for no sum depends on it."""
        backend = self.backend
        mean, variance, own_dw, own_db = (backend.to_numpy(a).astype(np.float64) for a in (*self.moments, dw, db))
        sums = np.stack([own_dw, own_db])
        self.ranks.add(sums)
        if not self.counts:
            return dx
        inverse = 1 / np.sqrt(variance + self.norm.eps)
        scale = inverse if weight is None else inverse * backend.to_numpy(weight)
        slope = scale * sums[0] * inverse / self.n  # the term is slope x + offset
        offset = scale * sums[1] / self.n - slope * mean
        term = backend.binary("multiply", x, backend.asarray(slope, x.dtype))
        term = backend.binary("add", term, backend.asarray(offset, x.dtype), out=term)
        return backend.binary("subtract", dx, term, out=term)
