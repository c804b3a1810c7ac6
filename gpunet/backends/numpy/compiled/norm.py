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
        y, name = memory.empty(x.shape, x.dtype), "batch_forward"
        scaling, relu = _scaling(w, b, saved, norm.eps), _is_relu(norm.activation)
        rows, out, added = (None if a is None else a.reshape(pixels, c) for a in (x, y, residual))

        def work(i: int, j: int) -> None:
            part = (None if a is None else a[i:j] for a in (rows, added, out))
            loops(name, *part, j - i, c, *scaling, int(relu))

        self._parallel(work, pixels, c)
        if norm.activation is not None and not relu:
            y = self.activation_forward(y, norm.activation)
        return y, saved

    def _batch_moments(self, loops: Library, x: Array) -> Moments:
        (pixels, c), block = _extents(x), _block(x)
        blocks = -(-pixels // block)
        parts, moments = np.empty((blocks, 2, c)), np.empty((2, c))
        name = "batch_moments"
        self._parallel(lambda i, j: loops(name, x, pixels, c, block, i, j, parts), blocks, block * c)
        loops("join_batch_moments", parts, pixels, c, block, moments)
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
        name, factors = "batch_input_grad", [a.astype(x.dtype) for a in (factor, slope, offset)]
        flat = [None if a is None else a.reshape(pixels, c) for a in (g, x, y if gate == BY_Y else None, dx, opened)]

        def work(i: int, j: int) -> None:
            *given, out, out_g = (None if a is None else a[i:j] for a in flat)
            loops(name, *given, j - i, c, *scaling, gate, *factors, out, out_g)

        self._parallel(work, pixels, c)
        return dx, *deliver_both(dw, db, into, x.dtype), (g if opened is None else opened) if norm.residual else None

    def _sums_of_blocks(
        self, loops: Library, g: Array, x: Array, y: Array | None, scaling: list[Array], gate: int
    ) -> tuple[Array, Array]:
        """The sums of g (x - mean) and of g over the pixels, float64 (C,)."""
        (pixels, c), block = _extents(x), _block(x)
        blocks, name = -(-pixels // block), "batch_sums"
        parts = np.empty((blocks, 2, c))

        def work(i: int, j: int) -> None:
            loops(name, g, x, y, pixels, c, *scaling, gate, block, i, j, parts)

        self._parallel(work, blocks, block * c)
        through_x, through = parts.sum(axis=0)
        return through_x, through

    def group_norm_forward(self, x: Array, w: Array | None, b: Array | None, norm: GroupNorm) -> tuple[Array, Moments]:
        loops = self._loops("norm", x, w, b)
        if loops is None or not x.size:
            return super().group_norm_forward(x, w, b, norm)
        y, name = memory.empty(x.shape, x.dtype), "group_forward"
        saved = Moments(*(np.empty((len(x), norm.num_groups), x.dtype) for _ in range(2)))
        pixels, c = prod(x.shape[1:-1]), x.shape[-1]

        def work(i: int, j: int) -> None:
            moments = saved.mean[i:j], saved.variance[i:j]
            loops(name, x[i:j], y[i:j], j - i, pixels, c, int(norm.num_groups), w, b, float(norm.eps), *moments)

        self._parallel(work, len(x), x[0].size)
        return y, saved

    @QUIET
    def group_norm_backward(
        self, dy: Array, x: Array, w: Array | None, saved: Moments, norm: GroupNorm, into: Into = NEW
    ) -> tuple[Array, Array, Array]:
        loops = self._loops("norm", dy, x, w, *saved)
        if loops is None or not x.size:
            return super().group_norm_backward(dy, x, w, saved, norm, into)
        dx, name = memory.empty(x.shape, x.dtype), "group_backward"
        pixels, c = prod(x.shape[1:-1]), x.shape[-1]
        parts = np.empty((len(x), 2, c))

        def work(i: int, j: int) -> None:
            options = j - i, pixels, c, int(norm.num_groups), w, float(norm.eps), saved.mean[i:j], saved.variance[i:j]
            loops(name, dy[i:j], x[i:j], dx[i:j], *options, parts[i:j])

        self._parallel(work, len(x), x[0].size)
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
