"""When 3x3 convolutions are computed by Winograd's minimal filtering: winograd.hpp."""

from __future__ import annotations

from gpunet.geometry import Pair

POSITIONS = 16
"""Products of a tile of 2x2 results, for each channel and filter; of its four windows there are 36."""
CHANNELS = 16
"""Channels and filters are a multiple of so many, which are whole vectors on every processor."""
SAVED = 1.5
"""Products of the windows for one of the tiles', at least: those at the border may be half empty."""
FEWEST_WEIGHTS = 1 << 10
"""Channels times filters from which on the transforms are a small part of the work."""
FEWEST_PIXELS = 256
"""Results from which on it is worth transforming the filters."""


def is_worth(window: Pair, steps: set[int], channels: int, filters: int, results: tuple[int, ...]) -> bool:
    """Whether a convolution is faster by tiles than by windows.

    `gpunet.backends.numpy.conv.winograd.is_worth`, the rule of NumPy alone, asks for more channels:
    its transforms are passes over memory, while those of the loops are of tiles that stay in a cache.
    The loops ask for whole vectors of channels and filters instead.

    Args:
        steps: strides and dilations.
        channels: those of a filter.
        results: (N, OH, OW).
    """
    n, oh, ow = results
    if window != (3, 3) or steps != {1} or channels % CHANNELS or filters % CHANNELS:
        return False
    if channels * filters < FEWEST_WEIGHTS or n * oh * ow < FEWEST_PIXELS:
        return False
    return -(-oh // 2) * -(-ow // 2) * POSITIONS * SAVED <= oh * ow * 9
