"""Noise in training: dropout and Gaussian noise."""

from __future__ import annotations

from math import inf
from numbers import Real
from typing import Any

import numpy as np

from gpunet import random
from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract import Array
from gpunet.functional.arithmetic import add, multiply
from gpunet.random import Stream

__all__ = ["dropout", "dropout2d", "gaussian_noise"]


class _Dropout(Function, name="dropout"):
    def forward(self, x: Array, *, p: float, stream: Stream) -> Array:
        self.p, self.stream = p, stream
        return self.backend.dropout_forward(x, p, stream=stream)

    def backward(self, dy: Array) -> Any:
        return self.backend.dropout_backward(dy, self.p, stream=self.stream)


def dropout(x: Tensor, p: float = 0.5, *, training: bool = True) -> Tensor:
    """Each element 0 with probability p, else x / (1 - p); x itself unless `training`.

    Srivastava et al. 2014; what is kept is scaled in training, so that inference does nothing.

    Args:
        x: any shape and float dtype.
        p: from 0 to 1, rounded to a multiple of 1 / 65,536.
        training: whether to drop at all.
    Returns:
        Of x's shape.
    Raises:
        ValueError: p out of range.
    """
    expect_tensor("dropout", "x", x)
    check_rate("dropout", p)
    if not training or p == 0:
        return x
    return _Dropout.apply(x, p=p, stream=random.next_stream("dropout", x.shape))


def dropout2d(x: Tensor, p: float = 0.5, *, training: bool = True) -> Tensor:
    """Each channel of a sample 0 with probability p, else x / (1 - p); x itself unless `training`.

    Spatial dropout (Tompson et al. 2015): neighbouring pixels of a feature map are
    alike, so that a net finds what `dropout` dropped in the pixels beside it.

    Args:
        x: (N, …, C), any float dtype.
        p, training: as for `dropout`.
    Returns:
        (N, …, C).
    Raises:
        ValueError: p out of range, or fewer than 2 axes.
    """
    if expect_tensor("dropout2d", "x", x).ndim < 2:
        raise ValueError(f"dropout2d: x has shape {x.shape} but takes (N, …, C), at least 2 axes")
    check_rate("dropout2d", p)
    if not training or p == 0:
        return x
    channels = x.shape[0], *[1] * (x.ndim - 2), x.shape[-1]
    return multiply(x, dropout(Tensor(x.backend.full(channels, 1.0, x.dtype), x.backend), p))


def gaussian_noise(x: Tensor, std: float = 0.1, *, training: bool = True) -> Tensor:
    """x plus normal noise of mean 0; x itself unless `training`.

    It applies to any tensor: the inputs of a net (Bishop 1995, "Training with noise is equivalent
    to Tikhonov regularization"), the output of a layer, or targets, inside the step that computes
    the loss: ``F.mse_loss(model(x), F.gaussian_noise(y, 0.05, training=model.training))``. The
    Trainer's y is a tensor there; in a loop of your own, make it one with ``y = gpunet.tensor(y,
    backend=x.backend)``.

    Args:
        x: any shape and float dtype.
        std: the standard deviation of the noise, at least 0.
        training: whether to add any noise.
    Returns:
        Of x's shape.
    Raises:
        ValueError: std that is negative or not finite.
    The noise is drawn by `random.normal`, so that none lies beyond 4.33 std, and every backend adds
    the same.
    """
    expect_tensor("gaussian_noise", "x", x)
    check_std("gaussian_noise", std)
    if not training or std == 0:
        return x
    kind = x.dtype if x.dtype in (np.float32, np.float64) else np.dtype(np.float32)
    noise = x.backend.random_normal(random.next_stream("noise", x.shape), x.shape, kind)
    return add(x, Tensor(x.backend.cast(x.backend.scale(noise, None, std), x.dtype), x.backend))


def check_rate(operation: str, p: float) -> None:
    """Raise ValueError unless p is a probability."""
    if not (isinstance(p, Real) and 0 <= p <= 1):
        raise ValueError(f"{operation}: p is {p!r} but must be from 0 to 1")


def check_std(operation: str, std: float) -> None:
    """Raise ValueError unless std is a finite standard deviation."""
    if not (isinstance(std, Real) and 0 <= std < inf):
        raise ValueError(f"{operation}: std is {std!r} but must be at least 0, and finite")
