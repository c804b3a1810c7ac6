"""Separable resampling in compiled loops: resample.cpp."""

from __future__ import annotations

from math import prod

from gpunet.backends.contract import Array
from gpunet.backends.host import memory
from gpunet.backends.numpy.compiled.loops import CompiledLoops
from gpunet.backends.numpy.resample import NumpyResample
from gpunet.backends.numpy.sums import CHUNK
from gpunet.resampling import Taps


class CompiledResample(CompiledLoops, NumpyResample):
    """Images of other extents, by tables of weights."""

    def resample2d(self, x: Array, rows: Taps, columns: Taps) -> Array:
        short = max(rows.longest, columns.longest) <= CHUNK
        loops = self._loops("resample", x) if short else None
        if loops is None:
            return super().resample2d(x, rows, columns)
        n, h, w, c = x.shape
        y = memory.empty((n, rows.outputs, columns.outputs, c), x.dtype)
        tables = (rows.starts, rows.index, rows.weight, columns.starts, columns.index, columns.weight)
        each = max(prod(x.shape[1:]), prod(y.shape[1:])) // max(rows.outputs, 1)
        self._spread(loops, "resample", n * rows.outputs, each, x, y, h, w, c, rows.outputs, columns.outputs, *tables)
        return y
