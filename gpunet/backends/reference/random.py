"""Dropout by its formula."""

import numpy as np

from gpunet.backends.contract import Array
from gpunet.backends.host.random import HostRandom
from gpunet.random import Stream


class ReferenceRandom(HostRandom):
    """Dropout; the stream's words are those of NumPy's Philox."""

    def dropout_forward(self, x: Array, p: float, *, stream: Stream) -> Array:
        words = self.random_words(stream, (x.size + 3) // 4)
        quarters = [(words >> np.uint64(shift)) % np.uint64(65536) for shift in (0, 16, 32, 48)]
        drawn = np.stack(quarters, axis=1).reshape(-1)[: x.size].reshape(x.shape)
        rate = round(65536 * p) / 65536
        scale = 1 / (1 - rate) if rate < 1 else 0.0
        return x * np.where(drawn < 65536 * rate, 0, scale).astype(x.dtype)

    def dropout_backward(self, dy: Array, p: float, *, stream: Stream) -> Array:
        return self.dropout_forward(dy, p, stream=stream)
