"""Pooling by its formulas."""

import numpy as np

from gpunet.backends.contract import Array
from gpunet.backends.host.arrays import HostArrays
from gpunet.backends.reference.windows import add_windows, pad_images, windows_of
from gpunet.geometry import Geometry


class ReferencePool(HostArrays):
    """Maxima and means of windows."""

    def max_pool2d_forward(self, x: Array, pool: Geometry) -> tuple[Array, Array]:
        inside = np.ones(x.shape, bool)
        values = _taps(windows_of(pad_images(x, pool, -np.inf), pool))  # (N, OH, OW, C, KH KW)
        valid = _taps(windows_of(pad_images(inside, pool, False), pool))
        winner = values.argmax(axis=-1)  # the first of equals, NaN before all
        lost = ~np.take_along_axis(valid, winner[..., None], axis=-1)[..., 0]  # padding ties with a window of -inf
        winner = np.where(lost, valid.argmax(axis=-1), winner)
        y = np.take_along_axis(values, winner[..., None], axis=-1)[..., 0]
        return y, winner.astype(pool.mask_dtype)

    def max_pool2d_backward(self, dy: Array, mask: Array, pool: Geometry) -> Array:
        positions = np.arange(pool.window[0] * pool.window[1])
        return add_windows(np.where(mask[..., None] == positions, dy[..., None], 0), pool)

    def avg_pool2d_forward(self, x: Array, pool: Geometry, count_padding: bool) -> Array:
        sums = windows_of(pad_images(x, pool), pool).sum(axis=(3, 4), dtype=np.float64)
        return (sums / _counts(pool, count_padding)).astype(x.dtype)

    def avg_pool2d_backward(self, dy: Array, pool: Geometry, count_padding: bool) -> Array:
        share = (dy / _counts(pool, count_padding)).astype(dy.dtype)
        return add_windows(np.repeat(share[..., None], pool.window[0] * pool.window[1], axis=-1), pool)


def _taps(windows: Array) -> Array:
    """(N, OH, OW, KH, KW, C) -> (N, OH, OW, C, KH KW)."""
    n, oh, ow, kh, kw, c = windows.shape
    return windows.transpose(0, 1, 2, 5, 3, 4).reshape(n, oh, ow, c, kh * kw)


def _counts(pool: Geometry, count_padding: bool) -> Array:
    """What each window's sum is divided by: (OH, OW, 1)."""
    (top, bottom), (left, right) = pool.counted_padding
    inside = np.ones((1, *pool.x_shape[1:3], 1))
    counted = np.pad(inside, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=count_padding)
    counted = np.pad(counted, ((0, 0), (0, pool.beyond[0]), (0, pool.beyond[1]), (0, 0)))
    return windows_of(counted, pool).sum(axis=(0, 3, 4))
