"""Convolutions on a CUDA device."""

from __future__ import annotations

from abc import ABC
from typing import Any

import numpy as np

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.gate import Gate, check_fused_pool
from gpunet.backends.cuda.device import THREADS, CudaDevice, activation_fields, check_accumulate, geometry_fields
from gpunet.backends.cuda.tiles import count_tiles, select_tile, split_pixels
from gpunet.cuda.instantiations import CONV_TILES, WEIGHT_GRAD_TILES, instance
from gpunet.geometry import Geometry
from gpunet.nvrtc.source import constant

DEPTHWISE_TILE = constant("conv2d_weight_grad.cu", "TAPS"), constant("common.cuh", "WARP")
"""Taps and filters that a block of a depthwise weight gradient takes."""


def depthwise(g: Geometry) -> bool:
    """Whether each channel has filters of its own. Then the simple kernels of convolution and input gradient are the fast ones:
    neighbouring threads take neighbouring channels of a pixel, and there is no sum over channels for a tile to share. The
    weight gradient, of few and long sums, has a kernel of its own."""
    return g.groups > 1 and g.groups == g.x_shape[3]


class CudaConv(CudaDevice, ABC):
    """Primitives of kernels/conv2d_forward.cu, conv2d_input_grad.cu and conv2d_weight_grad.cu."""

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
        g = geometry
        element = self._element("conv2d_forward", x=(x, g.x_shape), w=(w, g.w_shape), b=(b, (g.filters,)))
        check_fused_pool("conv2d_forward", g, pool)
        pooled = pool is not None
        y = self.arrays.empty(g.y_shape if pool is None else pool.y_shape, x.dtype)
        mask = None if pool is None else self.arrays.empty(pool.y_shape, np.uint8)
        args = x, w, b, y, mask, geometry_fields(g), activation_fields(activation)
        if self.simple or depthwise(g):
            kind = f"{element}, {str(pooled).lower()}"
            self._each("conv2d_forward_simple", y.size, *args, element=kind, flops=2 * g.multiply_adds)
        else:
            rows = y.size // g.filters * (4 if pooled else 1)
            self._conv("conv2d_forward_tiled", element, g, rows, g.filters, self._aligned(x, w, y), args, pooled)
        return y, mask

    def conv2d_input_grad(self, dy: Array, w: Array, *, geometry: Geometry, gate: Gate | None = None) -> Array:
        g = geometry
        gate = self._checked_gate("conv2d_input_grad", dy, g, gate)
        element = self._element("conv2d_input_grad", dy=(dy, None), w=(w, g.w_shape))
        dx = self.arrays.empty(g.x_shape, dy.dtype)
        args = dy, gate.y, gate.mask, w, dx, geometry_fields(g), activation_fields(gate.activation)
        if self.simple or depthwise(g):
            self._each("conv2d_input_grad_simple", dx.size, *args, element=element, flops=2 * g.multiply_adds)
        else:
            aligned = self._aligned(dy, gate.y, w, dx)
            rows = dx.size // g.x_shape[3]
            self._conv("conv2d_input_grad_tiled", element, g, rows, g.x_shape[3], aligned, args)
        return dx

    def _conv(
        self,
        kernel: str,
        element: str,
        g: Geometry,
        rows: int,
        channels: int,
        aligned: bool,
        args: Any,
        *options: object,
    ) -> None:
        """Launch a tiled convolution whose results are `rows` pixels of so many channels."""
        if not rows:
            return
        cols = channels // g.groups
        tile = select_tile(CONV_TILES, rows, cols, vector=aligned and _by_four(g), busy=self.busy)
        blocks = count_tiles(rows, cols, tile) * g.groups
        kernel = instance(kernel, element, *tile, *options)
        self.launcher.launch(kernel, blocks, THREADS, args, flops=2 * g.multiply_adds)

    def _checked_gate(self, operation: str, dy: Array, g: Geometry, gate: Gate | None) -> Gate:
        """The gate, one of nothing if there is none, after the checks of dy's shape against it."""
        gate = gate or Gate(None, None)
        check_fused_pool(operation, g, gate.pool)
        shape = g.y_shape if gate.pool is None else gate.pool.y_shape
        self._element(operation, dy=(dy, shape), gate=(gate.y, shape))
        if (gate.mask is None) != (gate.pool is None) or (gate.mask is not None and gate.mask.shape != shape):
            got = "none" if gate.mask is None else f"shape {gate.mask.shape}"
            raise ValueError(f"{operation}: the gate's mask is {got} but its pool takes {shape}")
        return gate

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
        g = geometry
        self._expect("conv2d_weight_grad", out=(out, g.w_shape), bias_out=(bias_out, (g.filters,)))
        gate = self._checked_gate("conv2d_weight_grad", dy, g, gate)
        element = self._element("conv2d_weight_grad", dy=(dy, None), x=(x, g.x_shape))
        check_accumulate("conv2d_weight_grad", accumulate, bias_out if out is None and bias else out)
        if accumulate and out is None:  # only one of them adds to something: to the other's zeros
            out = self.full(g.w_shape, 0.0, np.float32)
        if accumulate and bias and bias_out is None:
            bias_out = self.full((g.filters,), 0.0, np.float32)
        dw = self._out("conv2d_weight_grad", out, g.w_shape)
        db = self._out("conv2d_weight_grad", bias_out, (g.filters,)) if bias else None
        common = geometry_fields(g), activation_fields(gate.activation)
        opened = dy, gate.y, gate.mask, x
        if self.simple or not g.pixels:  # of no pixels, the zeros
            count = dw.size + g.filters * bias
            args = *opened, dw, db, *common, int(accumulate)
            self._each("conv2d_weight_grad_simple", count, *args, element=element, flops=2 * g.multiply_adds)
            return dw, db
        if depthwise(g):
            kernel = instance("conv2d_weight_grad_depthwise", element)
            tiles = count_tiles(g.window[0] * g.window[1], g.filters, DEPTHWISE_TILE)
        else:
            rows, cols = dw.size // g.filters, g.filters // g.groups
            vector = self._aligned(dy, gate.y, x) and _by_four(g)
            tile = select_tile(WEIGHT_GRAD_TILES, rows, cols, vector=vector, busy=self.busy)
            kernel = instance("conv2d_weight_grad_tiled", element, *tile)
            tiles = count_tiles(rows, cols, tile) * g.groups
        each = split_pixels(tiles, g.pixels, self.busy)
        splits = -(-g.pixels // each)
        partial_w = self.arrays.empty((splits, dw.size), np.float32)
        partial_b = self.arrays.empty((splits, g.filters), np.float32) if bias else None
        self.launcher.launch(
            kernel, tiles * splits, THREADS,
            (*opened, partial_w, partial_b, self._arrivals(tiles), dw, db, *common, each, int(accumulate)),
            flops=2 * g.multiply_adds,
        )  # fmt: skip
        return dw, db


def _by_four(g: Geometry) -> bool:
    """Whether the channels of a group come in fours, on both sides of a convolution."""
    return g.x_shape[3] // g.groups % 4 == 0 and g.filters // g.groups % 4 == 0
