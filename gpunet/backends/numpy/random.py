"""Dropout of `NumpyBackend`."""

from gpunet import random
from gpunet.backends.contract import Array
from gpunet.backends.host.random import HostRandom
from gpunet.random import Stream


class NumpyRandom(HostRandom):
    """Dropout; the other random numbers are `HostRandom`'s."""

    def dropout_forward(self, x: Array, p: float, *, stream: Stream) -> Array:
        threshold, scale = random.drop_threshold(p)
        kept = (random.uint16(stream, x.size) >= threshold).reshape(x.shape)
        return x * (kept * x.dtype.type(scale))

    def dropout_backward(self, dy: Array, p: float, *, stream: Stream) -> Array:
        return self.dropout_forward(dy, p, stream=stream)  # it is linear, and its matrix diagonal
