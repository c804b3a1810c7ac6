"""Tables of taps as strided slices, for whole rows or columns of images at a time."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from gpunet.resampling import Taps

PERIODS = 8
"""Longest period in which stretches are looked for: upsampling by as much is still a few of them."""

Place = tuple[int, ...]
"""An output and its taps, the pixels of the largest weight first."""


class Tap(NamedTuple):
    """One tap of all outputs of a stretch."""

    source: float
    """One of `Plan.shared`, by which the input is multiplied before, or 1 for the input itself."""
    pixels: slice
    """As many as the outputs, or one that all of them take."""


class Stretch(NamedTuple):
    """Outputs at equal steps, of taps with the same weights, each of which moves on at steps of its own."""

    outputs: slice
    sums: tuple[tuple[tuple[Tap, ...], float], ...]
    """(taps, factor): add the taps to what came before, then multiply by the factor: the sum after Horner, the last factor
    being the last taps' weight in units, each before it a quotient of two."""


class Plan(NamedTuple):
    """One axis of a resampling; every output is in one stretch."""

    unit: float
    """What all sums are yet to be multiplied by: the most frequent weight, of equals the least, so that most factors are 1 or
    whole numbers."""
    shared: frozenset[float]
    """Weights, in units, of more taps than the input has pixels: by these it is cheaper to multiply all the input first."""
    stretches: tuple[Stretch, ...]


@lru_cache(maxsize=1024)
def plan_of(taps: Taps) -> Plan:
    """The slices of a table."""
    counted = Counter(taps.weight.tolist())
    unit = max(counted, key=lambda weight: (counted[weight], -weight), default=1.0)
    shared = frozenset(weight / unit for weight, count in counted.items() if count > taps.extent and weight != unit)
    outputs: dict[tuple[float, ...], list[Place]] = {}
    for p, (a, b) in enumerate(pairwise(taps.starts.tolist())):
        ordered = sorted(zip((-taps.weight[a:b]).tolist(), taps.index[a:b].tolist(), strict=True))
        weights = tuple(-weight / unit for weight, _ in ordered)
        outputs.setdefault(weights, []).append((p, *(i for _, i in ordered)))
    stretches = (_stretch(weights, run, shared) for weights, places in outputs.items() for run in _runs(places))
    return Plan(unit, shared, tuple(stretches))


def _runs(places: list[Place]) -> list[list[Place]]:
    """The places in as few arithmetic progressions as some period gives."""
    periods = range(1, min(PERIODS, len(places)) + 1)
    return min(([run for phase in range(d) for run in _progressions(places[phase::d])] for d in periods), key=len)


def _progressions(places: list[Place]) -> list[list[Place]]:
    runs: list[list[Place]] = []
    for place in places:
        if runs and (len(runs[-1]) == 1 or _step(*runs[-1][:2]) == _step(runs[-1][-1], place)):
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def _step(before: Place, after: Place) -> Place:
    return tuple(j - i for i, j in zip(before, after, strict=True))


def _stretch(weights: tuple[float, ...], run: list[Place], shared: frozenset[float]) -> Stretch:
    steps = _step(*run[:2]) if len(run) > 1 else (1,) * len(run[0])
    outputs, *pixels = map(_slice, run[0], run[-1], steps)
    by_weight: dict[float, list[Tap]] = {}
    for weight, part in zip(weights, pixels, strict=True):
        source = weight if weight in shared else 1.0
        by_weight.setdefault(weight / source, []).append(Tap(source, part))
    factors = [*sorted(by_weight, reverse=True), 1.0]  # most often the last is one unit: nothing is left to multiply by
    sums = ((tuple(by_weight[factor]), factor / after) for factor, after in pairwise(factors))
    return Stretch(outputs, tuple(sums))


def _slice(first: int, last: int, step: int) -> slice:
    """first, first + step, … last; one pixel if the step is 0."""
    stop = last + (1 if step >= 0 else -1)
    return slice(first, stop if stop >= 0 else None, step or 1)
