"""Convolutions in compiled loops: conv.cpp."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from math import prod
from typing import Any

import numpy as np

from gpunet.backends.contract import NEW, Activation, Array, Conv, Gate, Grads, Into
from gpunet.backends.host import memory
from gpunet.backends.host.arrays import QUIET, deliver_both
from gpunet.backends.numpy.compiled.activation import CompiledActivation, kind_and_numbers
from gpunet.backends.numpy.compiled.library import Extents, Library
from gpunet.backends.numpy.conv.algorithm import ConvAlgorithm
from gpunet.backends.numpy.conv.columns import Columns
from gpunet.backends.numpy.conv.depthwise import Depthwise
from gpunet.backends.numpy.conv.primitives import FEW_PRODUCTS, NumpyConv
from gpunet.backends.numpy.conv.registry import is_depthwise
from gpunet.backends.numpy.conv.subpixel import subpixel_geometry
from gpunet.backends.numpy.threads import PRODUCTS
from gpunet.geometry import Geometry

SLAB = 64
"""Filters whose weight gradient is taken at a time."""
PARTS = 16
"""Slabs and parts of the images at most whose weight gradients are taken by themselves; those of the
parts are then added in their order."""
LEAST_PIXELS = 1 << 10
"""Pixels of a part at least."""
MOST_TAPS = 25
"""Taps of a depthwise filter whose gradient is taken in registers; as in depthwise.cpp."""
WIDEST = 1 << 12
"""Pixels of a row of results up to which a weight gradient keeps its digits."""
MOST_WEIGHTS = 1 << 19
"""Weights up to which a weight gradient is faster than by BLAS: with more, their sums leave the cache."""


class Direct(Columns):
    """A convolution without a matrix of windows; strided input gradients that `subpixel` does not
    take are those of `Columns`."""

    def __init__(self, loops: Library, conv: Conv, dtype: Any):
        super().__init__(conv, dtype)
        self._forward = partial(loops, "conv_forward")

    def blocks(self, start: int, stop: int) -> list[tuple[int, int]]:
        """All images at once: the loops take them in blocks."""
        return [(start, stop)]

    def forward(
        self, x: Array, w: Array, b: Array | None, y: Array, mask: Array | None, residual: Array | None = None
    ) -> None:
        numbers = _fused(self.conv.activation)
        self._forward(x, w, b, residual, y, mask, len(x), _extents(self.geometry), *numbers)


class DirectDepthwise(Depthwise):
    """A convolution with one filter for each channel."""

    def __init__(self, loops: Library, open_gate: Callable[..., Array], conv: Conv, dtype: Any):
        super().__init__(conv, dtype)
        self._loops, self._open_gate = loops, open_gate

    def blocks(self, start: int, stop: int) -> list[tuple[int, int]]:
        """All images at once: the loops take them in blocks."""
        return [(start, stop)]

    def forward(
        self, x: Array, w: Array, b: Array | None, y: Array, mask: Array | None, residual: Array | None = None
    ) -> None:
        given = x, w, b, residual, y, mask, len(x), _extents(self.geometry)
        self._loops("depthwise_forward", *given, *_fused(self.conv.activation))

    def input_grad(self, dy: Array, w: Array, gate: Gate | None, dx: Array) -> None:
        """Write dx (n, H, W, C)."""
        dy = self._open_gate(dy, gate, self.conv)
        self._loops("depthwise_input_grad", dy, w, dx, len(dx), _extents(self.geometry))


class CompiledConv(CompiledActivation, NumpyConv):
    """A convolution, and the gradients of its input and of its weights."""

    def _chosen(self, geometry: Geometry, *arrays: Array | None) -> Callable[[Conv, Any], ConvAlgorithm]:
        if is_depthwise(geometry) and (loops := self._loops("depthwise", *arrays)):
            return partial(DirectDepthwise, loops, self._opened)
        if geometry.groups == 1 and (loops := self._loops("conv", *arrays)):
            return partial(Direct, loops)
        return super()._chosen(geometry, *arrays)

    def _chosen_input_grad(
        self, geometry: Geometry, *arrays: Array | None
    ) -> tuple[Callable[[Conv, Any], ConvAlgorithm], Geometry | None]:
        if is_depthwise(geometry) and (loops := self._loops("depthwise", *arrays)):
            return partial(DirectDepthwise, loops, self._opened), None
        if geometry.groups == 1 and self._loops("conv", *arrays):
            return Columns, subpixel_geometry(geometry)
        return super()._chosen_input_grad(geometry, *arrays)

    @QUIET
    def conv2d_weight_grad(self, dy: Array, x: Array, conv: Conv, gate: Gate | None = None, into: Into = NEW) -> Grads:
        g, (y, activation, mask) = conv.geometry, gate or Gate(None, None, None)
        depthwise = is_depthwise(g) and prod(g.window) <= MOST_TAPS
        dense = g.x_shape[1:3] == (1, 1)
        worth = depthwise or (g.groups == 1 and not dense and g.multiply_adds <= g.pixels * MOST_WEIGHTS)
        worth = worth and g.pixels > 0 and g.y_shape[2] <= WIDEST and (mask is None or _fits_in_bytes(mask))
        loops = self._loops("depthwise" if depthwise else "conv", dy, x, y) if worth else None
        if loops is None:
            return super().conv2d_weight_grad(dy, x, conv, gate, into)
        if depthwise:
            return self._depthwise_weight_grad(loops, dy, x, conv, gate or Gate(None, None), into)
        taps, slabs = g.window[0] * g.window[1] * g.x_shape[3], range(0, g.filters, SLAB)
        parts = max(1, min(len(x), PARTS // len(slabs), g.pixels // LEAST_PIXELS))
        bounds = [len(x) * i // parts for i in range(parts + 1)]
        dw = [np.zeros((parts, taps, min(SLAB, g.filters - first))) for first in slabs]
        db = [np.zeros((parts, a.shape[2])) if into.needs_bias else None for a in dw]
        name, numbers = "conv_weight_grad", _fused(activation)

        def work(begin: int, end: int) -> None:
            for k in range(begin, end):
                slab, part = divmod(k, parts)
                i, j = bounds[part : part + 2]
                given = (None if a is None else a[i:j] for a in (dy, x, y, mask))
                of_bias = db[slab]
                sums = dw[slab][part], None if of_bias is None else of_bias[part]
                loops(name, *given, *sums, j - i, _extents(g), slabs[slab], dw[slab].shape[2], *numbers)

        count = parts * len(slabs)
        self._parallel(work, count, g.multiply_adds // count // PRODUCTS)
        whole_dw = np.concatenate([a.sum(axis=0) for a in dw], axis=1).reshape(g.w_shape)
        whole_db = np.concatenate([a.sum(axis=0) for a in db if a is not None]) if into.needs_bias else None
        return deliver_both(whole_dw, whole_db, into, x.dtype)

    def _depthwise_weight_grad(self, loops: Library, dy: Array, x: Array, conv: Conv, gate: Gate, into: Into) -> Grads:
        g, parts = conv.geometry, min(len(x), PARTS)
        bounds = [len(x) * i // parts for i in range(parts + 1)]
        dw = np.zeros((parts, *g.w_shape))
        db = np.zeros((parts, g.filters)) if into.needs_bias else None
        name, numbers = "depthwise_weight_grad", _fused(gate.activation)

        def work(begin: int, end: int) -> None:
            for part in range(begin, end):
                i, j = bounds[part : part + 2]
                given = (None if a is None else a[i:j] for a in (dy, x, gate.y, gate.mask))
                loops(name, *given, dw[part], None if db is None else db[part], j - i, _extents(g), *numbers)

        self._parallel(work, parts, g.multiply_adds // parts // FEW_PRODUCTS)
        return deliver_both(dw.sum(axis=0), None if db is None else db.sum(axis=0), into, x.dtype)

    def conv2d_input_grad(self, dy: Array, w: Array, conv: Conv, gate: Gate | None = None) -> Array:
        if gate is not None and conv.geometry.pointwise and gate.mask is None and gate.activation is not None:
            dy, gate = self.activation_backward(dy, gate.y, gate.activation), None
        return super().conv2d_input_grad(dy, w, conv, gate)

    def _rotated(self, w: Array, g: Geometry) -> Array:
        loops = self._loops("conv", w) if g.groups == 1 and g.stride == (1, 1) else None
        if loops is None:
            return super()._rotated(w, g)
        (kh, kw), channels, filters = g.window, g.x_shape[3], g.filters
        rotated, taps = memory.empty((kh, kw, filters, channels), w.dtype), kh * kw
        flat = w.reshape(taps, -1), rotated.reshape(taps, -1)
        self._parallel(
            lambda i, j: loops("rotate", flat[0][i:j], flat[1][taps - j : taps - i], j - i, channels, filters),
            taps, channels * filters,
        )  # fmt: skip
        return rotated

    def _opened(self, dy: Array, gate: Gate | None, conv: Conv) -> Array:
        fits = gate is not None and (gate.mask is None or _fits_in_bytes(gate.mask))
        loops = self._loops("conv", dy, gate.y) if fits and gate is not None else None
        if gate is None or loops is None:
            return super()._opened(dy, gate, conv)
        opened = memory.empty((len(dy), *conv.geometry.y_shape[1:]), dy.dtype)
        given = dy, gate.y, gate.mask, opened, len(dy)
        loops("conv_open", *given, _extents(conv.geometry), *_fused(gate.activation))
        return opened


def _fits_in_bytes(mask: Array) -> bool:
    return mask.dtype == np.uint8 and mask.flags.c_contiguous


def _fused(activation: Activation | None) -> tuple[float, ...]:
    """An activation as conv.cpp takes it: -1 for none."""
    return (-1, 0.0, 0.0, 0.0, 0.0) if activation is None else kind_and_numbers(activation)


@lru_cache(maxsize=1024)
def _extents(g: Geometry) -> Extents:
    """The geometry as conv.cpp takes it."""
    (_, h, w, c), (_, oh, ow, o), ((top, _), (left, _)) = g.x_shape, g.y_shape, g.padding
    return Extents(h, w, c, o, *g.window, oh, ow, *g.stride, *g.dilation, top, left)
