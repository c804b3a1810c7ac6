"""Resampling on a CUDA device."""

from typing import Any

import numpy as np

from gpunet.backends.contract import Array
from gpunet.backends.cuda.device import MAX_BLOCKS, THREADS, CudaDevice
from gpunet.backends.cuda.shares import across, shared_blocks, shares_taps
from gpunet.cuda.naming import ELEMENTS, instance
from gpunet.resampling import Taps, nearest

ENOUGH_BLOCKS, LONG_SHARE = 264, 32
"""Fewer blocks leave multiprocessors idle, which matters where a thread has more taps than this."""


class CudaResample(CudaDevice):
    """The primitive of kernels/resample2d.cu."""

    def resample2d(self, x: Array, rows: Taps, columns: Taps) -> Array:
        n, h, _, c = x.shape
        element = self._element("resample2d", x=(x, (n, rows.extent, columns.extent, c)))
        y = self.arrays.empty((n, rows.outputs, columns.outputs, c), x.dtype)
        v = self._vector_of(c, x, y)
        taps = _mean(rows) * _mean(columns)
        if self.simple or not shares_taps(y.size // v, taps):
            self._each("resample2d", y.size // v, *self._arguments(x, rows, columns, y), element=f"{element}, {v}")
        elif shared_blocks(y.size, c, v) < ENOUGH_BLOCKS and taps * across(c, v) > LONG_SHARE * THREADS:
            between = self.arrays.empty((n, h, columns.outputs, c), np.float32)
            self._resample_long(x, nearest(h, h), columns, between, v)
            self._resample_long(between, rows, nearest(columns.outputs, columns.outputs), y, v)
        else:
            self._resample_long(x, rows, columns, y, v)
        return y

    def _resample_long(self, x: Array, rows: Taps, columns: Taps, y: Array, v: int) -> None:
        """Write a resampling to y, whose results each take the threads of a block."""
        c = x.shape[-1]
        kernel = instance("resample2d_long", ELEMENTS[x.dtype.name], ELEMENTS[y.dtype.name], v)
        blocks = min(shared_blocks(y.size, c, v), MAX_BLOCKS)
        self.launcher.launch(kernel, blocks, THREADS, (*self._arguments(x, rows, columns, y), across(c, v)))

    def _arguments(self, x: Array, rows: Taps, columns: Taps, y: Array) -> tuple[Any, ...]:
        n, h, w, c = x.shape
        fields = {"N": n, "H": h, "W": w, "C": c, "OH": rows.outputs, "OW": columns.outputs}
        return x, *self._on_device(rows), *self._on_device(columns), y, fields

    def _on_device(self, taps: Taps) -> tuple[Array, Array, Array]:
        """The starts, indices and weights of a table, a few kilobytes, which stay on the device."""
        return (
            self._constant((taps, "starts"), lambda: taps.starts),
            self._constant((taps, "index"), lambda: taps.index),
            self._constant((taps, "weight"), lambda: taps.weight.astype(np.float32)),
        )


def _mean(taps: Taps) -> float:
    """The mean number of taps of an output."""
    return len(taps.index) / max(taps.outputs, 1)
