"""Arrays of `NumpyBackend`: sums that keep their digits."""

from __future__ import annotations

from abc import ABC
from functools import partial

from gpunet.backends.contract.arrays import Array
from gpunet.backends.numpy.sums import add_axes
from gpunet.backends.numpy.threads import NumpyThreads


class NumpyArrays(NumpyThreads, ABC):
    """Sums by BLAS."""

    def sum(self, a: Array, axes: tuple[int, ...]) -> Array:
        if a.dtype.char not in "fd" or not a.flags.c_contiguous:
            return super().sum(a, axes)
        return self._alone(partial(add_axes, a, axes))
