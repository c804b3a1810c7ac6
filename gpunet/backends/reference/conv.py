"""Convolutions by their formulas."""

from __future__ import annotations

from abc import ABC

import numpy as np

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.gate import Gate
from gpunet.backends.host.arrays import deliver
from gpunet.backends.reference.gate import ReferenceGate
from gpunet.backends.reference.windows import pad_images, view_windows, windows_of
from gpunet.geometry import Geometry


class ReferenceConv(ReferenceGate, ABC):
    """A convolution, and the gradients of its input and of its weights."""

    def conv2d_forward(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        *,
        geometry: Geometry,
        activation: Activation | None = None,
        pool: Geometry | None = None,
    ) -> tuple[Array, Array | None]:
        g = geometry.groups
        images = pad_images(x.astype(np.float64), geometry)  # in which no sum loses digits
        windows = _by_group(windows_of(images, geometry), g)  # (N, OH, OW, KH, KW, groups, C // groups)
        filters = _by_group(w, g)
        y = np.einsum("nyxijgc,ijcgo->nyxgo", windows, filters).reshape(geometry.y_shape).astype(x.dtype)
        y, mask = (y, None) if pool is None else self.max_pool2d_forward(y, geometry=pool)
        if b is not None:
            y = y + b
        return y if activation is None else self.activation_forward(y, activation), mask

    def conv2d_input_grad(self, dy: Array, w: Array, *, geometry: Geometry, gate: Gate | None = None) -> Array:
        n, h, width, c = geometry.x_shape
        (top, bottom), (left, right) = geometry.padding
        g, (eh, ew) = geometry.groups, geometry.effective_window
        spread = _undo_stride(self._open(dy, gate).astype(np.float64), geometry)
        # every pixel of x meets every tap: pad by the window less one, and step by one
        full = np.pad(spread, ((0, 0), (eh - 1, eh - 1), (ew - 1, ew - 1), (0, 0)))
        reached = spread.shape[1] + eh - 1, spread.shape[2] + ew - 1
        windows = view_windows(full, reached, geometry.window, (1, 1), geometry.dilation)
        windows = _by_group(windows, g)
        rotated = _by_group(w[::-1, ::-1], g)  # turned by 180 degrees; einsum exchanges the channels
        padded = np.zeros((n, top + h + bottom, left + width + right, c))
        padded[:, : reached[0], : reached[1]] = np.einsum("nyxijgo,ijcgo->nyxgc", windows, rotated).reshape(
            n, *reached, c
        )
        return padded[:, top : top + h, left : left + width].astype(dy.dtype)

    def conv2d_weight_grad(
        self,
        dy: Array,
        x: Array,
        *,
        geometry: Geometry,
        gate: Gate | None = None,
        out: Array | None = None,
        bias: bool = True,
        bias_out: Array | None = None,
        accumulate: bool = False,
    ) -> tuple[Array, Array | None]:
        g = geometry.groups
        dy = self._open(dy, gate)
        windows = _by_group(windows_of(pad_images(x.astype(np.float64), geometry), geometry), g)  # the sums are long
        grouped = _by_group(dy, g)
        dw = np.einsum("nyxijgc,nyxgo->ijcgo", windows, grouped).reshape(geometry.w_shape).astype(x.dtype)
        dw = deliver(dw, out, accumulate)
        return dw, deliver(self.sum(dy, (0, 1, 2)), bias_out, accumulate) if bias else None


def _undo_stride(dy: Array, geometry: Geometry) -> Array:
    """dy with zeros between its rows and columns, where the stride skipped pixels of x."""
    n, oh, ow, o = dy.shape
    sh, sw = geometry.stride
    spread = np.zeros((n, (oh - 1) * sh + 1, (ow - 1) * sw + 1, o), dy.dtype)
    spread[:, ::sh, ::sw] = dy
    return spread


def _by_group(a: Array, groups: int) -> Array:
    """(…, C) as (…, groups, C // groups)."""
    return a.reshape(*a.shape[:-1], groups, a.shape[-1] // groups)
