"""Tables of taps as strided slices, for whole rows or columns of images at a time."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from gpunet.resampling import Taps

PERIODS = 8
"""Longest period in which stretches are looked for: upsampling by as much is still a few of them."""

Place = tuple[int, int]
"""(an output, its first tap)."""
Pattern = tuple[tuple[int, float], ...]
"""(pixels from the first tap, weight in units) of each tap of an output."""


class Tap(NamedTuple):
    """One tap of all outputs of a stretch."""

    source: float
    """One of `Plan.shared`, by which the input is multiplied before, or 1 for the input itself."""
    pixels: slice
    """As many as the outputs, or one that all of them take."""


class Stretch(NamedTuple):
    """Outputs at equal steps whose taps move on at equal steps, with the same weights."""

    outputs: slice
    sums: tuple[tuple[tuple[Tap, ...], float], ...]
    """(taps, factor): add the taps to what came before, then multiply by the factor: the sum after Horner, the last factor
    being the last taps' weight in units, each before it a quotient of two."""


class Plan(NamedTuple):
    """One axis of a resampling; every output is in one stretch."""

    unit: float
    """What all sums are yet to be multiplied by: the most frequent weight, so that most factors are 1."""
    shared: frozenset[float]
    """Weights, in units, of more taps than the input has pixels: by these it is cheaper to multiply all the input first."""
    stretches: tuple[Stretch, ...]


@lru_cache(maxsize=1024)
def plan_of(taps: Taps) -> Plan:
    """The slices of a table."""
    counted = Counter(taps.weight.tolist())
    unit = counted.most_common(1)[0][0] if counted else 1.0
    shared = frozenset(weight / unit for weight, count in counted.items() if count > taps.extent and weight != unit)
    outputs: dict[Pattern, list[Place]] = {}
    for p, (a, b) in enumerate(pairwise(taps.starts.tolist())):
        index, weights = taps.index[a:b].tolist(), taps.weight[a:b].tolist()
        first = index[0] if index else 0
        pattern = tuple((i - first, weight / unit) for i, weight in zip(index, weights, strict=True))
        outputs.setdefault(pattern, []).append((p, first))
    stretches = (_stretch(pattern, run, shared) for pattern, places in outputs.items() for run in _runs(places))
    return Plan(unit, shared, tuple(stretches))


def _runs(places: list[Place]) -> list[list[Place]]:
    """The places in as few arithmetic progressions as some period gives."""
    periods = range(1, min(PERIODS, len(places)) + 1)
    return min(([run for phase in range(d) for run in _progressions(places[phase::d])] for d in periods), key=len)


def _progressions(places: list[Place]) -> list[list[Place]]:
    runs: list[list[Place]] = []
    for p, i in places:
        if runs and (len(runs[-1]) == 1 or _step(runs[-1]) == (p - runs[-1][-1][0], i - runs[-1][-1][1])):
            runs[-1].append((p, i))
        else:
            runs.append([(p, i)])
    return runs


def _step(run: list[Place]) -> Place:
    return (run[1][0] - run[0][0], run[1][1] - run[0][1]) if len(run) > 1 else (1, 0)


def _stretch(pattern: Pattern, run: list[Place], shared: frozenset[float]) -> Stretch:
    (p, first), (last, end), (over, along) = run[0], run[-1], _step(run)
    by_weight: dict[float, list[Tap]] = {}
    for offset, weight in pattern:
        source = weight if weight in shared else 1.0
        by_weight.setdefault(weight / source, []).append(Tap(source, _slice(first + offset, end + offset, along)))
    following = [*list(by_weight)[1:], 1.0]
    sums = ((tuple(taps), weight / after) for (weight, taps), after in zip(by_weight.items(), following, strict=False))
    return Stretch(slice(p, last + 1, over), tuple(sums))


def _slice(first: int, last: int, step: int) -> slice:
    """first, first + step, … last; one pixel if the step is 0."""
    stop = last + (1 if step >= 0 else -1)
    return slice(first, stop if stop >= 0 else None, step or 1)
