"""Batched matrix products on the host."""

from __future__ import annotations

import numpy as np

from gpunet.backends.contract import Array
from gpunet.backends.host.arrays import QUIET, HostArrays


class HostMatmul(HostArrays):
    """NumPy's batched product."""

    @QUIET
    def batched_matmul(self, a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False) -> Array:
        return np.matmul(a.swapaxes(1, 2) if transpose_a else a, b.swapaxes(1, 2) if transpose_b else b)
