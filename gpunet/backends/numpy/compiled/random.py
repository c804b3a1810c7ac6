"""Dropout in compiled loops: random.cpp."""

from __future__ import annotations

from gpunet import random
from gpunet.backends.contract import Array
from gpunet.backends.host import memory
from gpunet.backends.host.arrays import QUIET
from gpunet.backends.numpy.compiled.library import Longs
from gpunet.backends.numpy.compiled.loops import CompiledLoops
from gpunet.backends.numpy.random import NumpyRandom
from gpunet.random import Stream

WORK = 4
"""Elements of work that one element stands for."""


class CompiledRandom(CompiledLoops, NumpyRandom):
    """Dropout."""

    @QUIET
    def dropout_forward(self, x: Array, p: float, *, stream: Stream) -> Array:
        loops = self._loops("random", x)
        if loops is None:
            return super().dropout_forward(x, p, stream=stream)
        threshold, scale = random.drop_threshold(p)
        y, place = memory.empty(x.shape, x.dtype), Longs(*stream.key, *stream.counter[1:])
        given = x, y, x.size, stream.first, place, threshold, float(scale)
        blocks = -(-(stream.first % random.NUMBERS + x.size) // random.NUMBERS)
        self._spread(loops, "dropout", blocks, random.NUMBERS * WORK, *given)
        return y
