"""`HostBackend`: arrays in NumPy, and the primitives for which plain array code is the plainest and the fastest form at once.

Both host backends stand on it; convolution, matrix products, pooling and activations are written twice, once to be read
(`reference.py`) and once to be fast (`numpy.py`).
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from gpunet import random
from gpunet.augmentation import Augmentation
from gpunet.backends.base import BINARY, COMPARISONS, UNARY, Array, Index, is_float
from gpunet.backends.gather import Clock, augment, check_gather
from gpunet.backends.host_updates import QUIET, HostUpdates
from gpunet.backends.real import on_device, real_array
from gpunet.random import Stream


class HostBackend(HostUpdates):
    """Arrays are numpy.ndarray."""

    # ---- arrays

    def owns(self, array: object) -> bool:
        return isinstance(array, np.ndarray)

    def asarray(self, data: Any, dtype: Any = None) -> Array:
        array = real_array("asarray: data", data)
        if on_device(array):  # a CuPy array copies itself to the host
            array = array.get()
        with np.errstate(over="ignore"):  # what a narrower dtype cannot hold is infinite
            return np.ascontiguousarray(array, dtype) if array.ndim else np.asarray(array, dtype)

    def to_numpy(self, array: Array) -> np.ndarray:
        return array

    def empty(self, shape: Sequence[int], dtype: Any) -> Array:
        return np.empty(shape, dtype)

    def full(self, shape: Sequence[int], value: float, dtype: Any) -> Array:
        with np.errstate(over="ignore"):
            return np.zeros(shape, dtype) if value == 0 else np.full(shape, value, dtype)

    def copy(self, a: Array, *, out: Array | None = None) -> Array:
        if out is None:
            return a.copy()
        out[...] = a
        return out

    def synchronize(self) -> None:
        """Nothing is asynchronous on the host."""

    def describe(self) -> dict[str, str]:
        return {"device": _processor(), "numpy": np.__version__}

    # ---- elementwise, reductions, movement

    @QUIET
    def unary(self, name: str, a: Array) -> Array:
        if name not in UNARY:
            raise ValueError(f"unary: name is {name!r} but takes one of {', '.join(UNARY)}")
        return np.asarray(getattr(np, name)(a))

    @QUIET
    def binary(self, name: str, a: Array, b: Array, *, out: Array | None = None) -> Array:
        if name not in BINARY:
            raise ValueError(f"binary: name is {name!r} but takes one of {', '.join(BINARY)}")
        return np.asarray(getattr(np, name)(a, b, out=out))

    @QUIET
    def compare(self, name: str, a: Array, b: Array) -> Array:
        if name not in COMPARISONS:
            raise ValueError(f"compare: name is {name!r} but takes one of {', '.join(COMPARISONS)}")
        return np.asarray(getattr(np, name)(a, b))

    def select(self, condition: Array, a: Array | None, b: Array | None) -> Array:
        kind = (b if a is None else a).dtype.type  # type: ignore[union-attr]
        return np.where(condition, kind(0) if a is None else a, kind(0) if b is None else b)

    def broadcast(self, a: Array, shape: Sequence[int]) -> Array:
        return np.broadcast_to(a, tuple(shape)).copy()

    @QUIET
    def cast(self, a: Array, dtype: Any, *, out: Array | None = None) -> Array:
        return a.astype(dtype, copy=False) if out is None else self.copy(a, out=out)

    @QUIET
    def scale(self, a: Array, by: Array | None, factor: float = 1.0) -> Array:
        return np.asarray(a * (factor if by is None else by * factor), a.dtype)

    @QUIET
    def sum(self, a: Array, axes: tuple[int, ...]) -> Array:
        if not is_float(a.dtype):
            return np.asarray(a.sum(axis=axes))
        return np.asarray(a.sum(axis=axes, dtype=np.float64)).astype(a.dtype)

    def max(self, a: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
        rows = self._reduced_last(a, axes)
        if rows.shape[-1] == 0:
            raise ValueError(f"max: a has shape {a.shape}, and no elements have no maximum")
        index = rows.argmax(axis=-1)  # NumPy's argmax takes the first maximum, and NaN before all
        y = np.take_along_axis(rows, index[..., None], axis=-1)[..., 0]
        return np.asarray(y), np.asarray(index, np.int32)

    def max_backward(self, dy: Array, index: Array, *, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
        dx = np.zeros(shape, dy.dtype)
        kept = [i for i in range(len(shape)) if i not in axes]
        inside = np.unravel_index(index, [shape[i] for i in axes])
        where: list[Any] = [None] * len(shape)
        for place, axis in enumerate(kept):
            where[axis] = np.arange(shape[axis]).reshape([-1 if i == place else 1 for i in range(len(kept))])
        for axis, coordinate in zip(axes, inside, strict=True):
            where[axis] = coordinate
        dx[tuple(where)] = dy
        return dx

    def transpose(self, a: Array, axes: tuple[int, ...]) -> Array:
        return np.ascontiguousarray(a.transpose(axes))

    def concatenate(self, arrays: Sequence[Array], axis: int) -> Array:
        return np.concatenate(arrays, axis)

    def get_slice(self, a: Array, index: Index) -> Array:
        return np.array(a[index], order="C")

    def put_slice(self, dy: Array, index: Index, *, shape: tuple[int, ...]) -> Array:
        dx = np.zeros(shape, dy.dtype)
        dx[index] = dy
        return dx

    def take(self, a: Array, rows: Array) -> Array:
        return a[rows]

    def take_backward(self, dy: Array, order: Array, starts: Array) -> Array:
        length = len(starts) - 1
        dx = np.zeros((length, *dy.shape[1:]), np.float64)  # a row may be named any number of times
        np.add.at(dx, np.repeat(np.arange(length), np.diff(starts)), dy[order])
        return dx.astype(dy.dtype)

    # ---- matrix products

    @QUIET
    def batched_matmul(self, a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False) -> Array:
        return np.matmul(a.swapaxes(1, 2) if transpose_a else a, b.swapaxes(1, 2) if transpose_b else b)

    # ---- softmax and losses

    @QUIET
    def softmax_forward(self, x: Array, *, log: bool = False) -> Array:
        shifted, others = self._around_the_largest(x)
        return shifted - np.log1p(others) if log else np.exp(shifted) / (1 + others)

    @QUIET
    def softmax_backward(self, dy: Array, y: Array, *, log: bool = False) -> Array:
        if log:
            return -dy * np.expm1(y) - np.exp(y) * (_row_sums(dy) - dy)
        # a number may be taken from all of dy: where y is almost 1, the rest is the sum of the small ones
        dy = dy - np.take_along_axis(dy, y.argmax(axis=-1)[..., None], axis=-1)
        return y * (dy - _row_sums(dy * y))

    @staticmethod
    def _around_the_largest(x: Array) -> tuple[Array, Array]:
        """(x - its largest, the sum of exp of it but for the first largest), over the last axis, of which the sum is kept as 1.

        1 + others would round away how sure a softmax is.
        """
        if not x.size:
            return x, np.zeros((*x.shape[:-1], 1), x.dtype)
        first = x.argmax(axis=-1)[..., None]  # NumPy's argmax takes NaN before all
        shifted = x - np.take_along_axis(x, first, axis=-1)
        grown = np.exp(shifted)
        np.put_along_axis(grown, first, shifted.max(axis=-1, keepdims=True), axis=-1)  # 0, or NaN
        return shifted, _row_sums(grown)

    @QUIET
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
        kept = np.ones(rows, bool) if ignore_index is None else labels != ignore_index
        labels = np.where(kept, labels, 0)
        target = np.full_like(logits, smoothing / classes)
        target[np.arange(rows), labels] += 1 - smoothing
        weights = np.ones(classes, logits.dtype) if weight is None else weight
        target *= weights * kept[:, None]
        if normalized:
            log_p, dlogits = logits, -target
        else:
            log_p = self.softmax_forward(logits, log=True)
            dlogits = self._softmax_gradient(logits, log_p, target)
        terms = np.multiply(target, -log_p, out=np.zeros_like(target), where=target != 0)  # 0 log 0 is 0
        correct = np.asarray(((logits.argmax(axis=1) == labels) & kept).sum(), np.int32)
        if reduction == "none":
            return terms.sum(axis=1), dlogits, correct
        share = 1.0
        if reduction == "mean":
            total = float((weights[labels] * kept).sum(dtype=np.float64))
            share = 0.0 if total <= 0 else 1 / total  # nothing weighs anything: no loss
        loss = np.asarray(terms.sum(dtype=np.float64) * share, logits.dtype)
        return loss, dlogits * (share * gain), correct

    def label_weight(self, labels: Array, weight: Array | None, *, classes: int, ignore_index: int | None) -> Array:
        kept = labels if ignore_index is None else labels[labels != ignore_index]
        if weight is None:
            return np.asarray(kept.size, np.float32)
        return np.asarray(weight[kept].sum(dtype=np.float64), weight.dtype)

    @staticmethod
    def _softmax_gradient(logits: Array, log_p: Array, target: Array) -> Array:
        """p mass - target, with the target's mass; for the largest p, from 1 - p, which p itself would have rounded away."""
        mass = _row_sums(target)
        dlogits = np.exp(log_p) * mass - target
        first = np.arange(len(logits)), logits.argmax(axis=1)
        dlogits[first] = (mass[:, 0] - target[first]) + np.expm1(log_p[first]) * mass[:, 0]
        return dlogits

    @QUIET
    def sigmoid_cross_entropy(self, logits: Array, targets: Array) -> tuple[Array, Array]:
        # -log s(z) = max(-z, 0) + log(1 + exp(-|z|)), which overflows nowhere; 1 - t stands with s(-z), for s(z) rounds to 1
        above, tail = logits >= 0, np.exp(-np.abs(logits))
        share = np.where(above, 1 - targets, -targets)
        losses = np.multiply(logits, share, out=np.zeros_like(logits), where=share != 0) + np.log1p(tail)
        small = tail / (1 + tail)
        dlogits = np.where(above, share - small, share + small)
        return np.asarray(losses.mean(dtype=np.float64), logits.dtype), dlogits / float(logits.size)

    # ---- random numbers

    def random_words(self, stream: Stream, count: int) -> Array:
        return random.words(stream, count)

    def random_uniform(self, stream: Stream, shape: Sequence[int], dtype: Any) -> Array:
        bits = 24 if np.dtype(dtype) == np.float32 else 53
        count = int(np.prod(shape))
        drawn = random.words(stream, count) >> np.uint64(64 - bits)
        return (drawn.astype(dtype) * np.dtype(dtype).type(2.0**-bits)).reshape(shape)

    @QUIET
    def random_normal(self, stream: Stream, shape: Sequence[int], dtype: Any) -> Array:
        return random.normal(stream, int(np.prod(shape))).astype(dtype).reshape(shape)

    def dropout_forward(self, x: Array, p: float, *, stream: Stream) -> Array:
        threshold, scale = random.drop_threshold(p)
        kept = (random.uint16(stream, x.size) >= threshold).reshape(x.shape)
        return x * (kept * x.dtype.type(scale))

    def dropout_backward(self, dy: Array, p: float, *, stream: Stream) -> Array:
        return self.dropout_forward(dy, p, stream=stream)  # linear, and its matrix is diagonal

    def permutation(self, stream: Stream, count: int, *, out: Array | None = None) -> Array:
        return deliver(random.permutation(stream, count).astype(np.int32), out, accumulate=False)

    # ---- data

    def gather_augment(
        self,
        images: Array,
        labels: Array | None,
        order: Array,
        augmentation: Augmentation,
        *,
        seed: int,
        epoch: int = 0,
        start: int = 0,
        rows: int | None = None,
        clock: Clock | None = None,
        dtype: Any = None,
        out: tuple[Array, Array | None] | None = None,
    ) -> tuple[Array, Array | None]:
        rows = len(order) - start if rows is None else rows
        check_gather(images, labels, order, augmentation, start, rows, clock)
        if clock is not None:
            step, epoch = (int(counter) for counter in clock.counters)
            start = step % clock.steps * clock.stride
        index = order[np.minimum(np.arange(start, start + rows), len(order) - 1)]
        x = augment(images[index], index, augmentation, seed=seed, epoch=epoch, operation="gather_augment")
        if augmentation.mean:
            x = self.cast(x, dtype or np.float32)
        given_x, given_y = out or (None, None)
        return deliver(x, given_x, accumulate=False), None if labels is None else deliver(
            labels[index], given_y, accumulate=False
        )

    @staticmethod
    def _reduced_last(a: Array, axes: tuple[int, ...]) -> Array:
        """The reduced axes moved to the end and joined: (…, reduced elements)."""
        kept = [i for i in range(a.ndim) if i not in axes]
        moved = a.transpose(*kept, *axes)
        return moved.reshape(*(a.shape[i] for i in kept), prod(a.shape[i] for i in axes))


def _row_sums(a: Array) -> Array:
    """Sums over the last axis, (…, 1): in pairs, as NumPy adds what is contiguous alone."""
    return np.ascontiguousarray(a).sum(axis=-1, keepdims=True)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def deliver(value: Array, out: Array | None, accumulate: bool) -> Array:
    """`value`, written or added to `out` if there is one."""
    if out is None:
        return value
    if accumulate:
        out += value
    else:
        out[...] = value
    return out
