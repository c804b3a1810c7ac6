"""Convolutions in compiled loops: conv.cpp."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from gpunet.backends.contract import NEW, Array, Conv, Gate, Grads, Into
from gpunet.backends.host import memory
from gpunet.backends.host.arrays import QUIET, deliver_both
from gpunet.backends.numpy.compiled import winograd
from gpunet.backends.numpy.compiled.activation import CompiledActivation, fused_numbers
from gpunet.backends.numpy.compiled.library import Library, Longs
from gpunet.backends.numpy.compiled.parities import TILE, Parities, parities, tiles_of
from gpunet.backends.numpy.conv.primitives import NumpyConv, images_and_work
from gpunet.backends.numpy.conv.registry import is_depthwise
from gpunet.backends.numpy.gate import open_gate
from gpunet.geometry import Geometry

FILTERS = 64
"""Filters whose weight gradient is taken at a time, as `FILTERS` in products.hpp."""
PARTS = 16
"""Jobs at most of a weight gradient: a part of the rows and `FILTERS` filters each. The gradients of
the parts are then added in their order."""
LEAST_PIXELS = {"conv": 1 << 10, "depthwise": 1 << 8}
"""Pixels of a part at least, by topic."""
MOST_TAPS = 25
"""Taps of a depthwise filter whose gradient is taken in registers; as in depthwise.cpp."""
WIDEST = 1 << 12
"""Pixels of a row of results up to which a weight gradient keeps its digits."""
MOST_WEIGHTS = 1 << 19
"""Weights up to which sums of a weight gradient in float64, of several parts, are faster than BLAS's."""
FEW_PIXELS = 1 << 14
"""Pixels of which sums in the dtype of the images keep their digits."""
MOST_DENSE_WEIGHTS = 1 << 16
"""`MOST_WEIGHTS` of a dense layer."""


class CompiledConv(CompiledActivation, NumpyConv):
    """A convolution, and the gradients of its input and of its weights."""

    def conv2d_forward(
        self, x: Array, w: Array, b: Array | None, conv: Conv, residual: Array | None = None
    ) -> tuple[Array, Array | None]:
        g = conv.geometry
        loops, topic = self._loops_of(g, x, w, b, residual)
        if loops is None:
            return super().conv2d_forward(x, w, b, conv, residual)
        y = memory.empty(conv.y_shape, x.dtype)
        mask = None if conv.pool is None else memory.empty(conv.y_shape, conv.pool.mask_dtype)
        loops, name, w = self._convolving(loops, topic, w, _is_by_tiles(g))
        given = x, w, b, residual, y, mask, _extents(g), None, *fused_numbers(conv.activation)
        self._spread(loops, name, *_pairs_and_work(g), *given)
        return y, mask

    def _convolving(self, loops: Library, topic: str, w: Array, by_tiles: bool) -> tuple[Library, str, Array]:
        """The loop that computes a convolution, with the filters (…, C // groups, O) as it takes them."""
        tiled = self._loops("winograd", w) if by_tiles and w.dtype == np.float32 else None
        if tiled is None:
            return loops, f"{topic}_forward", w
        c, o = w.shape[-2:]
        transformed = memory.empty((winograd.POSITIONS, c, o), w.dtype)
        self._spread(tiled, "winograd_filters", c, 9 * o, w, transformed, c, o)
        return tiled, "winograd_forward", transformed

    def _loops_of(self, g: Geometry, *arrays: Array | None) -> tuple[Library | None, str]:
        """The loops of convolutions of this geometry, if there are any, and their topic."""
        topic = "depthwise" if is_depthwise(g) else "conv"
        return self._loops(topic, *arrays) if topic == "depthwise" or g.groups == 1 else None, topic

    @QUIET
    def conv2d_weight_grad(self, dy: Array, x: Array, conv: Conv, gate: Gate | None = None, into: Into = NEW) -> Grads:
        g, (y, activation, mask) = conv.geometry, gate or Gate(None, None, None)
        fits = g.pixels > 0 and g.y_shape[2] <= WIDEST and (mask is None or _fits_in_bytes(mask))
        by_tiles = x.dtype == np.float32 and _is_by_tiles(g)
        loops, topic = self._loops_of(g, dy, x, y) if fits and (by_tiles or _is_worth(g)) else (None, "")
        if loops is None:
            return super().conv2d_weight_grad(dy, x, conv, gate, into)
        tiled = self._loops("winograd", x) if by_tiles else None
        slabs = 1 if topic == "depthwise" else -(-g.filters // FILTERS)
        whole = _joined(g) if topic == "conv" and _is_dense(g) else g
        most = 1 if prod(g.w_shape) > MOST_WEIGHTS else PARTS // slabs  # each part has its own dw
        parts = max(1, min(whole.x_shape[0] * _pairs(whole), most, g.pixels // LEAST_PIXELS[topic]))
        only = dw = None  # dw in the dtype of the images, or its parts in float64
        if topic == "conv" and g.pixels <= FEW_PIXELS and (parts == 1 or prod(g.w_shape) > MOST_WEIGHTS):
            parts, only = 1, memory.empty(g.w_shape, x.dtype) if into.add else _written(into.weight, g, x.dtype)
        else:
            dw = np.zeros((parts, *g.w_shape))
        db = np.zeros((parts, g.filters)) if into.needs_bias else None
        given = dy, x, y, mask, only, dw, db, whole.x_shape[0], parts, _extents(whole), *fused_numbers(activation)
        images, each = images_and_work(g)
        loops, name = (loops, f"{topic}_weight_grad") if tiled is None else (tiled, "winograd_weight_grad")
        self._spread(loops, name, parts * slabs, images * each // (parts * slabs), *given)
        return deliver_both(only if dw is None else _summed(dw), None if db is None else _summed(db), into, x.dtype)

    def conv2d_input_grad(self, dy: Array, w: Array, conv: Conv, gate: Gate | None = None) -> Array:
        pointwise = conv.geometry.pointwise and (gate is None or gate.mask is None)  # a product of matrices
        dx = None if pointwise else self._convolved_back(dy, w, None, conv, gate)
        return super().conv2d_input_grad(dy, w, conv, gate) if dx is None else dx

    def conv_transpose2d(self, x: Array, w: Array, b: Array | None, conv: Conv) -> Array:
        y = None if conv.geometry.pointwise else self._convolved_back(x, w, b, conv, None)
        return super().conv_transpose2d(x, w, b, conv) if y is None else y

    def _convolved_back(self, dy: Array, w: Array, b: Array | None, conv: Conv, gate: Gate | None) -> Array | None:
        """dx + b, by the convolutions of `parities`; None where there are no loops for them."""
        g = conv.geometry
        loops, topic = self._loops_of(g, dy, w, b, None if gate is None else gate.y)
        found, rotating = parities(g), self._loops("conv", w)
        if loops is None or rotating is None or found is None:
            return None
        opened, dx = self._opened(dy, gate, conv), memory.empty(g.x_shape, dy.dtype)
        filters = self._rotated(rotating, w, found)
        if not found.whole:
            dx[...] = 0 if b is None else b
        for part in found.convolutions:
            by, name, own = self._convolving(loops, topic, filters[part.filters], part.by_tiles)
            given = opened, own, b, None, dx, None, part.extents, part.places, *fused_numbers(None)
            self._spread(by, name, len(dx) * part.pairs, part.each, *given)
        return dx

    def _rotated(self, loops: Library, w: Array, found: Parities) -> Array:
        """The filters of the convolutions that compute an input gradient: (taps, O, C // groups)."""
        channels, filters = w.shape[2:]
        rotated = memory.empty((found.taps, filters, channels), w.dtype)
        parts = found.taps * tiles_of(channels)
        self._spread(loops, "rotate", parts, TILE * filters, w, rotated, found.order, channels, filters)
        return rotated

    def _opened(self, dy: Array, gate: Gate | None, conv: Conv) -> Array:
        """dy behind its gate, (N, OH, OW, O)."""
        if gate is None:
            return dy
        loops = self._loops("conv", dy, gate.y) if gate.mask is None or _fits_in_bytes(gate.mask) else None
        if loops is None:
            return open_gate(dy, gate, conv.pool)
        g = conv.geometry
        opened = memory.empty(g.y_shape, dy.dtype)
        given = dy, gate.y, gate.mask, opened, _extents(g), *fused_numbers(gate.activation)
        self._spread(loops, "conv_open", len(dy) * _pairs(g), 2 * prod(g.y_shape[2:]), *given)
        return opened


@lru_cache(maxsize=1024)
def _is_by_tiles(g: Geometry) -> bool:
    return winograd.is_worth(g.window, {*g.stride, *g.dilation}, g.w_shape[2], g.filters, g.y_shape[:3])


def _pairs(g: Geometry) -> int:
    """Pairs of rows of an image's results: see `Geometry` in band.hpp."""
    return -(-g.y_shape[1] // 2)


def _pairs_and_work(g: Geometry) -> tuple[int, int]:
    """The number of pairs of rows, and of elements of work that each of them is."""
    (images, each), pairs = images_and_work(g), _pairs(g)
    return images * pairs, max(1, each // max(pairs, 1))


def _is_worth(g: Geometry) -> bool:
    """Whether the loops compute a weight gradient faster than BLAS does."""
    if is_depthwise(g):
        return prod(g.window) <= MOST_TAPS
    if g.x_shape[1:3] == (1, 1):
        return _is_dense(g) and prod(g.w_shape) <= MOST_DENSE_WEIGHTS and g.pixels <= WIDEST
    return prod(g.w_shape) <= MOST_WEIGHTS or g.pixels <= FEW_PIXELS


def _is_dense(g: Geometry) -> bool:
    """Whether this is a dense layer: a 1x1 convolution of images of one pixel."""
    return g.pointwise and g.x_shape[1:3] == (1, 1)


@lru_cache(maxsize=256)
def _joined(g: Geometry) -> Geometry:
    """The images of a dense layer as the pixels of one image."""
    return Geometry.conv((1, 1, g.pixels, g.x_shape[3]), g.w_shape)


def _written(out: Array | None, g: Geometry, dtype: Any) -> Array:
    """Where dw is written: in `out` itself, if it is as the loops write it."""
    fits = out is not None and out.dtype == dtype and out.flags.c_contiguous
    return out if fits else memory.empty(g.w_shape, dtype)


def _summed(parts: Array) -> Array:
    """The sum of the gradients of parts."""
    return parts[0] if len(parts) == 1 else parts.sum(axis=0)


def _fits_in_bytes(mask: Array) -> bool:
    return mask.dtype == np.uint8 and mask.flags.c_contiguous


@lru_cache(maxsize=1024)
def _extents(g: Geometry) -> Longs:
    """The geometry as conv.cpp takes it."""
    (_, h, w, c), (_, oh, ow, o), ((top, _), (left, _)) = g.x_shape, g.y_shape, g.padding
    return Longs(h, w, c, o, *g.window, oh, ow, *g.stride, *g.dilation, top, left)
