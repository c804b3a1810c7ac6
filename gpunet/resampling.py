"""Tables of separable linear resamplings, made on the host.

A `Taps` describes one axis: for each pixel of the output, the pixels of the input that it is the
weighted sum of. A resampling of images takes two tables, one for the rows and one for the columns.
Upsampling, padding and adaptive pooling are such tables, and the gradient of each is the resampling
by the transposed tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from math import floor

import numpy as np


@dataclass(frozen=True, eq=False)
class Taps:
    """One axis of a resampling.

    Output p is the sum of weight[t] x[index[t]] over t = starts[p] … starts[p + 1] - 1.

    These are the compressed rows of a sparse matrix (CSR), without zeros, so that a NaN only
    reaches the outputs that depend on it. Tables are compared by identity: the functions below
    cache what they make, and a device may cache its copies.
    """

    extent: int
    """Pixels of the input."""
    starts: np.ndarray
    """int32, (outputs + 1,)."""
    index: np.ndarray
    """int32, one for each tap, from 0 to extent - 1; in the order of an output's sum."""
    weight: np.ndarray
    """float64, one for each tap."""

    @property
    def outputs(self) -> int:
        """Pixels of the output."""
        return len(self.starts) - 1

    @cached_property
    def longest(self) -> int:
        """Terms of the longest sum."""
        return int(np.diff(self.starts).max(initial=0))

    @cached_property
    def transposed(self) -> Taps:
        """The table of the gradient: the outputs that depend on each pixel of the input."""
        order = np.argsort(self.index, kind="stable")  # so that the outputs ascend
        owner = np.repeat(np.arange(self.outputs), np.diff(self.starts))
        counts = np.bincount(self.index, minlength=self.extent)
        starts = np.concatenate([[0], np.cumsum(counts)])
        return Taps(self.outputs, starts.astype(np.int32), owner[order].astype(np.int32), self.weight[order])


def table(extent: int, outputs: Iterable[Sequence[tuple[int, float | Fraction]]]) -> Taps:
    """Taps from (index, weight) pairs, a sequence for each output.

    Weights of one index are added up, and zeros are left out.
    """
    starts, index, weight = [0], list[int](), list[float]()
    for taps in outputs:
        total: dict[int, float | Fraction] = {}
        for i, w in taps:
            total[i] = total.get(i, 0) + w
        kept = {i: float(w) for i, w in total.items() if w}
        index += kept
        weight += kept.values()
        starts.append(len(index))
    return Taps(extent, np.array(starts, np.int32), np.array(index, np.int32), np.array(weight, np.float64))


@cache
def nearest(extent: int, outputs: int, ratio: float | None = None) -> Taps:
    """Output p is pixel floor(p ratio), computed in float32 as PyTorch does.

    Args:
        ratio: pixels of the input per pixel of the output; extent / outputs if None.
    """
    if ratio is None or outputs in (extent, 2 * extent):
        ratio = extent / outputs
    step = np.float32(ratio)
    return table(extent, ([(min(int(np.float32(p) * step), extent - 1), 1)] for p in range(outputs)))


@cache
def linear(extent: int, outputs: int, ratio: float | None = None, *, align_corners: bool = False) -> Taps:
    """Output p lies between two pixels of the input, and is their mean, weighted by nearness.

    Pixel centres lie at whole numbers. Output p lies at (p + 1/2) ratio - 1/2, but not before 0;
    with `align_corners` it lies at p (extent - 1) / (outputs - 1), so that the first and the last
    pixels stay in place. Places are exact fractions, so that an output that lies on a pixel depends
    on no other.
    """
    step = _step(extent, outputs, ratio, align_corners)
    shift = Fraction(0) if align_corners else (step - 1) / 2

    def between(p: int) -> list[tuple[int, Fraction]]:
        place = min(max(p * step + shift, Fraction(0)), Fraction(extent - 1))
        before = floor(place)
        return [(before, 1 - (place - before)), (min(before + 1, extent - 1), place - before)]

    return table(extent, map(between, range(outputs)))


@cache
def smooth(extent: int, outputs: int, ratio: float | None = None, *, align_corners: bool = False) -> Taps:
    """`linear` without aliasing: scaling down, every pixel of the input counts.

    Output p is the mean of all pixels closer than `step` to its centre, (p + 1/2) step, weighted by
    nearness, so that details finer than the output's pixels are averaged instead of sampled. The
    step, in pixels of the input, is `linear`'s, but at least 1 for the weights: scaling up, this is
    `linear`. The weights of an output add up to 1, at the border too.
    """
    step = _step(extent, outputs, ratio, align_corners)
    reach = max(step, Fraction(1))

    def around(p: int) -> list[tuple[int, Fraction]]:
        middle = (p + Fraction(1, 2)) * step
        first = max(floor(middle - reach), 0)
        last = min(floor(middle + reach), extent - 1)
        nearness = {i: 1 - abs(i + Fraction(1, 2) - middle) / reach for i in range(first, last + 1)}
        near = {i: w for i, w in nearness.items() if w > 0}
        total = sum(near.values())
        return [(i, w / total) for i, w in near.items()]

    return table(extent, map(around, range(outputs)))


def _step(extent: int, outputs: int, ratio: float | None, align_corners: bool) -> Fraction:
    """The distance between the places of two neighbouring outputs, in pixels of the input."""
    if align_corners:
        return Fraction(extent - 1, outputs - 1) if outputs > 1 else Fraction(0)
    return Fraction(extent, outputs) if ratio is None or outputs == extent else Fraction(ratio)


@cache
def padded(extent: int, before: int, after: int, mode: str) -> Taps:
    """The input with zeros around it, or "edge" pixels repeated, or mirrored at them
    ("reflect")."""
    places = range(-before, extent + after)
    if mode == "zero":
        return table(extent, ([(p, 1)] if 0 <= p < extent else [] for p in places))
    if mode == "edge":
        return table(extent, ([(min(max(p, 0), extent - 1), 1)] for p in places))
    last = extent - 1
    return table(extent, ([(last - abs(last - abs(p)), 1)] for p in places))


def windows(extent: int, outputs: int) -> list[tuple[int, int]]:
    """Adaptive pooling's windows, as (first, last), with last exclusive.

    Window p is from floor(p extent / outputs) to ceil((p + 1) extent / outputs).
    """
    return [(p * extent // outputs, -(-(p + 1) * extent // outputs)) for p in range(outputs)]


@cache
def averaged(extent: int, outputs: int) -> Taps:
    """Output p is the mean of window p of `windows`."""
    spans = windows(extent, outputs)
    return table(extent, ([(i, Fraction(1, last - first)) for i in range(first, last)] for first, last in spans))


@cache
def side_by_side(extent: int, outputs: int) -> tuple[Taps, int]:
    """(taps that copy the windows of `windows` behind one another, their common length).

    A shorter window is filled up with its last pixel.
    """
    spans = windows(extent, outputs)
    length = max(last - first for first, last in spans)
    return table(extent, ([(min(first + i, last - 1), 1)] for first, last in spans for i in range(length))), length
