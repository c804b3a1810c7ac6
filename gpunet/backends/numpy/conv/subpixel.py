"""Input gradients as convolutions of dy with the rotated filters."""

from __future__ import annotations

from itertools import product

import numpy as np

from gpunet.backends.contract.arrays import Array
from gpunet.backends.host import memory
from gpunet.backends.numpy.conv.form import Form
from gpunet.geometry import Geometry, Pair

BORDERS = 1.25
"""How much more work a strided input gradient may have with the blocks at an image's borders: measured, about what it wins."""
FEWEST = 16
"""Channels from which the pixels of such a block are long enough copies."""


def rotate(w: Array, groups: int, stride: Pair = (1, 1)) -> Array:
    """The filters of the full convolution, `turned_geometry`, that leads back: turned by 180 degrees, with their channels
    exchanged, (KH / SH, KW / SW, O // groups, groups SH SW C // groups): a stride's taps become channels."""
    (kh, kw, c, filters), (sh, sw) = w.shape, stride
    taps = w.reshape(kh // sh, sh, kw // sw, sw, c, groups, filters // groups)[::-1, :, ::-1]
    return np.ascontiguousarray(taps.transpose(0, 2, 6, 5, 1, 3, 4)).reshape(kh // sh, kw // sw, filters // groups, -1)


def turned_geometry(g: Geometry) -> Geometry | None:
    """Of the full convolution of dy with the rotated filters, whose result is dx, a block of a stride's pixels in each of its
    pixels: "sub-pixel convolution" (Shi et al. 2016). None where the window is no whole number of strides, there is more
    padding than it takes, or where to add up the taps is faster: the blocks at the borders of small images make more work,
    and few channels short copies."""
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
    slow = max(g.stride) > 1 and (work > BORDERS or g.x_shape[3] // g.groups < FEWEST)
    if slow or min(sides[0] + sides[1]) < 0:
        return None
    (kh, kw), (sh, sw) = g.window, g.stride
    rotated = (kh // sh, kw // sw, g.filters // g.groups, g.x_shape[3] * sh * sw)
    return Geometry.conv(g.y_shape, rotated, padding=(sides[0], sides[1]), dilation=g.dilation, groups=g.groups)


def convolve_back(form: Form, dy: Array, rotated: Array, g: Geometry, dx: Array) -> None:
    """Write dx (n, H, W, C), by a form made for the `turned_geometry` of g."""
    (sh, sw), groups = g.stride, g.groups
    if (sh, sw) == (1, 1):
        form.forward(dy, rotated, None, None, None, dx, None)
        return
    blocks = memory.empty((len(dy), *form.geometry.y_shape[1:]), dx.dtype)
    form.forward(dy, rotated, None, None, None, blocks, None)
    blocks = blocks.reshape(*blocks.shape[:3], groups, sh, sw, -1)
    images = dx.reshape(*dx.shape[:3], groups, -1)
    rows, columns = (_placed(g, axis) for axis in (0, 1))
    for (i, down, up), (j, right, left) in product(rows, columns):
        target = images[:, down::sh, right::sw]
        target[...] = blocks[:, up : up + target.shape[1], left : left + target.shape[2], :, i, j]


def _placed(g: Geometry, axis: int) -> list[tuple[int, int, int]]:
    """(pixel of a block, its first pixel in the image, the block of that), for each pixel of a block. Where the image has none
    of it, its first lies beyond the end."""
    step, before = g.stride[axis], g.padding[axis][0]
    places = []
    for pixel in range(step):
        first = (pixel - before) % step
        places.append((pixel, first, (first + before) // step - before // step))
    return places
