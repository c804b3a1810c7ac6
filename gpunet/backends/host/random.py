"""Random numbers on the host, from NumPy's own Philox."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpunet import random
from gpunet.backends.contract import Array
from gpunet.backends.host.arrays import QUIET, HostArrays, deliver
from gpunet.random import Stream


class HostRandom(HostArrays):
    """Random words, normal numbers and permutations."""

    def random_words(self, stream: Stream, count: int) -> Array:
        return random.words(stream, count)

    @QUIET
    def random_normal(self, stream: Stream, shape: Sequence[int], dtype: Any) -> Array:
        return random.normal(stream, int(np.prod(shape))).astype(dtype).reshape(shape)

    def permutation(self, stream: Stream, count: int, *, out: Array | None = None) -> Array:
        return deliver(random.permutation(stream, count).astype(np.int32), out, accumulate=False)
