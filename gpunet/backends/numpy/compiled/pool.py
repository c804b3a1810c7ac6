"""Max and average pooling in compiled loops: pool.cpp."""

from __future__ import annotations

from functools import lru_cache
from math import prod

import numpy as np

from gpunet.backends.contract import Array
from gpunet.backends.host import memory
from gpunet.backends.numpy.compiled.library import Longs
from gpunet.backends.numpy.compiled.loops import CompiledLoops
from gpunet.backends.numpy.pool import NumpyPool, shares_of
from gpunet.backends.numpy.sums import CHUNK
from gpunet.geometry import Geometry


class CompiledPool(CompiledLoops, NumpyPool):
    """Maxima and means of windows."""

    def max_pool2d_forward(self, x: Array, pool: Geometry) -> tuple[Array, Array]:
        loops = self._loops("pool", x) if pool.mask_dtype == "uint8" else None
        if loops is None:
            return super().max_pool2d_forward(x, pool)
        y, mask = memory.empty(pool.y_shape, x.dtype), memory.empty(pool.y_shape, np.uint8)
        self._spread(loops, "max_pool_forward", *_images(pool), x, y, mask, _windows(pool))
        return y, mask

    def max_pool2d_backward(self, dy: Array, mask: Array, pool: Geometry) -> Array:
        few = _has_short_sums(pool) and mask.dtype == np.uint8 and mask.flags.c_contiguous
        loops = self._loops("pool", dy) if few else None
        if loops is None:
            return super().max_pool2d_backward(dy, mask, pool)
        dx = memory.empty(pool.x_shape, dy.dtype)
        self._spread(loops, "max_pool_backward", *_images(pool), dy, mask, dx, _windows(pool))
        return dx

    def avg_pool2d_forward(self, x: Array, pool: Geometry, count_padding: bool) -> Array:
        loops = self._loops("pool", x) if _has_short_sums(pool) else None
        if loops is None:
            return super().avg_pool2d_forward(x, pool, count_padding)
        y, shares = memory.empty(pool.y_shape, x.dtype), shares_of(pool, count_padding).astype(x.dtype)
        self._spread(loops, "avg_pool_forward", *_images(pool), x, y, shares, _windows(pool))
        return y

    def avg_pool2d_backward(self, dy: Array, pool: Geometry, count_padding: bool) -> Array:
        loops = self._loops("pool", dy) if _has_short_sums(pool) else None
        if loops is None:
            return super().avg_pool2d_backward(dy, pool, count_padding)
        dx, shares = memory.empty(pool.x_shape, dy.dtype), shares_of(pool, count_padding).astype(dy.dtype)
        self._spread(loops, "avg_pool_backward", *_images(pool), dy, dx, shares, _windows(pool))
        return dx


def _images(pool: Geometry) -> tuple[int, int]:
    """(images, elements of each)."""
    return pool.x_shape[0], prod(pool.x_shape[1:])


def _has_short_sums(pool: Geometry) -> bool:
    """Whether so few windows meet in a pixel, and so few pixels in a window, that their sum keeps its digits."""
    return prod(pool.window) <= CHUNK


@lru_cache(maxsize=256)
def _windows(g: Geometry) -> Longs:
    """The geometry as pool.cpp takes it."""
    (_, h, w, c), (_, oh, ow, _), ((top, _), (left, _)) = g.x_shape, g.y_shape, g.padding
    return Longs(h, w, c, oh, ow, *g.window, *g.stride, top, left)
