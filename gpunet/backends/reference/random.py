"""Dropout by its formula."""

import numpy as np

from gpunet.backends.contract import Array
from gpunet.backends.host.random import HostRandom
from gpunet.random import Stream


class ReferenceRandom(HostRandom):
    """Dropout; the stream's words are those of NumPy's Philox."""

    def dropout_forward(self, x: Array, p: float, *, stream: Stream) -> Array:
        end = stream.first + x.size
        words = self.random_words(stream, (end + 3) // 4)
        quarters = [(words >> np.uint64(shift)) % np.uint64(65536) for shift in (0, 16, 32, 48)]
        drawn = np.stack(quarters, axis=1).reshape(-1)[stream.first : end].reshape(x.shape)
        rate = round(65536 * p) / 65536
        scale = 1 / (1 - rate) if rate < 1 else 0.0
        return x * np.where(drawn < 65536 * rate, 0, scale).astype(x.dtype)

    def dropout_backward(self, dy: Array, p: float, *, stream: Stream) -> Array:
        return self.dropout_forward(dy, p, stream=stream)
