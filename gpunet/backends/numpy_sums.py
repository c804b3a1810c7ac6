"""Sums over rows, as `NumpyBackend` makes them."""

from __future__ import annotations

import numpy as np

from gpunet.backends.base import Array


def add_rows(a: Array) -> Array:
    """The sum of the rows of a (n, columns), by BLAS: NumPy's own loops along few columns take ten times as long."""
    return np.dot(np.ones(len(a), a.dtype), a)
