"""Pooling of `NumpyBackend`: one pass over whole images for each tap of the window."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from math import prod

import numpy as np

from gpunet.backends.contract import Array
from gpunet.backends.host import memory
from gpunet.backends.numpy.output_activation import keep_where
from gpunet.backends.numpy.resample import resample
from gpunet.backends.numpy.sums import CHUNK
from gpunet.backends.numpy.threads import NumpyThreads
from gpunet.geometry import Geometry
from gpunet.resampling import Taps, table

POOLED_ELEMENTS = 1 << 17
"""Elements of x that are pooled at a time: intermediate results stay in a second-level cache."""


class NumpyPool(NumpyThreads):
    """Maxima and means of windows."""

    def max_pool2d_forward(self, x: Array, pool: Geometry) -> tuple[Array, Array]:
        y = memory.empty(pool.y_shape, x.dtype)
        mask = memory.empty(pool.y_shape, pool.mask_dtype)
        self._over_images(lambda i, j: max_pool_forward(x[i:j], y[i:j], mask[i:j], pool), pool)
        return y, mask

    def max_pool2d_backward(self, dy: Array, mask: Array, pool: Geometry) -> Array:
        dx = memory.empty(pool.x_shape, dy.dtype)
        self._over_images(lambda i, j: max_pool_backward(dy[i:j], mask[i:j], dx[i:j], pool), pool)
        return dx

    def avg_pool2d_forward(self, x: Array, pool: Geometry, count_padding: bool) -> Array:
        y = memory.empty(pool.y_shape, x.dtype)
        self._over_images(lambda i, j: avg_pool_forward(x[i:j], y[i:j], pool, count_padding), pool)
        return y

    def avg_pool2d_backward(self, dy: Array, pool: Geometry, count_padding: bool) -> Array:
        dx = memory.empty(pool.x_shape, dy.dtype)
        self._over_images(lambda i, j: avg_pool_backward(dy[i:j], dx[i:j], pool, count_padding), pool)
        return dx

    def _over_images(self, work: Callable[[int, int], None], pool: Geometry) -> None:
        """work(i, j) for parts of the images on all threads; each element of x is one of work."""
        self._parallel(work, pool.x_shape[0], prod(pool.x_shape[1:]))


def max_pool_forward(x: Array, y: Array, mask: Array, g: Geometry) -> None:
    """Write y and mask (n, OH, OW, C) of images x (n, H, W, C): see `max_pool2d_forward`."""
    if _has_few_channels(x) and g.window == (2, 2) and g.stride == (2, 2) and not g.padded:
        images = max(1, POOLED_ELEMENTS // x[0].size)
        for i in range(0, len(x), images):
            _max_forward_2x2(x[i : i + images], y[i : i + images], mask[i : i + images], g)
        if not np.isnan(y.min()):
            return
    y[...] = -np.inf
    mask[...] = _first_inside(g)  # padding equals a window of -inf, and must not win
    has_nan = np.isnan(x.max())  # NaN counts as the larger of any two, which a comparison does not say
    for position, outside, inside in _taps(g):
        tap, best, winner = x[inside], y[outside], mask[outside]
        better = tap > best
        if has_nan:
            better |= np.isnan(tap) & ~np.isnan(best)
        np.maximum(best, tap, out=best)
        # Positions grow, so that the last tap that was better has the largest
        np.maximum(winner, np.multiply(better.view(np.uint8), position, dtype=winner.dtype), out=winner)


def max_pool_backward(dy: Array, mask: Array, dx: Array, g: Geometry) -> None:
    """Write dx (n, H, W, C): the sums of dy (n, OH, OW, C) at the winners, 0 elsewhere."""
    dx[...] = 0
    apart = all(s >= f for s, f in zip(g.stride, g.window, strict=True))  # each pixel lies in at most one window
    if apart and _has_few_channels(dx):
        origins, offsets = _winners(g)
        where = offsets[mask.reshape(len(dy), -1)]
        where += origins
        where += (np.arange(len(dy)) * dx[0].size)[:, None]
        dx.reshape(-1)[where.reshape(-1)] = dy.reshape(-1)
        return
    if not apart and _has_long_sums(g) and dx.dtype == np.float32:  # a pixel may win in many windows
        wide = np.empty(dx.shape, np.float64)
        max_pool_backward(dy.astype(np.float64), mask, wide, g)
        dx[...] = wide
        return
    for position, outside, inside in _taps(g):
        won = mask[outside] == position
        if apart:
            keep_where(dy[outside], won, out=dx[inside])
        else:
            dx[inside] += keep_where(dy[outside], won)


def avg_pool_forward(x: Array, y: Array, g: Geometry, count_padding: bool) -> None:
    """Write y (n, OH, OW, C), the means of the windows of x."""
    if _has_long_sums(g):
        resample(x, y, *_sums(g))
    else:
        y[...] = 0
        for _, outside, inside in _taps(g):
            y[outside] += x[inside]
    y *= shares_of(g, count_padding).astype(y.dtype)


def avg_pool_backward(dy: Array, dx: Array, g: Geometry, count_padding: bool) -> None:
    """Write dx (n, H, W, C): the sum of the shares of dy of the windows of each pixel."""
    dx[...] = 0
    share = dy * shares_of(g, count_padding).astype(dy.dtype)
    if _has_long_sums(g):
        rows, columns = _sums(g)
        resample(share, dx, rows.transposed, columns.transposed)
        return
    for _, outside, inside in _taps(g):
        dx[inside] += share[outside]


def _has_long_sums(g: Geometry) -> bool:
    """Whether a window has more taps than may be added one after another."""
    return g.window[0] * g.window[1] > CHUNK


def _has_few_channels(x: Array) -> bool:
    """Whether loops along x's channels would be short."""
    return x.shape[3] < 16 and x.flags.c_contiguous


def _max_forward_2x2(x: Array, y: Array, mask: Array, g: Geometry) -> None:
    """Max pool of 2x2 windows side by side, for few channels: halves the rows, then the columns.

    NumPy is slow along few channels. So the columns are compared as flat arrays, each element with
    the one C further on, and every second pixel of the result is kept.
    """
    _, oh, ow, c = g.y_shape
    upper, lower = x[:, 0 : 2 * oh : 2, : 2 * ow], x[:, 1 : 2 * oh : 2, : 2 * ow]
    tall = np.maximum(upper, lower).reshape(-1)
    low = (lower > upper).view(np.uint8).reshape(-1)
    left, right, low_left, low_right = tall[:-c], tall[c:], low[:-c], low[c:]
    # The positions are 0 1 / 2 3. Among equals the upper right one wins over the lower left one
    won = (right > left).view(np.uint8)
    won |= (right == left).view(np.uint8) & (low_left > low_right).view(np.uint8)
    position = np.zeros(low.shape, np.uint8)
    position[:-c] = low_left ^ (won & (low_left ^ low_right))  # low_right if won, else low_left, without a branch
    position += position
    position[:-c] += won
    np.maximum(left, right, out=left)
    _keep_even_pixels(tall, y)
    _keep_even_pixels(position, mask)


def _keep_even_pixels(flat: Array, out: Array) -> None:
    """Copy pixels 0, 2, 4, … of flat (2 P C,) to out, of P C elements, a whole pixel at a time."""
    pixel = np.dtype((np.void, out.shape[-1] * out.itemsize))
    np.copyto(out.reshape(-1).view(pixel), flat.view(pixel)[::2])


def _taps(g: Geometry) -> Iterator[tuple[int, tuple[slice, ...], tuple[slice, ...]]]:
    """For each tap, its position, and the slices of y and x where it lies in the image."""
    for i in range(g.window[0]):
        rows = _meeting(i, g.x_shape[1], g.y_shape[1], g.stride[0], g.padding[0][0])
        for j in range(g.window[1]):
            columns = _meeting(j, g.x_shape[2], g.y_shape[2], g.stride[1], g.padding[1][0])
            if rows and columns:
                every = slice(None)
                yield i * g.window[1] + j, (every, rows[0], columns[0]), (every, rows[1], columns[1])


def _meeting(tap: int, n: int, out: int, stride: int, before: int) -> tuple[slice, slice] | None:
    """The outputs p with 0 <= p stride + tap - before < n, and these pixels; or None."""
    first = max(0, -(-(before - tap) // stride))
    last = min(out - 1, (n - 1 + before - tap) // stride)
    if last < first:
        return None
    pixel = first * stride + tap - before
    return slice(first, last + 1), slice(pixel, pixel + (last - first) * stride + 1, stride)


@lru_cache(maxsize=64)
def _first_inside(g: Geometry) -> Array:
    """The first position of each window that is not padding, (OH, OW, 1)."""
    first = np.full((*g.y_shape[1:3], 1), -1)
    for position, outside, _ in _taps(g):
        view = first[outside[1:]]
        view[view < 0] = position
    return first


@lru_cache(maxsize=64)
def shares_of(g: Geometry, count_padding: bool) -> Array:
    """One over what each window's sum is divided by, (OH, OW, 1)."""
    rows, columns = (last - first for first, last in _spans(g, count_padding))
    return 1 / np.multiply.outer(rows, columns)[..., None]


@lru_cache(maxsize=64)
def _sums(g: Geometry) -> tuple[Taps, Taps]:
    """The tables, of rows and of columns, that add up the pixels of each window."""
    spans = _spans(g, count_padding=False)
    rows, columns = (
        table(n, ([(i, 1) for i in range(*span)] for span in zip(first.tolist(), last.tolist(), strict=True)))
        for n, (first, last) in zip(g.x_shape[1:3], spans, strict=True)
    )
    return rows, columns


def _spans(g: Geometry, count_padding: bool) -> list[tuple[Array, Array]]:
    """For each axis, every window's first pixel and the one behind its last, perhaps in padding."""
    spans = []
    for axis, (before, after) in enumerate(g.counted_padding if count_padding else ((0, 0), (0, 0))):
        start = np.arange(g.y_shape[1 + axis]) * g.stride[axis] - g.padding[axis][0]
        end = np.minimum(start + g.window[axis], g.x_shape[1 + axis] + after)
        spans.append((np.maximum(start, -before), end))
    return spans


@lru_cache(maxsize=64)
def _winners(g: Geometry) -> tuple[Array, Array]:
    """Flat index of each window's first tap, (1, OH OW C), and of each tap from it, (KH KW,)."""
    _, _, w, c = g.x_shape
    _, oh, ow, _ = g.y_shape
    rows = np.arange(oh) * g.stride[0] - g.padding[0][0]
    columns = np.arange(ow) * g.stride[1] - g.padding[1][0]
    origins = (rows[:, None, None] * w + columns[None, :, None]) * c + np.arange(c)
    taps = np.arange(g.window[0])[:, None] * w + np.arange(g.window[1])
    return origins.reshape(1, -1), taps.reshape(-1) * c
