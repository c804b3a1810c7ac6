"""Convolutions by their formulas."""

from __future__ import annotations

import numpy as np

from gpunet.backends.contract import NEW, Array, Conv, Gate, Grads, Into
from gpunet.backends.host.arrays import HostArrays, deliver_both
from gpunet.backends.reference.windows import pad_images, windows_of
from gpunet.geometry import Geometry


class ReferenceConv(HostArrays):
    """A convolution, and the gradients of its input and of its weights; sums are float64."""

    def conv2d_forward(
        self, x: Array, w: Array, b: Array | None, conv: Conv, residual: Array | None = None
    ) -> tuple[Array, Array | None]:
        g = conv.geometry
        windows = _by_group(windows_of(pad_images(x.astype(np.float64), g), g), g.groups)
        y = np.einsum("nyxijgc,ijcgo->nyxgo", windows, _by_group(w, g.groups)).reshape(g.y_shape).astype(x.dtype)
        y, mask = (y, None) if conv.pool is None else self.max_pool2d_forward(y, conv.pool)
        if b is not None:
            y = y + b
        if residual is not None:
            y = y + residual
        return y if conv.activation is None else self.activation_forward(y, conv.activation), mask

    def conv2d_input_grad(self, dy: Array, w: Array, conv: Conv, gate: Gate | None = None) -> Array:
        g = conv.geometry
        (n, _, _, c), (eh, ew) = g.x_shape, g.effective_window
        spread = _insert_stride_zeros(self._open_gate(dy, conv, gate).astype(np.float64), g)
        # The full convolution, in which every pixel meets every tap: the padding is the window - 1
        full = Geometry.conv(
            spread.shape, (*g.window, g.filters // g.groups, c), padding=((eh - 1, eh - 1), (ew - 1, ew - 1)),
            dilation=g.dilation, groups=g.groups,
        )  # fmt: skip
        rotated = _by_group(w[::-1, ::-1], g.groups)  # turned by 180 degrees; einsum exchanges the channels
        windows = _by_group(windows_of(pad_images(spread, full), full), g.groups)
        padded = np.zeros((n, *g.padded_extents, c))  # 0 where no window reaches
        _, rows, columns, _ = full.y_shape
        padded[:, :rows, :columns] = np.einsum("nyxijgo,ijcgo->nyxgc", windows, rotated).reshape(full.y_shape)
        return padded[:, *g.image].astype(dy.dtype)

    def conv2d_weight_grad(self, dy: Array, x: Array, conv: Conv, gate: Gate | None = None, into: Into = NEW) -> Grads:
        g = conv.geometry
        dy = self._open_gate(dy, conv, gate)
        windows = _by_group(windows_of(pad_images(x.astype(np.float64), g), g), g.groups)
        dw = np.einsum("nyxijgc,nyxgo->ijcgo", windows, _by_group(dy, g.groups)).reshape(g.w_shape)
        return deliver_both(dw, self.sum(dy, (0, 1, 2)) if into.needs_bias else None, into, x.dtype)

    def _open_gate(self, dy: Array, conv: Conv, gate: Gate | None) -> Array:
        """dy taken back through the gate's activation, then through the pool if it has a mask."""
        if gate is not None and gate.activation is not None:
            dy = self.activation_backward(dy, gate.y, gate.activation)
        if gate is not None and gate.mask is not None and conv.pool is not None:
            dy = self.max_pool2d_backward(dy, gate.mask, conv.pool)
        return dy


def _insert_stride_zeros(dy: Array, geometry: Geometry) -> Array:
    """dy with zeros between its rows and columns, where the stride skipped pixels of x."""
    n, oh, ow, o = dy.shape
    sh, sw = geometry.stride
    spread = np.zeros((n, (oh - 1) * sh + 1, (ow - 1) * sw + 1, o), dy.dtype)
    spread[:, ::sh, ::sw] = dy
    return spread


def _by_group(a: Array, groups: int) -> Array:
    """(…, C) as (…, groups, C // groups)."""
    return a.reshape(*a.shape[:-1], groups, a.shape[-1] // groups)
