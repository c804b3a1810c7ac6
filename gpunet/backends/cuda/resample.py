"""Resampling on a CUDA device."""

import numpy as np

from gpunet.backends.contract import Array
from gpunet.backends.cuda.device import CudaDevice
from gpunet.resampling import Taps


class CudaResample(CudaDevice):
    """The primitive of kernels/resample2d.cu."""

    def resample2d(self, x: Array, rows: Taps, columns: Taps) -> Array:
        element = self._element("resample2d", x=(x, (x.shape[0], rows.extent, columns.extent, x.shape[-1])))
        n, h, w, c = x.shape
        y = self.arrays.empty((n, rows.outputs, columns.outputs, c), x.dtype)
        fields = {"N": n, "H": h, "W": w, "C": c, "OH": rows.outputs, "OW": columns.outputs}
        v = 4 if not self.simple and c % 4 == 0 and self._aligned(x, y) else 1
        args = x, *self._on_device(rows), *self._on_device(columns), y, fields
        self._each("resample2d", y.size // v, *args, element=f"{element}, {v}")
        return y

    def _on_device(self, taps: Taps) -> tuple[Array, Array, Array]:
        """The starts, indices and weights of a table, a few kilobytes, which stay on the device."""
        return (
            self._constant((taps, "starts"), lambda: taps.starts),
            self._constant((taps, "index"), lambda: taps.index),
            self._constant((taps, "weight"), lambda: taps.weight.astype(np.float32)),
        )
