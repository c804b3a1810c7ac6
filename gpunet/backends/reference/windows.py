"""Sliding windows: seen as views, and added up where they overlap."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from gpunet.backends.contract import Array
from gpunet.geometry import Geometry


def pad_images(x: Array, geometry: Geometry, value: float = 0) -> Array:
    """x (N, H, W, C) with the geometry's padding around it."""
    return np.pad(x, ((0, 0), *geometry.padding, (0, 0)), constant_values=value)


def windows_of(padded: Array, geometry: Geometry) -> Array:
    """View of every window of a padded (N, H, W, C): (N, OH, OW, KH, KW, C)."""
    (sh, sw), (dh, dw) = geometry.stride, geometry.dilation
    every = sliding_window_view(padded, geometry.effective_window, axis=(1, 2))  # (N, …, …, C, pixels of a window)
    return every[:, ::sh, ::sw, :, ::dh, ::dw].transpose(0, 1, 2, 4, 5, 3)


def add_windows(taps: Array, geometry: Geometry) -> Array:
    """Sum of windows (N, OH, OW, C, KH KW) where they overlap in x -> (N, H, W, C)."""
    n, _, _, c = geometry.x_shape
    (sh, sw), (kh, kw), (_, oh, ow, _) = geometry.stride, geometry.window, geometry.y_shape
    padded = np.zeros((n, *geometry.padded_extents, c), np.float64)
    for i in range(kh):
        for j in range(kw):
            row, column = i * geometry.dilation[0], j * geometry.dilation[1]
            under = slice(row, row + sh * (oh - 1) + 1, sh), slice(column, column + sw * (ow - 1) + 1, sw)
            padded[:, *under] += taps[..., i * kw + j]
    return padded[:, *geometry.image].astype(taps.dtype)
