"""The primitives that are no matrix products, as problems: what each computes, and the bytes that
it must move.

These primitives compute little, so none of them can be faster than a copy of its bytes. Each input
is counted as read once and each output as written once, except where a formula needs two passes
over an input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpunet.backends import Backend
from gpunet.backends.contract import FUSED_POOL, RULES, Activation, Array, BatchNorm, Moments, Segments
from gpunet.bench.primitives import Arrays, Problem
from gpunet.geometry import Geometry

CLASSES = 10
PIXELS = 28
NORM = BatchNorm(training=True, activation=Activation("relu"))


class _Draw:
    """Draws the random inputs of a case.

    Args:
        case: "op" names the primitive, "batch" and "channels" describe the images, "parameters" is
            the size of an update.
    """

    def __init__(self, case: dict[str, Any]):
        self._rng = np.random.default_rng(0)
        self.x_shape = case.get("batch", 1), PIXELS, PIXELS, case.get("channels", 1)
        self.parameters = case.get("parameters", 1)

    def floats(self, *shape: int) -> np.ndarray:
        """Normal numbers, float32."""
        return self._rng.normal(size=shape).astype(np.float32)

    def labels(self, rows: int) -> np.ndarray:
        """Class numbers (rows,), int32."""
        return self._rng.integers(0, CLASSES, rows).astype(np.int32)


def _bytes(*arrays: np.ndarray) -> int:
    return sum(a.nbytes for a in arrays)


# ---- pooling


def _max_pool_forward(draw: _Draw) -> Problem:
    x = draw.floats(*draw.x_shape)
    geometry = Geometry.pool(x.shape, FUSED_POOL)

    def run(backend: Backend, a: Arrays) -> Sequence[Array]:
        return backend.max_pool2d_forward(a["x"], geometry)

    return Problem({"x": x}, run, ("y", "mask"), _bytes(x) + x.size // 4 * (x.itemsize + 1))


def _max_pool_backward(draw: _Draw) -> Problem:
    geometry = Geometry.pool(draw.x_shape, FUSED_POOL)
    dy = draw.floats(*geometry.y_shape)
    mask = (np.abs(draw.floats(*dy.shape)) * 1000).astype(np.uint8) % 4

    def run(backend: Backend, a: Arrays) -> Sequence[Array]:
        return [backend.max_pool2d_backward(a["dy"], a["mask"], geometry)]

    return Problem({"dy": dy, "mask": mask}, run, ("dx",), _bytes(dy, mask) + 4 * dy.nbytes)


# ---- batch norm, which reads x twice: a channel's moments are known only when all of it has been
# read


def _batch_norm_forward(draw: _Draw) -> Problem:
    x, c = draw.floats(*draw.x_shape), draw.x_shape[3]

    def run(backend: Backend, a: Arrays) -> Sequence[Array]:
        running = Moments(a["mean"], a["variance"])
        return [backend.batch_norm_forward(a["x"], a["w"], a["b"], running, NORM, None)[0]]

    inputs = {"x": x, "w": draw.floats(c), "b": draw.floats(c), "mean": draw.floats(c)}
    return Problem({**inputs, "variance": np.ones(c, np.float32)}, run, ("y",), 3 * x.nbytes)


def _batch_norm_backward(draw: _Draw) -> Problem:
    x, dy, c = draw.floats(*draw.x_shape), draw.floats(*draw.x_shape), draw.x_shape[3]
    mean = x.mean(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
    variance = x.var(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
    w, b = draw.floats(c), draw.floats(c)
    y = np.maximum(w * (x - mean) / np.sqrt(variance + NORM.eps) + b, 0).astype(np.float32)

    def run(backend: Backend, a: Arrays) -> Sequence[Array]:
        saved = Moments(a["mean"], a["variance"])
        return backend.batch_norm_backward(a["dy"], a["x"], a["y"], a["w"], a["b"], saved, NORM)[:3]

    inputs = {"dy": dy, "x": x, "y": y, "w": w, "b": b, "mean": mean, "variance": variance}
    return Problem(inputs, run, ("dx", "dw", "db"), 5 * x.nbytes)  # dy and x twice


# ---- loss


def _softmax_cross_entropy(draw: _Draw) -> Problem:
    rows = (
        draw.x_shape[0] * PIXELS * PIXELS
    )  # a class for each pixel, as in segmentation; one for each image is too little
    logits, labels = draw.floats(rows, CLASSES), draw.labels(rows)

    def run(backend: Backend, a: Arrays) -> Sequence[Array]:
        loss, dlogits, _ = backend.softmax_cross_entropy(a["logits"], a["labels"])
        return [loss, dlogits]

    return Problem({"logits": logits, "labels": labels}, run, ("loss", "dlogits"), 2 * logits.nbytes + labels.nbytes)


# ---- updates


def _update(rule: str, own: tuple[float, ...]) -> Callable[[_Draw], Problem]:
    """An update in place, which reads data, gradients and slots, and writes data and slots."""
    slots = RULES[rule].slots

    def problem(draw: _Draw) -> Problem:
        n = draw.parameters
        inputs = {"data": draw.floats(n), "grad": draw.floats(n), **{name: np.abs(draw.floats(n)) for name in slots}}
        segments = Segments(np.array([[0, n]], np.int64), np.array([(1e-3, 0.0, 0.0, 0.0, *own)]))

        def run(backend: Backend, a: Arrays) -> Sequence[Array]:
            arena: Any = SimpleNamespace(
                data=a["data"], grad=a["grad"], slots={name: a[name] for name in slots}, shadow=None, scaling=None
            )
            backend.update(rule, arena, segments)
            return [a["data"], *(a[name] for name in slots)]

        return Problem(inputs, run, ("data", *slots), (3 + 2 * len(slots)) * 4 * n)

    return problem


OPS: dict[str, Callable[[_Draw], Problem]] = {
    "max_pool forward": _max_pool_forward,
    "max_pool backward": _max_pool_backward,
    "batch_norm forward": _batch_norm_forward,
    "batch_norm backward": _batch_norm_backward,
    "softmax_cross_entropy": _softmax_cross_entropy,
    "sgd": _update("sgd", (0.9, 0.0)),
    "adam": _update("adam", (0.9, 0.999, 1e-8, 0.1, 0.001)),
}
"""What makes the problem of each primitive. Pooling is 2x2; normalisation is that of training, with
ReLU."""


def problem(case: dict[str, Any]) -> Problem:
    """The primitive that a case names, on random data."""
    return OPS[case["op"]](_Draw(case))
