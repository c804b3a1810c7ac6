"""Images sampled between their pixels in a compiled loop: warp.cpp."""

from __future__ import annotations

import numpy as np

from gpunet.backends.numpy.compiled.library import Longs, check, library
from gpunet.backends.numpy.compiled.loops import DTYPES, why_switched_off

BORDERS = ("zero", "reflect", "edge")
"""What may lie outside an image, in the order of `Border` in warp.cpp."""


def warp(images: np.ndarray, matrices: np.ndarray, size: tuple[int, int], border: str) -> np.ndarray | None:
    """As `gpunet.data.warp.warp`, on the thread that calls; None where NumPy computes.

    It belongs to no backend, so that only the environment variable switches the loop off.

    Args:
        images: (N, H, W, C), C-contiguous uint8, float32 or float64; others are NumPy's.
        border: one of `BORDERS`.
    """
    dtype = DTYPES.get(np.dtype(np.float32) if images.dtype == np.uint8 else images.dtype)
    if dtype is None or why_switched_off() or not images.flags.c_contiguous or not images.size:
        return None
    loops = library("warp", dtype)
    if loops is None:
        return None
    n, h, w, c = images.shape
    y = np.empty((n, *size, c), images.dtype)
    sizes = Longs(h, w, c, *size, BORDERS.index(border), images.dtype == np.uint8)
    places = np.ascontiguousarray(matrices, np.float64)
    loop, arguments = loops.packed("warp", (images, places, y, sizes))
    check(loop.call(0, n, arguments), "warp")
    return y
