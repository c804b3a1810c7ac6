"""Random numbers on the host: NumPy's Philox."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpunet import random
from gpunet.backends.contract.arrays import Array
from gpunet.backends.host.arrays import QUIET, HostArrays, deliver
from gpunet.random import Stream


class HostRandom(HostArrays, ABC):
    """Random numbers, dropout and permutations."""

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
