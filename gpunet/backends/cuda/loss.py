"""Softmax and losses on a CUDA device."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.backends.contract import UNWEIGHTED, Array, CrossEntropy, LossParts
from gpunet.backends.cuda.device import MAX_BLOCKS, PARTIALS, THREADS, WARP, CudaDevice
from gpunet.cuda.naming import instance
from gpunet.nvrtc.source import constant

FEW_ROWS, LONG_ROW = 2048, 256
"""Fewer rows than this, of at least so many classes, take a block each, others a warp each."""
SMALL_ROWS, SMALL_CLASSES, SMALL_LOGITS = 2048, 64, 20480
"""Rows, classes, and their product, up to which one block computes a softmax cross entropy in one
launch. Each of its threads adds the terms of a row one after another, which would lose digits if
there were many classes, and the block alone would take longer than three launches if there were
many logits."""
SMALL_THREADS = constant("softmax.cu", "SIMPLE_THREADS")
"""Threads of that block at most."""


class CudaLoss(CudaDevice):
    """Primitives of kernels/softmax.cu and kernels/sigmoid_cross_entropy.cu."""

    def softmax_forward(self, x: Array, *, log: bool = False) -> Array:
        self._expect("softmax_forward", x=(x, None))
        y = self.arrays.empty(x.shape, x.dtype)
        self._rows("softmax_forward", x, y, log=log)
        return y

    def softmax_backward(self, dy: Array, y: Array, *, log: bool = False) -> Array:
        self._expect("softmax_backward", dy=(dy, None), y=(y, dy.shape))
        dx = self.arrays.empty(dy.shape, dy.dtype)
        self._rows("softmax_backward", dy, y, dx, log=log)
        return dx

    def _rows(self, kernel: str, *arrays: Array, log: bool) -> None:
        """Launch a kernel in which a team of threads takes a row of the last axis."""
        if arrays[0].size:
            classes = arrays[0].shape[-1]
            rows = arrays[0].size // classes
            team = row_team(rows, classes)
            blocks = min(-(-rows * team // THREADS), MAX_BLOCKS)
            self.launcher.launch(instance(kernel, "float", team), blocks, THREADS, (*arrays, rows, classes, int(log)))

    def softmax_cross_entropy(self, logits: Array, labels: Array, options: CrossEntropy = UNWEIGHTED) -> LossParts:
        rows, classes = logits.shape
        element = self._element("softmax_cross_entropy", logits=(logits, None))
        self._expect("softmax_cross_entropy", weight=(options.weight, (classes,)))
        if labels.shape != (rows,):
            raise ValueError(f"softmax_cross_entropy: labels have shape {labels.shape} but take {(rows,)}")
        fields, empty = cross_entropy_fields(rows, classes, options), self.arrays.empty
        dlogits, loss, correct = empty(logits.shape, logits.dtype), empty((), np.float32), empty((), np.int32)
        row_losses = empty((rows,), np.float32) if options.reduction == "none" else None
        given, out = (logits, labels, options.weight), (dlogits, row_losses)
        small = rows <= SMALL_ROWS and rows * classes <= SMALL_LOGITS
        if classes <= SMALL_CLASSES and (self.simple or small):
            threads = min(-(-rows // 32) * 32, SMALL_THREADS)
            kernel = instance("softmax_cross_entropy_simple", element)
            self.launcher.launch(kernel, 1, threads, (*given, *out, loss, correct, fields))
        else:
            self._cross_entropy_rows(element, given, out, loss, correct, fields)
        return loss if row_losses is None else row_losses, dlogits, correct

    def _cross_entropy_rows(
        self, element: str, given: tuple[Any, ...], out: tuple[Any, ...], loss: Array, correct: Array, fields: dict
    ) -> None:
        """Compute many rows in three launches: the labels' weights, the rows, and their sums."""
        logits, labels, weight = given
        team = row_team(*logits.shape)
        blocks = min(-(-labels.size * team // THREADS), PARTIALS)
        totals = self._totals(labels, weight, fields)
        losses, corrects = self.arrays.empty((blocks,), np.float32), self.arrays.empty((blocks,), np.int32)
        args = *given, totals, totals.size, *out, losses, corrects, fields
        self.launcher.launch(instance("softmax_cross_entropy_rows", element, team), blocks, THREADS, args)
        self.launcher.launch("softmax_cross_entropy_mean", 1, THREADS, (losses, corrects, blocks, loss, correct))

    def label_weight(self, labels: Array, classes: int, options: CrossEntropy = UNWEIGHTED) -> Array:
        self._expect("label_weight", weight=(options.weight, (classes,)))
        fields = cross_entropy_fields(labels.size, classes, options)
        return self.sum(self._totals(labels, options.weight, fields), (0,))

    def _totals(self, labels: Array, weight: Array | None, fields: dict[str, float]) -> Array:
        """The sums of the labels' weights over the labels of each block."""
        blocks = min(-(-labels.size // THREADS), PARTIALS)
        totals = self.arrays.empty((blocks,), np.float32)
        self.launcher.launch("softmax_cross_entropy_total", blocks, THREADS, (labels, weight, totals, fields))
        return totals

    def sigmoid_cross_entropy(self, logits: Array, target: Array) -> tuple[Array, Array]:
        self._expect("sigmoid_cross_entropy", logits=(logits, None), target=(target, logits.shape))
        count = logits.size
        blocks = min(-(-count // THREADS), PARTIALS)
        dlogits = self.arrays.empty(logits.shape, np.float32)
        losses, loss = self.arrays.empty((blocks,), np.float32), self.arrays.empty((), np.float32)
        self.launcher.launch("sigmoid_cross_entropy<float>", blocks, THREADS, (logits, target, dlogits, losses, count))
        self.launcher.launch("sigmoid_cross_entropy_mean", 1, THREADS, (losses, blocks, loss, count))
        return loss, dlogits


def row_team(rows: int, classes: int) -> int:
    """Return the threads that take a row of a softmax together."""
    return THREADS if rows < FEW_ROWS and classes >= LONG_ROW else WARP


def cross_entropy_fields(rows: int, classes: int, options: CrossEntropy) -> dict[str, float]:
    """The struct CrossEntropy of the kernels."""
    return {
        "rows": rows, "classes": classes, "smoothing": options.smoothing, "gain": options.gain,
        "ignores": int(options.ignore_index is not None), "ignored": options.ignore_index or 0,
        "mean": int(options.reduction == "mean"), "normalized": int(options.normalized),
    }  # fmt: skip
