"""Resampling and filters of each place, as `ReferenceBackend` computes them."""

from __future__ import annotations

from abc import ABC
from math import prod

import numpy as np

from gpunet.backends.base import Array
from gpunet.backends.host import HostBackend, deliver
from gpunet.backends.reference_windows import add_windows, pad_images, windows_of
from gpunet.geometry import Geometry
from gpunet.resampling import Taps


class ReferenceSpatial(HostBackend, ABC):
    """What stands in kernels/resample2d.cu and local_conv2d.cu."""

    def resample2d(self, x: Array, rows: Taps, columns: Taps) -> Array:
        return _resampled(_resampled(x, rows, axis=1), columns, axis=2).astype(x.dtype)

    def local_conv2d_forward(self, x: Array, w: Array, b: Array | None = None, *, geometry: Geometry) -> Array:
        windows = windows_of(pad_images(x.astype(np.float64), geometry), geometry)
        y = np.einsum("nyxijc,yxijco->nyxo", windows, w).astype(x.dtype)
        return y if b is None else y + b

    def local_conv2d_input_grad(self, dy: Array, w: Array, *, geometry: Geometry) -> Array:
        taps = np.einsum("nyxo,yxijco->nyxcij", dy.astype(np.float64), w)
        return add_windows(taps.reshape(*taps.shape[:4], prod(geometry.window)), geometry).astype(dy.dtype)

    def local_conv2d_weight_grad(
        self,
        dy: Array,
        x: Array,
        *,
        geometry: Geometry,
        out: Array | None = None,
        bias: bool = True,
        bias_out: Array | None = None,
        accumulate: bool = False,
    ) -> tuple[Array, Array | None]:
        windows = windows_of(pad_images(x.astype(np.float64), geometry), geometry)
        dw = np.einsum("nyxijc,nyxo->yxijco", windows, dy).astype(x.dtype)
        db = deliver(self.sum(dy, (0,)), bias_out, accumulate) if bias else None
        return deliver(dw, out, accumulate), db


def _resampled(x: Array, taps: Taps, *, axis: int) -> Array:
    """x along one axis, an output after another."""
    x = x.swapaxes(0, axis)
    y = np.zeros((taps.outputs, *x.shape[1:]), np.float64)
    for p in range(taps.outputs):
        for t in range(taps.starts[p], taps.starts[p + 1]):
            y[p] += taps.weight[t] * x[taps.index[t]]
    return np.ascontiguousarray(y.swapaxes(0, axis))
