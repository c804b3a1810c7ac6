"""Convolutions on a CUDA device."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.backends.contract import NEW, Array, Conv, Gate, Grads, Into
from gpunet.backends.cuda.depthwise import CudaDepthwise, is_depthwise
from gpunet.backends.cuda.device import THREADS, activation_fields, geometry_fields
from gpunet.backends.cuda.tiles import count_tiles, select_tile, split_pixels
from gpunet.cuda.instantiations import CONV_TILES, WEIGHT_GRAD_TILES, instance
from gpunet.geometry import Geometry


class CudaConv(CudaDepthwise):
    """The primitives of conv2d_*.cu."""

    def conv2d_forward(self, x: Array, w: Array, b: Array | None, conv: Conv) -> tuple[Array, Array | None]:
        g, pooled = conv.geometry, conv.pool is not None
        element = self._element("conv2d_forward", x=(x, g.x_shape), w=(w, g.w_shape), b=(b, (g.filters,)))
        y = self.arrays.empty(conv.y_shape, x.dtype)
        mask = self.arrays.empty(conv.y_shape, np.uint8) if pooled else None
        args = x, w, b, y, mask, geometry_fields(g), activation_fields(conv.activation)
        if is_depthwise(g) and not self.simple:
            self._depthwise_forward(x, w, b, y, mask, conv)
        elif self.simple:
            options = f"{element}, {str(pooled).lower()}"
            self._each("conv2d_forward_simple", y.size, *args, element=options, flops=2 * g.multiply_adds)
        else:
            rows = y.size // g.filters * (4 if pooled else 1)
            vector = _by_four(g) and self._aligned(x, w, y)
            self._tiled_conv("conv2d_forward_tiled", element, g, (rows, g.filters), vector, args, pooled)
        return y, mask

    def conv2d_input_grad(self, dy: Array, w: Array, conv: Conv, gate: Gate | None = None) -> Array:
        g = conv.geometry
        gate = self._checked_gate("conv2d_input_grad", dy, conv, gate)
        element = self._element("conv2d_input_grad", dy=(dy, None), w=(w, g.w_shape))
        dx = self.arrays.empty(g.x_shape, dy.dtype)
        args = dy, gate.y, gate.mask, w, dx, geometry_fields(g), activation_fields(gate.activation)
        if is_depthwise(g) and not self.simple:
            self._depthwise_input_grad(dy, w, dx, g, gate)
        elif self.simple:
            self._each("conv2d_input_grad_simple", dx.size, *args, element=element, flops=2 * g.multiply_adds)
        else:
            channels = g.x_shape[3]
            vector = _by_four(g) and self._aligned(dy, gate.y, w, dx)
            self._tiled_conv("conv2d_input_grad_tiled", element, g, (dx.size // channels, channels), vector, args)
        return dx

    def _tiled_conv(
        self, kernel: str, element: str, g: Geometry, shape: tuple[int, int], vector: bool, args: Any, *options: object
    ) -> None:
        """Launch a tiled convolution with results of a shape (pixels, channels).

        Args:
            vector: whether loads of four elements are allowed.
            options: template arguments of the kernel behind its tile.
        """
        rows, channels = shape
        if not rows:
            return
        cols = channels // g.groups
        tile = select_tile(CONV_TILES, rows, cols, vector=vector, busy=self.busy)
        blocks = count_tiles(rows, cols, tile) * g.groups
        kernel = instance(kernel, element, *tile, *options)
        self.launcher.launch(kernel, blocks, THREADS, args, flops=2 * g.multiply_adds)

    def conv2d_weight_grad(self, dy: Array, x: Array, conv: Conv, gate: Gate | None = None, into: Into = NEW) -> Grads:
        g, name = conv.geometry, "conv2d_weight_grad"
        gate = self._checked_gate(name, dy, conv, gate)
        element = self._element(name, dy=(dy, None), x=(x, g.x_shape))
        dw, db, add = self._place_gradients(name, into, g.w_shape, (g.filters,))
        opened = dy, gate.y, gate.mask, x
        common = geometry_fields(g), activation_fields(gate.activation)
        if self.simple or not g.pixels:  # without pixels, the simple kernel writes zeros
            count = dw.size + (0 if db is None else db.size)
            simple = *opened, dw, db, *common, int(add)
            self._each(f"{name}_simple", count, *simple, element=element, flops=2 * g.multiply_adds)
            return dw, db
        if is_depthwise(g):
            self._depthwise_weight_grad(dy, x, dw, db, g, gate, add=add)
            return dw, db
        kernel, tiles = self._weight_grad_kernel(element, g, _by_four(g) and self._aligned(dy, gate.y, x))
        length = split_pixels(tiles, g.pixels, self.busy)
        splits = -(-g.pixels // length)
        partial_w = self.arrays.empty((splits, dw.size), np.float32)
        partial_b = None if db is None else self.arrays.empty((splits, g.filters), np.float32)
        args = *opened, partial_w, partial_b, self._arrivals(tiles), dw, db, *common, length, int(add)
        self.launcher.launch(kernel, tiles * splits, THREADS, args, flops=2 * g.multiply_adds)
        return dw, db

    def _weight_grad_kernel(self, element: str, g: Geometry, vector: bool) -> tuple[str, int]:
        """(the kernel of a weight gradient, how many tiles cover dw)."""
        rows, cols = g.window[0] * g.window[1] * (g.x_shape[3] // g.groups), g.filters // g.groups
        tile = select_tile(WEIGHT_GRAD_TILES, rows, cols, vector=vector, busy=self.busy)
        return instance("conv2d_weight_grad_tiled", element, *tile), count_tiles(rows, cols, tile) * g.groups

    def _checked_gate(self, operation: str, dy: Array, conv: Conv, gate: Gate | None) -> Gate:
        """The gate, or one that changes nothing; an error if it does not fit dy and `conv`."""
        shape = conv.geometry.y_shape if gate is None else conv.y_shape
        gate = gate or Gate(None, None)
        self._element(operation, dy=(dy, shape), gate=(gate.y, shape))
        if gate.mask is None:
            fits = shape == conv.geometry.y_shape
        else:
            fits = conv.pool is not None and gate.mask.shape == shape
        if not fits:
            got = "none" if gate.mask is None else f"of shape {gate.mask.shape}"
            takes = "no pool is fused" if conv.pool is None else f"its pool takes {shape}"
            raise ValueError(f"{operation}: the gate's mask is {got} but {takes}")
        return gate


def _by_four(g: Geometry) -> bool:
    """Whether the channels of a group come in fours, on both sides of a convolution."""
    return g.x_shape[3] // g.groups % 4 == 0 and g.filters // g.groups % 4 == 0
