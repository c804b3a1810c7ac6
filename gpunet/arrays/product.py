"""Products of matrices, and the softmax cross entropy, of plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.arrays.call import Call
from gpunet.backends.contract import Array, CrossEntropy, Product
from gpunet.functional.loss import check_labels, check_logits
from gpunet.modes import mode

__all__ = ["matmul", "softmax_cross_entropy"]


def matmul(
    a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False, out: Array | None = None
) -> Array:
    """Product of two matrices, or of pairs of matrices.

    Args:
        a: (M, K), or (B, M, K); with `transpose_a`, (K, M).
        b: (K, P), or (B, K, P), of a's dtype; with `transpose_b`, (P, K).
        transpose_a, transpose_b: whether to take the transpose of each matrix, which need not be
            copied then.
        out: the array to write to; None for a new one. It may share memory with the inputs.
    Returns:
        (M, P), or (B, M, P).
    Raises:
        ValueError: shapes that do not fit.
        TypeError: arrays of another library, of two kinds, or of a dtype that is not computed.
    """
    call = Call("matmul", "NHWC", ("a", "b"), a, b)
    if a.ndim not in (2, 3) or b.ndim != a.ndim or a.shape[:-2] != b.shape[:-2]:
        raise ValueError(f"matmul: takes (M, K) and (K, P), or B of each, got a {a.shape} and b {b.shape}")
    rows, depth = a.shape[-2:][::-1] if transpose_a else a.shape[-2:]
    inner, columns = b.shape[-2:][::-1] if transpose_b else b.shape[-2:]
    if depth != inner:
        raise ValueError(f"matmul: a {a.shape} and b {b.shape} meet in axes of {depth} and {inner}")
    call.check_out(out, (*a.shape[:-2], rows, columns))
    left, right = call.plain(a), call.plain(b)
    precision = mode.matrix_precision
    if a.ndim == 2:
        product = Product(transpose_a, transpose_b, precision=precision)
        return call.deliver(call.backend.matmul(left, right, product), out)
    y = call.backend.batched_matmul(left, right, transpose_a=transpose_a, transpose_b=transpose_b, precision=precision)
    return call.deliver(y, out)


def softmax_cross_entropy(
    logits: Array, labels: Array, weight: Array | None = None, *, ignore_index: int | None = None,
    label_smoothing: float = 0.0, reduction: str = "mean", out: Any = None,
) -> tuple[Array, Array]:  # fmt: skip
    """-log softmax(logits)[label] of each row, and its gradient.

    Args:
        logits: (…, K).
        labels: (…), integers from 0 to K - 1, or `ignore_index`. Those of NumPy are checked; those
            of a device are not read, and one that is no class makes the loss NaN.
        weight: (K,), the weight of each class, of the logits' dtype, or float32 where they have 16
            bits; the mean is then weighted by the labels' weights.
        ignore_index, label_smoothing: as for `functional.cross_entropy`.
        reduction: "mean", "sum", or "none" for the losses of the rows.
        out: (loss, dlogits), the arrays to write to, either of which may be None; or None.
    Returns:
        (loss, dlogits): of shape (), or (…) without a reduction, and of the logits' shape, the
        gradient of the loss or, without a reduction, of its sum. The loss is float32 where logits
        have 16 bits.
    Raises:
        ValueError: shapes, labels or options that do not fit.
        TypeError: arrays of another library, of two kinds, or of a dtype that is not computed; labels
            that are no integers.
    """
    name = "softmax_cross_entropy"
    call = Call(name, "NHWC", ("logits",), logits)
    call.check_kind("labels", labels)
    check_logits(name, "logits", logits, reduction)
    if not logits.size:
        raise ValueError(f"{name}: logits {logits.shape} hold no rows")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{name}: label_smoothing is {label_smoothing} but must be from 0 to 1")
    check_labels(name, logits, labels, ignore_index, f"an array of integers {logits.shape[:-1]}")
    classes = logits.shape[-1]
    weight = call.small("weight", weight, (classes,))
    given_loss, given_dx = call.outs(out, 2)
    call.check_out(given_loss, logits.shape[:-1] if reduction == "none" else (), name="out[0]", dtype=call.wide)
    call.check_out(given_dx, logits.shape, name="out[1]")
    rows = call.backend.asarray(call.plain(labels).reshape(-1), np.int32)
    options = CrossEntropy(weight, label_smoothing, ignore_index, reduction)
    loss, dlogits, _ = call.backend.softmax_cross_entropy(call.plain(logits).reshape(-1, classes), rows, options)
    if reduction == "none":
        loss = loss.reshape(logits.shape[:-1])
    return call.deliver(loss, given_loss), call.deliver(dlogits.reshape(logits.shape), given_dx)
