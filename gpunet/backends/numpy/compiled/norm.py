"""Batch and group normalisation in compiled loops: norm.cpp."""

from __future__ import annotations

from math import prod

import numpy as np

from gpunet.backends.contract import NEW, Activation, Array, BatchNorm, BatchNormGrads, GroupNorm, Into, Moments
from gpunet.backends.host import memory
from gpunet.backends.host.arrays import QUIET, deliver_both
from gpunet.backends.numpy.compiled.activation import CompiledActivation
from gpunet.backends.numpy.compiled.library import Library
from gpunet.backends.numpy.norm import NumpyNorm

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
        loops = self._loops("norm", x, residual, *running)
        if loops is None or not x.size:
            return super().batch_norm_forward(x, w, b, running, norm, residual)
        saved, (pixels, c) = running, _extents(x)
        if norm.training:
            saved = self._batch_moments(loops, x)
            mean, variance = running
            mean += norm.momentum * (saved.mean - mean)
            variance += norm.momentum * (saved.variance * (pixels / (pixels - 1)) - variance)
        y, relu = memory.empty(x.shape, x.dtype), _is_relu(norm.activation)
        scaling = _scaling(w, b, saved, norm.eps)
        self._spread(loops, "batch_forward", pixels, c, x, residual, y, c, *scaling, int(relu))
        if norm.activation is not None and not relu:
            y = self.activation_forward(y, norm.activation)
        return y, saved

    def _batch_moments(self, loops: Library, x: Array) -> Moments:
        (pixels, c), block = _extents(x), _block(x)
        blocks = -(-pixels // block)
        parts, moments = np.empty((blocks, 2, c)), np.empty((2, c))
        self._spread(loops, "batch_moments", blocks, block * c, x, pixels, c, block, parts)
        self._spread(loops, "join_batch_moments", c, blocks, parts, pixels, c, block, moments)
        return Moments(*moments.astype(x.dtype))

    @QUIET
    def batch_norm_backward(
        self, dy: Array, x: Array, y: Array | None, w: Array | None, b: Array | None, saved: Moments, norm: BatchNorm,
        into: Into = NEW,
    ) -> BatchNormGrads:  # fmt: skip
        loops = self._loops("norm", dy, x, y, *saved)
        if loops is None or not x.size:
            return super().batch_norm_backward(dy, x, y, w, b, saved, norm, into)
        g, gate = dy, OPEN
        if _is_relu(norm.activation):
            gate = BY_Y if norm.residual else BY_X
        elif norm.activation is not None and y is not None:
            g = self.activation_backward(dy, y, norm.activation)
        scaling = _scaling(w, b, saved, norm.eps)
        inverse = 1 / np.sqrt(saved.variance.astype(np.float64) + norm.eps)
        through_x, db = self._sums_of_blocks(loops, g, x, y if gate == BY_Y else None, scaling, gate)
        dw, (pixels, c) = through_x * inverse, _extents(x)
        factor = inverse if w is None else inverse * w
        shares = factor * dw * inverse / pixels, factor * db / pixels
        slope, offset = shares if norm.training else (np.zeros(c), np.zeros(c))
        dx = memory.empty(x.shape, x.dtype)
        opened = memory.empty(x.shape, x.dtype) if norm.residual and gate != OPEN else None
        given = g, x, y if gate == BY_Y else None, c, *scaling, gate
        factors = (a.astype(x.dtype) for a in (factor, slope, offset))
        self._spread(loops, "batch_input_grad", pixels, c, *given, *factors, dx, opened)
        return dx, *deliver_both(dw, db, into, x.dtype), (g if opened is None else opened) if norm.residual else None

    def _sums_of_blocks(
        self, loops: Library, g: Array, x: Array, y: Array | None, scaling: list[Array], gate: int
    ) -> tuple[Array, Array]:
        """The sums of g (x - mean) and of g over the pixels, float64 (C,)."""
        (pixels, c), block = _extents(x), _block(x)
        blocks = -(-pixels // block)
        parts = np.empty((blocks, 2, c))
        self._spread(loops, "batch_sums", blocks, block * c, g, x, y, pixels, c, *scaling, gate, block, parts)
        through_x, through = parts.sum(axis=0)
        return through_x, through

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


def _scaling(w: Array | None, b: Array | None, saved: Moments, eps: float) -> list[Array]:
    """Mean, scale and shift of each channel: y = (x - mean) scale + shift."""
    inverse = 1 / np.sqrt(saved.variance.astype(np.float64) + eps)
    scale = inverse if w is None else inverse * w
    shift = np.zeros_like(scale) if b is None else b
    return [np.ascontiguousarray(a, saved.mean.dtype) for a in (saved.mean, scale, shift)]
