"""Locally connected layers by their formulas."""

from math import prod

import numpy as np

from gpunet.backends.contract import NEW, Array, Grads, Into
from gpunet.backends.host.arrays import HostArrays, deliver_both
from gpunet.backends.reference.windows import add_windows, pad_images, windows_of
from gpunet.geometry import Geometry


class ReferenceLocal(HostArrays):
    """A convolution with different filters for each output pixel; sums are float64."""

    def local_conv2d_forward(self, x: Array, w: Array, b: Array | None, geometry: Geometry) -> Array:
        windows = windows_of(pad_images(x.astype(np.float64), geometry), geometry)
        y = np.einsum("nyxijc,yxijco->nyxo", windows, w).astype(x.dtype)
        return y if b is None else y + b

    def local_conv2d_input_grad(self, dy: Array, w: Array, geometry: Geometry) -> Array:
        taps = np.einsum("nyxo,yxijco->nyxcij", dy.astype(np.float64), w)
        return add_windows(taps.reshape(*taps.shape[:4], prod(geometry.window)), geometry).astype(dy.dtype)

    def local_conv2d_weight_grad(self, dy: Array, x: Array, geometry: Geometry, into: Into = NEW) -> Grads:
        windows = windows_of(pad_images(x.astype(np.float64), geometry), geometry)
        dw = np.einsum("nyxijc,nyxo->yxijco", windows, dy)
        return deliver_both(dw, self.sum(dy, (0,)) if into.needs_bias else None, into, x.dtype)
