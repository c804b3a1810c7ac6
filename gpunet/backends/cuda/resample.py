"""Resampling on a CUDA device."""

from __future__ import annotations

from abc import ABC

import numpy as np

from gpunet.backends.contract.arrays import Array
from gpunet.backends.cuda.device import CudaDevice
from gpunet.resampling import Taps

Placed = tuple[Array, Array, Array]
"""The starts, indices and weights of `Taps`, on the device."""


class CudaResample(CudaDevice, ABC):
    """Primitives of kernels/resample2d.cu."""

    def resample2d(self, x: Array, rows: Taps, columns: Taps) -> Array:
        element = self._element("resample2d", x=(x, (x.shape[0], rows.extent, columns.extent, x.shape[-1])))
        n, h, w, c = x.shape
        y = self.arrays.empty((n, rows.outputs, columns.outputs, c), x.dtype)
        fields = {"N": n, "H": h, "W": w, "C": c, "OH": rows.outputs, "OW": columns.outputs}
        v = 4 if not self.simple and c % 4 == 0 and self._aligned(x, y) else 1
        args = x, *self._placed(rows), *self._placed(columns), y, fields
        self._each("resample2d", y.size // v, *args, element=f"{element}, {v}")
        return y

    def _placed(self, taps: Taps) -> Placed:
        """The tables on the device, a few kilobytes each."""
        return (
            self._constant((taps, "starts"), lambda: taps.starts),
            self._constant((taps, "index"), lambda: taps.index),
            self._constant((taps, "weight"), lambda: taps.weight.astype(np.float32)),
        )
