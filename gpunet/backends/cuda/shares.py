"""When the threads of a block share the taps of a result, and how they stand in it."""

from gpunet.backends.cuda.device import WARP

MANY_TAPS = 16
"""Taps of a result from which the threads of a block may share them."""
ENOUGH_THREADS = 1 << 17
"""Threads that keep a device busy, each with the whole sum of a result."""


def shares_taps(threads: int, taps: float) -> bool:
    """Whether the threads of a block share the taps of a result.

    Args:
        threads: would each compute a result, or several channels of one.
        taps: the mean number of a result.
    """
    return 0 < threads < ENOUGH_THREADS and taps >= MANY_TAPS


def across(channels: int, v: int) -> int:
    """Return the threads of a block side by side, which take v channels each.

    It is a power of two, so that a block can be halved repeatedly; the other threads take other taps.
    """
    return min(WARP, 1 << max(channels // v - 1, 0).bit_length())


def shared_blocks(results: int, channels: int, v: int) -> int:
    """Return the blocks of `results` elements: each takes a pixel, and `across` times v channels."""
    return results // channels * -(-channels // (v * across(channels, v)))
