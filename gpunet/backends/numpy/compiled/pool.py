"""Max and average pooling in compiled loops: pool.cpp."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from gpunet.backends.contract import Array
from gpunet.backends.host import memory
from gpunet.backends.numpy.compiled.library import CompiledLoops, Extents, Library
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
        self._pool(loops, "max_pool_forward", pool, x, y, mask)
        return y, mask

    def max_pool2d_backward(self, dy: Array, mask: Array, pool: Geometry) -> Array:
        few = _has_short_sums(pool) and mask.dtype == np.uint8 and mask.flags.c_contiguous
        loops = self._loops("pool", dy) if few else None
        if loops is None:
            return super().max_pool2d_backward(dy, mask, pool)
        dx = memory.empty(pool.x_shape, dy.dtype)
        self._pool(loops, "max_pool_backward", pool, dy, mask, dx, clear=dx)
        return dx

    def avg_pool2d_forward(self, x: Array, pool: Geometry, count_padding: bool) -> Array:
        loops = self._loops("pool", x) if _has_short_sums(pool) else None
        if loops is None:
            return super().avg_pool2d_forward(x, pool, count_padding)
        y = memory.empty(pool.y_shape, x.dtype)
        self._pool(loops, "avg_pool_forward", pool, x, y, shares=shares_of(pool, count_padding))
        return y

    def avg_pool2d_backward(self, dy: Array, pool: Geometry, count_padding: bool) -> Array:
        loops = self._loops("pool", dy) if _has_short_sums(pool) else None
        if loops is None:
            return super().avg_pool2d_backward(dy, pool, count_padding)
        dx = memory.empty(pool.x_shape, dy.dtype)
        shares = shares_of(pool, count_padding)
        self._pool(loops, "avg_pool_backward", pool, dy, dx, clear=dx, shares=shares)
        return dx

    def _pool(
        self, loops: Library, name: str, pool: Geometry, *arrays: Array, clear: Array | None = None,
        shares: Array | None = None,
    ) -> None:  # fmt: skip
        """Call a loop for parts of the images; `clear` is set to 0 before."""
        more: tuple[Any, ...] = () if shares is None else (shares.astype(arrays[0].dtype),)

        def work(i: int, j: int) -> None:
            if clear is not None:
                clear[i:j] = 0
            loops(name, *(a[i:j] for a in arrays), *more, j - i, _windows(pool))

        self._parallel(work, pool.x_shape[0], prod(pool.x_shape[1:]))


def _has_short_sums(pool: Geometry) -> bool:
    """Whether so few windows meet in a pixel, and so few pixels in a window, that their sum keeps its digits."""
    return prod(pool.window) <= CHUNK


@lru_cache(maxsize=256)
def _windows(g: Geometry) -> Extents:
    """The geometry as pool.cpp takes it."""
    (_, h, w, c), (_, oh, ow, _), ((top, _), (left, _)) = g.x_shape, g.y_shape, g.padding
    return Extents(h, w, c, oh, ow, *g.window, *g.stride, top, left)
