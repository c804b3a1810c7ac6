"""Sliding windows: seen as views, and added up where they overlap."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpunet.backends.contract.arrays import Array
from gpunet.geometry import Geometry


def pad_images(x: Array, geometry: Geometry, value: float = 0) -> Array:
    """x (N, H, W, C) with the geometry's padding around it."""
    return np.pad(x, ((0, 0), *geometry.padding, (0, 0)), constant_values=value)


def windows_of(padded: Array, geometry: Geometry) -> Array:
    """View of every window of a padded (N, H, W, C): (N, OH, OW, KH, KW, C)."""
    return view_windows(padded, geometry.y_shape[1:3], geometry.window, geometry.stride, geometry.dilation)


def view_windows(
    padded: Array, sizes: tuple[int, int], window: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> Array:
    """View of windows of so many pixels, their taps `dilation` apart: (N, OH, OW, KH, KW, C)."""
    n, h, w, c = padded.strides
    shape = (padded.shape[0], *sizes, *window, padded.shape[3])
    strides = (n, h * stride[0], w * stride[1], h * dilation[0], w * dilation[1], c)
    return as_strided(padded, shape, strides, writeable=False)


def add_windows(taps: Array, geometry: Geometry) -> Array:
    """Sum of windows (N, OH, OW, C, KH KW) where they overlap in x -> (N, H, W, C)."""
    n, h, w, c = geometry.x_shape
    (top, bottom), (left, right) = geometry.padding
    (sh, sw), (kh, kw), (_, oh, ow, _) = geometry.stride, geometry.window, geometry.y_shape
    padded = np.zeros((n, top + h + bottom, left + w + right, c), np.float64)
    for i in range(kh):
        for j in range(kw):
            row, column = i * geometry.dilation[0], j * geometry.dilation[1]
            reached = slice(row, row + sh * (oh - 1) + 1, sh), slice(column, column + sw * (ow - 1) + 1, sw)
            padded[:, *reached] += taps[..., i * kw + j]
    return padded[:, top : top + h, left : left + w].astype(taps.dtype)
