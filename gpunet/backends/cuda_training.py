"""Activations, softmax, losses and random numbers on a CUDA device."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpunet.backends.base import INPUT_ACTIVATIONS, Activation, Array, InputActivation
from gpunet.backends.cuda_device import MAX_BLOCKS, PARTIALS, THREADS, CudaDevice, activation_fields
from gpunet.cuda.instantiations import instance
from gpunet.random import Stream, drop_threshold, normal_table

ROWS_A_BLOCK = THREADS // 32
"""Rows of a softmax that a block takes: one a warp, as kernels/softmax.cu is written."""
SMALL_ROWS, SMALL_CLASSES = 2048, 64
"""Up to these, one block computes a softmax cross entropy in one launch. Its threads add a row's terms one after another, which
loses digits where there are many classes."""
SMALL_THREADS = 1024


class CudaTraining(CudaDevice, ABC):
    """Primitives of kernels/activation.cu, input_activation.cu, softmax.cu, sigmoid_cross_entropy.cu and random.cu."""

    # ---- activations, softmax, losses

    def activation_forward(self, x: Array, activation: Activation) -> Array:
        element = self._element("activation_forward", x=(x, None))
        y = self.arrays.empty(x.shape, x.dtype)
        self._each("activation_forward", x.size, x, y, x.size, activation_fields(activation), element=element)
        return y

    def activation_backward(self, dy: Array, y: Array, activation: Activation) -> Array:
        element = self._element("activation_backward", dy=(dy, None), y=(y, dy.shape))
        dx = self.arrays.empty(dy.shape, dy.dtype)
        args = dy, y, dx, dy.size, activation_fields(activation)
        self._each("activation_backward", dy.size, *args, element=element)
        return dx

    def input_activation_forward(self, x: Array, activation: InputActivation) -> Array:
        element = self._element("input_activation_forward", x=(x, None))
        y = self.arrays.empty(x.shape, x.dtype)
        self._each("input_activation_forward", x.size, x, y, x.size, _input_fields(activation), element=element)
        return y

    def input_activation_backward(self, dy: Array, x: Array, activation: InputActivation) -> Array:
        element = self._element("input_activation_backward", dy=(dy, None), x=(x, dy.shape))
        dx = self.arrays.empty(dy.shape, dy.dtype)
        args = dy, x, dx, dy.size, _input_fields(activation)
        self._each("input_activation_backward", dy.size, *args, element=element)
        return dx

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

    # ---- random numbers

    def random_words(self, stream: Stream, count: int) -> Array:
        y = self.arrays.empty((count,), np.uint64)
        if count:
            blocks = min(-(-count // (4 * THREADS)), MAX_BLOCKS)
            self.launcher.launch("random_words", blocks, THREADS, (y, count, *_stream(stream)))
        return y

    def random_uniform(self, stream: Stream, shape: Sequence[int], dtype: Any) -> Array:
        y = self.arrays.empty(shape, dtype)
        self._expect("random_uniform", y=(y, None))
        if y.size:
            blocks = min(-(-y.size // (4 * THREADS)), MAX_BLOCKS)
            self.launcher.launch("random_uniform<float>", blocks, THREADS, (y, y.size, *_stream(stream)))
        return y

    def random_normal(self, stream: Stream, shape: Sequence[int], dtype: Any) -> Array:
        y = self.arrays.empty(shape, dtype)
        self._expect("random_normal", y=(y, None))
        if y.size:
            blocks = min(-(-y.size // (16 * THREADS)), MAX_BLOCKS)
            normals = self._constant("normals", lambda: normal_table().astype(np.float32))
            self.launcher.launch("random_normal", blocks, THREADS, (y, y.size, normals, *_stream(stream)))
        return y

    def dropout_forward(self, x: Array, p: float, *, stream: Stream) -> Array:
        return self._dropout("dropout_forward", x, p, stream)

    def dropout_backward(self, dy: Array, p: float, *, stream: Stream) -> Array:
        return self._dropout("dropout_backward", dy, p, stream)

    def _dropout(self, operation: str, x: Array, p: float, stream: Stream) -> Array:
        element = self._element(operation, x=(x, None))
        y = self.arrays.empty(x.shape, x.dtype)
        threshold, scale = drop_threshold(p)
        if x.size:
            blocks = min(-(-x.size // (16 * THREADS)), MAX_BLOCKS)
            kernel, fields = instance("dropout", element), _stream(stream)
            self.launcher.launch(kernel, blocks, THREADS, (x, y, x.size, *fields, threshold, scale))
        return y


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


def _input_fields(activation: InputActivation) -> dict[str, float]:
    """The kernels' InputActivation."""
    return {"kind": INPUT_ACTIVATIONS.index(activation.name), "beta": activation.beta}


def _stream(stream: Stream) -> tuple[dict[str, int], Array | None]:
    """The kernels' Stream and clock."""
    return {name: getattr(stream, name) for name in ("seed", "purpose", "step", "call", "epoch")}, stream.clock
