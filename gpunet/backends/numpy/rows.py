"""Images as matrices of long rows: NumPy is slow along short ones, and a pixel has few channels."""

from __future__ import annotations

from functools import lru_cache

from gpunet.backends.contract import Array

ROW = 1 << 13
"""Elements of a row at most, unless one pixel has more: a repeated row then stays in the
first-level cache."""


def as_rows(a: Array) -> Array:
    """View a C-contiguous a (…, C) as a matrix of long rows, each of the same number of whole pixels."""
    return a.reshape(-1, row_pixels(a.size // a.shape[-1], a.shape[-1]) * a.shape[-1])


@lru_cache(maxsize=256)
def row_pixels(pixels: int, c: int) -> int:
    """Pixels per row: the largest divisor of all pixels that keeps a row within `ROW` elements."""
    return next((p for p in range(min(pixels, ROW // c), 1, -1) if pixels % p == 0), 1)
