"""Pooling of `NumpyBackend`: a pass over whole images for each tap of the window, on strided views."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator
from functools import lru_cache
from math import prod

import numpy as np

from gpunet.backends.contract.arrays import Array
from gpunet.backends.host import memory
from gpunet.backends.numpy.resample import resample
from gpunet.backends.numpy.sums import CHUNK
from gpunet.backends.numpy.threads import NumpyThreads
from gpunet.geometry import Geometry
from gpunet.resampling import Taps, table

BLOCK = 1 << 17
"""Elements of x whose intermediate results stay in a second-level cache."""


class NumpyPool(NumpyThreads, ABC):
    """Maxima and means of windows."""

    def max_pool2d_forward(self, x: Array, *, geometry: Geometry) -> tuple[Array, Array]:
        y = memory.empty(geometry.y_shape, x.dtype)
        mask = memory.empty(geometry.y_shape, geometry.mask_dtype)

        def work(start: int, stop: int) -> None:
            max_pool_forward(x[start:stop], y[start:stop], mask[start:stop], geometry)

        self._parallel(work, len(x), prod(x.shape[1:]))
        return y, mask

    def max_pool2d_backward(self, dy: Array, mask: Array, *, geometry: Geometry) -> Array:
        dx = memory.empty(geometry.x_shape, dy.dtype)

        def work(start: int, stop: int) -> None:
            dx[start:stop] = 0
            max_pool_backward(dy[start:stop], mask[start:stop], dx[start:stop], geometry)

        self._parallel(work, len(dy), prod(dx.shape[1:]))
        return dx

    def avg_pool2d_forward(self, x: Array, *, geometry: Geometry, count_padding: bool) -> Array:
        y = memory.empty(geometry.y_shape, x.dtype)

        def work(start: int, stop: int) -> None:
            avg_pool_forward(x[start:stop], y[start:stop], geometry, count_padding)

        self._parallel(work, len(x), prod(x.shape[1:]))
        return y

    def avg_pool2d_backward(self, dy: Array, *, geometry: Geometry, count_padding: bool) -> Array:
        dx = memory.empty(geometry.x_shape, dy.dtype)

        def work(start: int, stop: int) -> None:
            dx[start:stop] = 0
            avg_pool_backward(dy[start:stop], dx[start:stop], geometry, count_padding)

        self._parallel(work, len(dy), prod(dx.shape[1:]))
        return dx


def max_pool_forward(x: Array, y: Array, mask: Array, g: Geometry) -> None:
    """Write y and mask (n, OH, OW, C) of images x (n, H, W, C)."""
    if _narrow(x) and g.window == (2, 2) and g.stride == (2, 2) and not g.padded:
        images = max(1, BLOCK // x[0].size)
        for i in range(0, len(x), images):
            _max_forward_2x2(x[i : i + images], y[i : i + images], mask[i : i + images], g)
        if not np.isnan(y.min()):
            return
    y[...] = -np.inf
    mask[...] = _first_inside(g)  # padding ties with -inf, and must not win
    hidden = np.isnan(x.max())  # NaN is the larger of any two, but not by a comparison
    for position, _, outside, inside in _taps(g):
        tap, best, winner = x[inside], y[outside], mask[outside]
        better = tap > best
        if hidden:
            better |= np.isnan(tap) & ~np.isnan(best)
        np.maximum(best, tap, out=best)
        # positions grow, so that the largest that was better is the last
        np.maximum(winner, np.multiply(better.view(np.uint8), position, dtype=winner.dtype), out=winner)


def max_pool_backward(dy: Array, mask: Array, dx: Array, g: Geometry) -> None:
    """Add dy (n, OH, OW, C) to zeros dx (n, H, W, C) at the winners."""
    apart = all(s >= f for s, f in zip(g.stride, g.window, strict=True))  # each pixel is in one window at most
    if apart and _narrow(dx):
        origins, offsets = _winners(g)
        where = offsets[mask.reshape(len(dy), -1)]
        where += origins
        where += (np.arange(len(dy)) * dx[0].size)[:, None]
        dx.reshape(-1)[where.reshape(-1)] = dy.reshape(-1)
        return
    if not apart and _long(g) and dx.dtype == np.float32:  # a pixel may win in many windows
        wide = np.zeros(dx.shape, np.float64)
        max_pool_backward(dy.astype(np.float64), mask, wide, g)
        dx[...] = wide
        return
    bits = np.dtype(f"i{dy.dtype.itemsize}")  # as integers, for 0 times NaN is NaN
    for position, _, outside, inside in _taps(g):
        won = mask[outside] == position
        if apart:
            np.multiply(dy[outside].view(bits), won, out=dx[inside].view(bits))
        else:
            dx[inside] += np.multiply(dy[outside].view(bits), won).view(dy.dtype)


def avg_pool_forward(x: Array, y: Array, g: Geometry, count_padding: bool) -> None:
    """Write y (n, OH, OW, C)."""
    if _long(g):
        resample(x, y, *_sums(g))
    else:
        y[...] = 0
        for _, _, outside, inside in _taps(g):
            y[outside] += x[inside]
    y *= _shares(g, count_padding).astype(y.dtype)


def avg_pool_backward(dy: Array, dx: Array, g: Geometry, count_padding: bool) -> None:
    """Add the windows' shares of dy to zeros dx (n, H, W, C)."""
    share = dy * _shares(g, count_padding).astype(dy.dtype)
    if _long(g):
        rows, columns = _sums(g)
        resample(share, dx, rows.transposed, columns.transposed)
        return
    for _, _, outside, inside in _taps(g):
        dx[inside] += share[outside]


def _long(g: Geometry) -> bool:
    """Whether a window has more taps than may be added one after another."""
    return g.window[0] * g.window[1] > CHUNK


def _narrow(x: Array) -> bool:
    """Whether the loops along x's channels are short."""
    return x.shape[3] < 16 and x.flags.c_contiguous


def _max_forward_2x2(x: Array, y: Array, mask: Array, g: Geometry) -> None:
    """Halve the rows, then the columns. NumPy is slow along few channels, so the columns are compared as flat arrays, each
    element with the one C further on, and every second pixel of the result is kept."""
    _, oh, ow, c = g.y_shape
    upper, lower = x[:, 0 : 2 * oh : 2, : 2 * ow], x[:, 1 : 2 * oh : 2, : 2 * ow]
    tall = np.maximum(upper, lower).reshape(-1)
    low = (lower > upper).view(np.uint8).reshape(-1)
    left, right, low_left, low_right = tall[:-c], tall[c:], low[:-c], low[c:]
    # positions 0 1 / 2 3; among equals the first: an upper right one before a lower left one
    won = (right > left).view(np.uint8)
    won |= (right == left).view(np.uint8) & (low_left > low_right).view(np.uint8)
    position = np.zeros(low.shape, np.uint8)
    position[:-c] = low_left ^ (won & (low_left ^ low_right))  # low_right if won, else low_left, free of branches
    position += position
    position[:-c] += won
    np.maximum(left, right, out=left)
    _keep_even_pixels(tall, y)
    _keep_even_pixels(position, mask)


def _keep_even_pixels(flat: Array, out: Array) -> None:
    """Pixels 0, 2, 4… of flat (2 P C,) to out (P C elements), copied a whole pixel at a time."""
    pixel = np.dtype((np.void, out.shape[-1] * out.itemsize))
    np.copyto(out.reshape(-1).view(pixel), flat.view(pixel)[::2])


def _taps(g: Geometry) -> Iterator[tuple[int, tuple[int, int], tuple[slice, ...], tuple[slice, ...]]]:
    """For each tap of the window: its position, (i, j), and the slices of y and of x where it meets the image."""
    for i in range(g.window[0]):
        rows = _meeting(i, g.x_shape[1], g.y_shape[1], g.stride[0], g.padding[0][0])
        for j in range(g.window[1]):
            columns = _meeting(j, g.x_shape[2], g.y_shape[2], g.stride[1], g.padding[1][0])
            if rows and columns:
                every = slice(None)
                yield i * g.window[1] + j, (i, j), (every, rows[0], columns[0]), (every, rows[1], columns[1])


def _meeting(tap: int, n: int, out: int, stride: int, before: int) -> tuple[slice, slice] | None:
    """Outputs p with 0 <= p stride + tap - before < n, and those pixels."""
    first = max(0, -(-(before - tap) // stride))
    last = min(out - 1, (n - 1 + before - tap) // stride)
    if last < first:
        return None
    pixel = first * stride + tap - before
    return slice(first, last + 1), slice(pixel, pixel + (last - first) * stride + 1, stride)


@lru_cache(maxsize=64)
def _first_inside(g: Geometry) -> Array:
    """(OH, OW, 1): the first position of each window that is not padding."""
    first = np.full((*g.y_shape[1:3], 1), -1)
    for position, _, outside, _ in _taps(g):
        view = first[outside[1:]]
        view[view < 0] = position
    return first


@lru_cache(maxsize=64)
def _shares(g: Geometry, count_padding: bool) -> Array:
    """(OH, OW, 1): one over what each window's sum is divided by."""
    rows, columns = (last - first for first, last in _spans(g, count_padding))
    return 1 / np.multiply.outer(rows, columns)[..., None]


@lru_cache(maxsize=64)
def _sums(g: Geometry) -> tuple[Taps, Taps]:
    """The tables that add up the pixels under each window: of the rows and of the columns."""
    spans = _spans(g, count_padding=False)
    rows, columns = (
        table(n, ([(i, 1) for i in range(*span)] for span in zip(first.tolist(), last.tolist(), strict=True)))
        for n, (first, last) in zip(g.x_shape[1:3], spans, strict=True)
    )
    return rows, columns


def _spans(g: Geometry, count_padding: bool) -> list[tuple[Array, Array]]:
    """Of each axis, the windows' first pixels and the ones past their last, those in the padding left out or counted."""
    spans = []
    for axis, (before, after) in enumerate(g.counted_padding if count_padding else ((0, 0), (0, 0))):
        start = np.arange(g.y_shape[1 + axis]) * g.stride[axis] - g.padding[axis][0]
        end = np.minimum(start + g.window[axis], g.x_shape[1 + axis] + after)
        spans.append((np.maximum(start, -before), end))
    return spans


@lru_cache(maxsize=64)
def _winners(g: Geometry) -> tuple[Array, Array]:
    """(origins (1, OH OW C), offsets (KH KW,)): flat index in an image of each window's first tap, and of the taps from it."""
    _, _, w, c = g.x_shape
    _, oh, ow, _ = g.y_shape
    rows = np.arange(oh) * g.stride[0] - g.padding[0][0]
    columns = np.arange(ow) * g.stride[1] - g.padding[1][0]
    origins = (rows[:, None, None] * w + columns[None, :, None]) * c + np.arange(c)
    taps = np.arange(g.window[0])[:, None] * w + np.arange(g.window[1])
    return origins.reshape(1, -1), taps.reshape(-1) * c
