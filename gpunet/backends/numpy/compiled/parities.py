"""Input gradients as convolutions of dy, one for each parity of the pixels of dx.

Pixel h of dx has met the taps k for which h + top - k is a whole number of strides: every stride-th tap from
the remainder of h + top on. So the pixels of one remainder, a stride apart, are the results of a
convolution of dy with these taps, in the opposite order. No product is computed that is not needed.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import NamedTuple

from gpunet.backends.numpy.compiled import winograd
from gpunet.backends.numpy.compiled.library import Longs
from gpunet.backends.numpy.conv.primitives import FEW_CHANNELS, FEW_PRODUCTS
from gpunet.backends.numpy.threads import PRODUCTS
from gpunet.geometry import Geometry

TILE = 16
"""Channels of a tap that are exchanged at a time, as in conv.cpp."""


class Side(NamedTuple):
    """One remainder along one axis."""

    first: int
    """The first pixel of dx."""
    pixels: int
    """How many there are, a stride apart."""
    taps: range
    """The taps, in the order of the convolution."""
    before: int
    """Padding before dy; if negative, so many pixels of dy are passed over."""


class Parity(NamedTuple):
    """One of the convolutions, as `conv_forward`, `winograd_forward` and `depthwise_forward` take it."""

    extents: Longs
    places: Longs | None
    """Where the results stand in dx; None if they are all of it."""
    pairs: int
    """Pairs of rows of an image."""
    each: int
    """Elements of work of a pair."""
    filters: slice
    """Its taps, among those of all."""
    by_tiles: bool
    """Whether it is computed as `winograd.is_worth` says."""


class Parities(NamedTuple):
    """What an input gradient is computed by."""

    convolutions: list[Parity]
    taps: int
    """Taps of all convolutions: those of w, unless there are no pixels for some of them."""
    order: Longs
    """These taps, one after another, as places in w."""
    whole: bool
    """Whether they write all of dx; the other pixels are 0."""


@lru_cache(maxsize=1024)
def parities(g: Geometry) -> Parities | None:
    """The convolutions of one geometry; None where a stride meets a dilation."""
    if any(s > 1 and d > 1 for s, d in zip(g.stride, g.dilation, strict=True)):
        return None
    rows, columns = (_sides(g, axis) for axis in (0, 1))
    convolutions: list[Parity] = []
    order: list[int] = []
    whole = True
    for up, across in product(rows, columns):
        if not up.taps or not across.taps:
            whole = False
            continue
        first = len(order)
        order += (i * g.window[1] + j for i, j in product(up.taps, across.taps))
        convolutions.append(_parity(g, up, across, slice(first, len(order))))
    return Parities(convolutions, len(order), Longs(*order), whole)


def tiles_of(channels: int) -> int:
    """Parts of a tap whose channels are exchanged at a time."""
    return -(-channels // TILE)


def _sides(g: Geometry, axis: int) -> list[Side]:
    """The remainders along an axis that have pixels."""
    k, step, dilation, n = g.window[axis], g.stride[axis], g.dilation[axis], g.x_shape[1 + axis]
    before = g.padding[axis][0]
    sides = []
    for remainder in range(step):
        first, taps = (remainder - before) % step, range(k)[remainder::step][::-1]
        passed = (first + before - remainder) // step
        if first < n:
            sides.append(Side(first, len(range(first, n, step)), taps, dilation * (len(taps) - 1) - passed))
    return sides


def _parity(g: Geometry, up: Side, across: Side, filters: slice) -> Parity:
    (_, h, w, c), (_, oh, ow, o) = g.x_shape, g.y_shape
    extents = Longs(
        oh, ow, o, c, len(up.taps), len(across.taps), up.pixels, across.pixels, 1, 1, *g.dilation, up.before, across.before
    )  # fmt: skip
    row, apart = w * c, g.stride != (1, 1)
    places = Longs(up.first * row + across.first * c, h * row, g.stride[0] * row, g.stride[1] * c) if apart else None
    channels = o // g.groups
    adds = 2 * across.pixels * (filters.stop - filters.start) * channels * c
    each = adds // (FEW_PRODUCTS if channels < FEW_CHANNELS else PRODUCTS)
    window, results = (len(up.taps), len(across.taps)), (g.x_shape[0], up.pixels, across.pixels)
    by_tiles = winograd.is_worth(window, set(g.dilation), channels, g.w_shape[2], results)
    return Parity(extents, places, -(-up.pixels // 2), max(1, each), filters, by_tiles)
