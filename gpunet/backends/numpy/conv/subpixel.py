"""Input gradients as convolutions of dy with the rotated filters ("sub-pixel convolution", Shi et
al. 2016)."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from gpunet.backends.contract import Array
from gpunet.backends.host import memory
from gpunet.backends.numpy.conv.algorithm import ConvAlgorithm
from gpunet.geometry import Geometry, Pair

MOST_BORDER_WORK = 1.25
"""A strided input gradient may be this many times the work of adding up taps, since it is about as
many times faster, as measured; it is more work because of the blocks at an image's borders."""
FEWEST_CHANNELS = 16
"""Channels from which on the pixels of a block are long enough copies."""


def rotate(w: Array, groups: int, stride: Pair = (1, 1)) -> Array:
    """The filters of the convolution by which `subpixel_geometry` computes dx.

    They are turned by 180 degrees, their input and output channels change places, and the taps of a
    stride become channels: (KH / SH, KW / SW, O // groups, groups SH SW C // groups).
    """
    (kh, kw, c, filters), (sh, sw) = w.shape, stride
    taps = w.reshape(kh // sh, sh, kw // sw, sw, c, groups, filters // groups)[::-1, :, ::-1]
    return np.ascontiguousarray(taps.transpose(0, 2, 6, 5, 1, 3, 4)).reshape(kh // sh, kw // sw, filters // groups, -1)


@lru_cache(maxsize=1024)
def subpixel_geometry(g: Geometry) -> Geometry | None:
    """Geometry of the convolution that computes dx, or None where adding up taps is faster.

    Each pixel of the result holds a block of a stride's pixels of dx. That is possible where the
    window is a whole number of strides and the padding is smaller than the window. It is slower
    where the images are so small that the blocks at their borders make much more work, and where
    there are so few channels that copies are short.
    """
    sides, work = [], 1.0
    for k, s, d, (before, _), n, out in zip(
        g.window, g.stride, g.dilation, g.padding, g.x_shape[1:3], g.y_shape[1:3], strict=True
    ):
        if k % s or (s > 1 and d > 1):
            return None
        reach = d * (k // s - 1)
        first = reach - before // s
        blocks = (before + n - 1) // s - before // s + 1
        sides.append((first, blocks + reach - out - first))
        work *= blocks / out
    slow = max(g.stride) > 1 and (work > MOST_BORDER_WORK or g.x_shape[3] // g.groups < FEWEST_CHANNELS)
    if slow or min(sides[0] + sides[1]) < 0:
        return None
    (kh, kw), (sh, sw) = g.window, g.stride
    rotated = (kh // sh, kw // sw, g.filters // g.groups, g.x_shape[3] * sh * sw)
    return Geometry.conv(g.y_shape, rotated, padding=(sides[0], sides[1]), dilation=g.dilation, groups=g.groups)


def convolve_back(algorithm: ConvAlgorithm, dy: Array, rotated: Any, g: Geometry, dx: Array) -> None:
    """Write dx (n, H, W, C), by an algorithm that was made for the `subpixel_geometry` of g."""
    if g.stride == (1, 1):
        algorithm.forward(dy, rotated, None, dx, None)
        return
    blocks = memory.empty((len(dy), *algorithm.geometry.y_shape[1:]), dx.dtype)
    algorithm.forward(dy, rotated, None, blocks, None)
    interleave(blocks, g, dx)


def interleave(blocks: Array, g: Geometry, dx: Array) -> None:
    """Write dx (n, H, W, C), from the result of the convolution that computes it."""
    (sh, sw), groups = g.stride, g.groups
    blocks = blocks.reshape(*blocks.shape[:3], groups, sh, sw, -1)
    images = dx.reshape(*dx.shape[:3], groups, -1)
    rows, columns = (_places(g, axis) for axis in (0, 1))
    for (i, down, up), (j, right, left) in product(rows, columns):
        target = images[:, down::sh, right::sw]
        target[...] = blocks[:, up : up + target.shape[1], left : left + target.shape[2], :, i, j]


def _places(g: Geometry, axis: int) -> list[tuple[int, int, int]]:
    """(i, first, block) for each pixel i of a block: its first place in the image, and that block.

    Where no such pixel lies in the image, the first place is beyond the image's end.
    """
    step, before = g.stride[axis], g.padding[axis][0]
    places = []
    for pixel in range(step):
        first = (pixel - before) % step
        places.append((pixel, first, (first + before) // step - before // step))
    return places
