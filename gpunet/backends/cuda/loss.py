"""Softmax and losses on a CUDA device."""

from __future__ import annotations

from abc import ABC

import numpy as np

from gpunet.backends.contract.arrays import Array
from gpunet.backends.cuda.device import MAX_BLOCKS, PARTIALS, THREADS, CudaDevice
from gpunet.cuda.instantiations import instance
from gpunet.nvrtc.source import constant

ROWS_A_BLOCK = THREADS // constant("common.cuh", "WARP")
"""Rows of a softmax that a block takes: one for each warp."""
SMALL_ROWS, SMALL_CLASSES = 2048, 64
"""Up to these, one block computes a softmax cross entropy in one launch. Its threads add a row's terms one after another, which
loses digits where there are many classes."""
SMALL_THREADS = constant("softmax.cu", "SIMPLE_THREADS")


class CudaLoss(CudaDevice, ABC):
    """Primitives of kernels/softmax.cu and sigmoid_cross_entropy.cu."""

    def softmax_forward(self, x: Array, *, log: bool = False) -> Array:
        self._expect("softmax_forward", x=(x, None))
        y = self.arrays.empty(x.shape, x.dtype)
        self._rows("softmax_forward<float>", x, y, log=log)
        return y

    def softmax_backward(self, dy: Array, y: Array, *, log: bool = False) -> Array:
        self._expect("softmax_backward", dy=(dy, None), y=(y, dy.shape))
        dx = self.arrays.empty(dy.shape, dy.dtype)
        self._rows("softmax_backward<float>", dy, y, dx, log=log)
        return dx

    def _rows(self, kernel: str, *arrays: Array, log: bool) -> None:
        first = arrays[0]
        if first.size:
            rows = first.size // first.shape[-1]
            blocks = min(-(-rows // ROWS_A_BLOCK), MAX_BLOCKS)
            self.launcher.launch(kernel, blocks, THREADS, (*arrays, rows, first.shape[-1], int(log)))

    def softmax_cross_entropy(
        self,
        logits: Array,
        labels: Array,
        *,
        weight: Array | None,
        smoothing: float,
        ignore_index: int | None,
        gain: float = 1.0,
        reduction: str = "mean",
        normalized: bool = False,
    ) -> tuple[Array, Array, Array]:
        rows, classes = logits.shape
        element = self._element("softmax_cross_entropy", logits=(logits, None))
        self._expect("softmax_cross_entropy", weight=(weight, (classes,)))
        if labels.shape != (rows,):
            raise ValueError(f"softmax_cross_entropy: labels have shape {labels.shape} but take {(rows,)}")
        asked = _cross_entropy_fields(rows, classes, ignore_index, smoothing, gain, reduction, normalized)
        empty, launch = self.arrays.empty, self.launcher.launch
        dlogits, loss, correct = empty(logits.shape, logits.dtype), empty((), np.float32), empty((), np.int32)
        row_losses = empty((rows,), np.float32) if reduction == "none" else None
        result = loss if row_losses is None else row_losses
        if classes <= SMALL_CLASSES and (self.simple or rows <= SMALL_ROWS):
            threads = min(-(-rows // 32) * 32, SMALL_THREADS)
            args = logits, labels, weight, dlogits, row_losses, loss, correct, asked
            launch(instance("softmax_cross_entropy_simple", element), 1, threads, args)
            return result, dlogits, correct
        blocks = min(-(-rows // ROWS_A_BLOCK), PARTIALS)
        totals, losses, corrects = (
            self._totals(labels, weight, asked),
            empty((blocks,), np.float32),
            empty((blocks,), np.int32),
        )
        launch(
            instance("softmax_cross_entropy_rows", element), blocks, THREADS,
            (logits, labels, weight, totals, totals.size, dlogits, row_losses, losses, corrects, asked),
        )  # fmt: skip
        launch("softmax_cross_entropy_mean", 1, THREADS, (losses, corrects, blocks, loss, correct))
        return result, dlogits, correct

    def label_weight(self, labels: Array, weight: Array | None, *, classes: int, ignore_index: int | None) -> Array:
        self._expect("label_weight", weight=(weight, (classes,)))
        asked = _cross_entropy_fields(labels.size, classes, ignore_index)
        return self.sum(self._totals(labels, weight, asked), (0,))

    def _totals(self, labels: Array, weight: Array | None, asked: dict[str, float]) -> Array:
        """Weights of the labels, added up by each of a few blocks."""
        blocks = min(-(-labels.size // THREADS), PARTIALS)
        totals = self.arrays.empty((blocks,), np.float32)
        self.launcher.launch("softmax_cross_entropy_total", blocks, THREADS, (labels, weight, totals, asked))
        return totals

    def sigmoid_cross_entropy(self, logits: Array, targets: Array) -> tuple[Array, Array]:
        self._expect("sigmoid_cross_entropy", logits=(logits, None), targets=(targets, logits.shape))
        count = logits.size
        blocks = min(-(-count // THREADS), PARTIALS)
        dlogits = self.arrays.empty(logits.shape, np.float32)
        losses, loss = self.arrays.empty((blocks,), np.float32), self.arrays.empty((), np.float32)
        self.launcher.launch("sigmoid_cross_entropy<float>", blocks, THREADS, (logits, targets, dlogits, losses, count))
        self.launcher.launch("sigmoid_cross_entropy_mean", 1, THREADS, (losses, blocks, loss, count))
        return loss, dlogits


def _cross_entropy_fields(
    rows: int,
    classes: int,
    ignore_index: int | None,
    smoothing: float = 0.0,
    gain: float = 1.0,
    reduction: str = "mean",
    normalized: bool = False,
) -> dict[str, float]:
    """The kernels' CrossEntropy."""
    return {
        "rows": rows, "classes": classes, "smoothing": smoothing, "gain": gain,
        "ignores": int(ignore_index is not None), "ignored": ignore_index or 0,
        "mean": int(reduction == "mean"), "normalized": int(normalized),
    }  # fmt: skip
