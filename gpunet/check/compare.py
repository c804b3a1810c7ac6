"""Compares results: how far they differ, and how far they may."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpunet.backends.contract import is_float

TOLERANCES = {"float64": 4e-6, "float32": 4e-6, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""The largest ‖a - b‖ / ‖b‖ that is allowed between the results of one call on two devices, by
their dtype. For 16 bits it is what rounding a float32 sum once can cost. The kernels add up in
float32, also where they store float64. Whatever is not a float must be equal."""


class Difference(NamedTuple):
    """The largest difference over all results of a call."""

    ulp: int
    """The largest number of floats of the result's dtype between two elements. It is large where a
    sum has cancelled."""
    error: float
    """‖a - b‖ / ‖b‖ over the finite elements of a result; infinite if shapes, NaNs, infinities or
    integers differ."""
    allowed: float
    """The tolerance of the result whose error is the largest compared with its tolerance."""

    @property
    def passes(self) -> bool:
        """Whether the error is allowed."""
        return self.error <= self.allowed


def difference(got: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> Difference:
    """The largest difference between results and the expected ones, which have the same dtypes or
    wider ones."""
    if len(got) != len(expected):
        return Difference(0, np.inf, 0.0)
    found = [_difference(a, b) for a, b in zip(got, expected, strict=True)]
    worst = max(found, key=lambda d: d.error / d.allowed if d.allowed else np.inf if d.error else 0.0)
    return worst._replace(ulp=max(d.ulp for d in found))


def same_bits(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    """Whether results are equal, bit for bit."""
    return [a.tobytes() for a in one] == [a.tobytes() for a in other]


def _difference(a: np.ndarray, b: np.ndarray) -> Difference:
    if not is_float(a.dtype):
        equal = a.shape == b.shape and np.array_equal(a, b)
        return Difference(0, 0.0 if equal else np.inf, 0.0)
    allowed = TOLERANCES[a.dtype.name]
    with np.errstate(over="ignore"):
        wide, exact = a.astype(np.float64), b.astype(np.float64)
        nearest = exact.astype(a.dtype)
    finite = np.isfinite(exact)
    if a.shape != b.shape or not np.array_equal(wide[~finite], exact[~finite], equal_nan=True):
        return Difference(0, np.inf, allowed)
    norm = float(np.linalg.norm(exact[finite]))
    error = float(np.linalg.norm(wide[finite] - exact[finite])) / (norm or 1.0)
    both = finite & np.isfinite(nearest.astype(np.float64))
    between = np.abs(_numbered(a[both]) - _numbered(nearest[both]))
    return Difference(int(between.max(initial=0)), error if np.isfinite(error) else np.inf, allowed)


def _numbered(a: np.ndarray) -> np.ndarray:
    """The position of each float in the order of all floats of its dtype."""
    bits = np.ascontiguousarray(a).view(f"i{a.dtype.itemsize}").astype(np.int64)
    return np.where(bits < 0, np.int64(-(2 ** (8 * a.dtype.itemsize - 1))) - bits, bits)
