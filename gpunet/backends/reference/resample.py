"""Resampling by its formula."""

import numpy as np

from gpunet.backends.contract import Array
from gpunet.backends.host.arrays import HostArrays
from gpunet.resampling import Taps


class ReferenceResample(HostArrays):
    """Images of other extents, by tables of weights."""

    def resample2d(self, x: Array, rows: Taps, columns: Taps) -> Array:
        return _resampled(_resampled(x, rows, axis=1), columns, axis=2).astype(x.dtype)


def _resampled(x: Array, taps: Taps, *, axis: int) -> Array:
    """x resampled along one axis, one output after another."""
    x = x.swapaxes(0, axis)
    y = np.zeros((taps.outputs, *x.shape[1:]), np.float64)
    for p in range(taps.outputs):
        for t in range(taps.starts[p], taps.starts[p + 1]):
            y[p] += taps.weight[t] * x[taps.index[t]]
    return np.ascontiguousarray(y.swapaxes(0, axis))
