"""Batch and group normalisation in compiled loops: norm.cpp."""

from __future__ import annotations

from math import prod

import numpy as np

from gpunet.backends.contract import NEW, Activation, Array, BatchNorm, BatchNormGrads, GroupNorm, Into, Moments
from gpunet.backends.host import memory
from gpunet.backends.host.arrays import QUIET, deliver_both
from gpunet.backends.host.ranks import sums_through_moments
from gpunet.backends.numpy.compiled.activation import CompiledActivation
from gpunet.backends.numpy.compiled.library import Library
from gpunet.backends.numpy.norm import NumpyNorm, of_all_ranks, together, update_running

BLOCK = 1 << 14
"""Elements of a block, whose sums are taken in the dtype of the image: it stays in a first-level or
second-level cache between two passes."""
OPEN, BY_Y, BY_X = 0, 1, 2
"""What a gradient is opened by: nothing, y, or the sign of y that x gives again."""


class CompiledNorm(CompiledActivation, NumpyNorm):
    """Batch and group normalisation."""

    @QUIET
    def batch_norm_forward(
        self, x: Array, w: Array | None, b: Array | None, running: Moments, norm: BatchNorm, residual: Array | None
    ) -> tuple[Array, Moments]:
        loops = self._loops("norm", x, residual, w, b, *running)
        if loops is None or not x.size:
            return super().batch_norm_forward(x, w, b, running, norm, residual)
        saved = self._batch_moments(loops, x, running, norm) if norm.training else running
        y, relu, (pixels, c) = memory.empty(x.shape, x.dtype), _is_relu(norm.activation), _extents(x)
        self._spread(
            loops, "batch_forward", pixels, c, x, residual, y, c, *saved, w, b, float(norm.eps), int(relu)
        )  # fmt: skip
        if norm.activation is not None and not relu:
            y = self.activation_forward(y, norm.activation)
        return y, saved

    def _batch_moments(self, loops: Library, x: Array, running: Moments, norm: BatchNorm) -> Moments:
        """The moments of a batch, a share of which the running ones take."""
        (pixels, c), block = _extents(x), _block(x)
        blocks = -(-pixels // block)
        parts = np.empty((blocks, 2, c))
        self._spread(loops, "batch_moments", blocks, block * c, x, pixels, c, block, parts)
        if norm.ranks is not None:
            counts = np.full((blocks, 1), block)
            counts[-1] = pixels - block * (blocks - 1)
            own = together(counts, parts[:, 0], parts[:, 1], lambda *terms: [term.sum(axis=0) for term in terms])
            n, mean, squares = of_all_ranks(norm.ranks, pixels, *own[1:])
            saved = Moments(mean.astype(x.dtype), (squares / n).astype(x.dtype))
            update_running(running, saved, n, norm.momentum)
            return saved
        saved = Moments(np.empty(c, x.dtype), np.empty(c, x.dtype))
        given = parts, pixels, c, block, *saved, *running, float(norm.momentum)
        self._spread(loops, "join_batch_moments", c, blocks, *given)
        return saved

    @QUIET
    def batch_norm_backward(
        self, dy: Array, x: Array, y: Array | None, w: Array | None, b: Array | None, saved: Moments, norm: BatchNorm,
        into: Into = NEW,
    ) -> BatchNormGrads:  # fmt: skip
        loops = self._loops("norm", dy, x, y, w, b, *saved)
        if loops is None or not x.size:
            return super().batch_norm_backward(dy, x, y, w, b, saved, norm, into)
        g, gate = dy, OPEN
        if _is_relu(norm.activation):
            gate = BY_Y if norm.residual else BY_X
        elif norm.activation is not None and y is not None:
            g = self.activation_backward(dy, y, norm.activation)
        (pixels, c), block, eps = _extents(x), _block(x), float(norm.eps)
        blocks = -(-pixels // block)
        arrays, channels = (g, x, y if gate == BY_Y else None), (*saved, w, b, eps, gate)
        parts, sums = np.empty((blocks, 2, c)), np.empty((2, c))
        self._spread(loops, "batch_sums", blocks, block * c, *arrays, pixels, c, *channels, block, parts)
        self._spread(loops, "join_batch_sums", c, blocks, parts, blocks, c, saved.variance, eps, sums)
        dx = memory.empty(x.shape, x.dtype)
        opened = memory.empty(x.shape, x.dtype) if norm.residual and gate != OPEN else None
        whole = sums_through_moments(norm, sums[0], sums[1], pixels)
        through, n = (sums, 0) if whole is None else (np.stack(whole[:2]), int(whole[2]))
        self._spread(loops, "batch_input_grad", pixels, c, *arrays, c, *channels, through, n, dx, opened)
        return (
            dx,
            *deliver_both(sums[0], sums[1], into, x.dtype),
            (g if opened is None else opened) if norm.residual else None,
        )

    def group_norm_forward(self, x: Array, w: Array | None, b: Array | None, norm: GroupNorm) -> tuple[Array, Moments]:
        loops = self._loops("norm", x, w, b)
        if loops is None or not x.size:
            return super().group_norm_forward(x, w, b, norm)
        y = memory.empty(x.shape, x.dtype)
        saved = Moments(*(np.empty((len(x), norm.num_groups), x.dtype) for _ in range(2)))
        pixels, c = prod(x.shape[1:-1]), x.shape[-1]
        given = x, y, pixels, c, int(norm.num_groups), w, b, float(norm.eps), *saved
        self._spread(loops, "group_forward", len(x), x[0].size, *given)
        return y, saved

    @QUIET
    def group_norm_backward(
        self, dy: Array, x: Array, w: Array | None, saved: Moments, norm: GroupNorm, into: Into = NEW
    ) -> tuple[Array, Array, Array]:
        loops = self._loops("norm", dy, x, w, *saved)
        if loops is None or not x.size:
            return super().group_norm_backward(dy, x, w, saved, norm, into)
        dx, parts = memory.empty(x.shape, x.dtype), np.empty((len(x), 2, x.shape[-1]))
        given = dy, x, dx, prod(x.shape[1:-1]), x.shape[-1], int(norm.num_groups), w, float(norm.eps), *saved, parts
        self._spread(loops, "group_backward", len(x), x[0].size, *given)
        dw, db = parts.sum(axis=0)
        return dx, *deliver_both(dw, db, into, x.dtype)


def _extents(x: Array) -> tuple[int, int]:
    """(pixels, channels) of x (…, C)."""
    return x.size // x.shape[-1], x.shape[-1]


def _block(x: Array) -> int:
    """Pixels of a block."""
    return max(1, BLOCK // x.shape[-1])


def _is_relu(activation: Activation | None) -> bool:
    return activation is not None and activation.name == "relu"
