"""Normalisations of `NumpyBackend`."""

from __future__ import annotations

from collections.abc import Sequence

from gpunet.backends.contract import NEW, Array, BatchNorm, BatchNormGrads, GroupNorm, Into, Moments
from gpunet.backends.host import memory
from gpunet.backends.host.arrays import deliver
from gpunet.backends.numpy import batch_norm, group_norm
from gpunet.backends.numpy.output_activation import open_activation
from gpunet.backends.numpy.threads import NumpyThreads


class NumpyNorm(NumpyThreads):
    """Batch and group normalisation."""

    def batch_norm_forward(
        self, x: Array, w: Array | None, b: Array | None, running: Moments, norm: BatchNorm, residual: Array | None
    ) -> tuple[Array, Moments]:
        saved = running
        if norm.training:
            saved, n = batch_norm.moments(x, self._parallel)
            mean, variance = running
            mean += norm.momentum * (saved.mean - mean)
            variance += norm.momentum * (saved.variance * (n / (n - 1)) - variance)
        return batch_norm.normalize(x, w, b, saved, norm, residual, self._parallel), saved

    def batch_norm_backward(
        self, dy: Array, x: Array, y: Array | None, w: Array | None, saved: Moments, norm: BatchNorm, into: Into = NEW
    ) -> BatchNormGrads:
        g, fill, activation = dy, None, norm.activation
        if activation is not None:  # the first pass, over the sums, writes g for both
            g = memory.empty(dy.shape, dy.dtype)
            rows, upstream, output = (batch_norm.as_rows(a) for a in (g, dy, y))

            def fill(i: int, j: int) -> None:
                rows[i:j] = open_activation(upstream[i:j], output[i:j], activation)

        sums = batch_norm.gradient_sums(g, x, saved, norm, fill, self._parallel)
        dx = memory.empty(x.shape, x.dtype) if norm.residual_grad or g is dy else g
        batch_norm.input_gradient(g, x, w, saved, norm, sums, dx, self._parallel)
        return dx, *_delivered(sums, x, into), g if norm.residual_grad else None

    def group_norm_forward(self, x: Array, w: Array | None, b: Array | None, norm: GroupNorm) -> tuple[Array, Moments]:
        return group_norm.forward(x, w, b, norm, self._parallel)

    def group_norm_backward(
        self, dy: Array, x: Array, w: Array | None, saved: Moments, norm: GroupNorm, into: Into = NEW
    ) -> tuple[Array, Array, Array]:
        dx, *sums = group_norm.backward(dy, x, w, saved, norm, self._parallel)
        return dx, *_delivered(sums, x, into)


def _delivered(sums: Sequence[Array], x: Array, into: Into) -> tuple[Array, Array]:
    """(dw, db) in x's dtype, where they should go."""
    dw, db = (total.astype(x.dtype) for total in sums)
    return deliver(dw, into.weight, into.add), deliver(db, into.bias, into.add)
