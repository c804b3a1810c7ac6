"""Checks of hyper-parameters and of states, made before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from numbers import Integral, Real
from typing import Any

Range = tuple[Callable[[Any], bool], str]
"""Whether a number is within the range, and the words that say what it must be."""
NOT_NEGATIVE: Range = (lambda value: 0 <= value < inf, "finite and not negative")
POSITIVE: Range = (lambda value: value > 0, "positive")
SHARE: Range = (lambda value: 0 <= value < 1, "at least 0 and below 1")


def check_number(owner: str, name: str, value: Any, within: Range) -> None:
    """Raise TypeError for a value that is no number, ValueError for a number outside the range."""
    if not isinstance(value, Real):
        raise TypeError(f"{owner}: {name} is {value!r} but must be a number")
    fits, must = within
    if not fits(value):
        raise ValueError(f"{owner}: {name} is {value} but must be {must}")


def check_betas(owner: str, betas: Any) -> None:
    """Raise TypeError unless betas are a pair of numbers, ValueError unless both are shares."""
    if not (isinstance(betas, tuple | list) and len(betas) == 2 and all(isinstance(beta, Real) for beta in betas)):
        raise TypeError(f"{owner}: betas are {betas!r} but must be a pair of numbers")
    fits, must = SHARE
    if not all(map(fits, betas)):
        raise ValueError(f"{owner}: betas are {betas} but must be {must}")


def check_counts(owner: str, name: str, values: Any) -> None:
    """Raise TypeError unless values are integers, ValueError unless they are from 0 to 2^63 - 1."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{owner}: {name} are {values!r} but take integers")
    for value in values:
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"{owner}: {name} hold {value!r} but take integers")
        if value < 0:
            raise ValueError(f"{owner}: {name} hold {value} but none may be negative")
        if int(value) >= 2**63:
            raise ValueError(f"{owner}: {name} hold {value} but take less than 2^63")


def group_rates(owner: str, name: str, rates: Any, groups: int) -> list[float]:
    """One learning rate for each group, from one number for all or from a sequence."""
    given = list(rates) if isinstance(rates, Sequence) and not isinstance(rates, str) else [rates] * groups
    if len(given) != groups:
        raise ValueError(f"{owner}: {name} has {len(given)} rates but the optimizer {groups} groups")
    for rate in given:
        check_number(owner, name, rate, NOT_NEGATIVE)
    return [float(rate) for rate in given]


def check_monitor(owner: str, monitor: str, columns: Sequence[str]) -> None:
    """Raise ValueError if the history will not have the column that is monitored."""
    if monitor not in columns:
        raise ValueError(f"{owner}: monitor {monitor!r} is no column; there are {', '.join(columns)}")


def check_state(owner: str, state: Any, own: Mapping[str, Any], rates: str) -> None:
    """Check that a state has all parts of a schedule's own one, the same options, and rates.

    Args:
        rates: the key of the learning rates, one for each group.
    Raises:
        TypeError: it is no mapping, or its rates are no list of numbers.
        ValueError: it lacks a part, or has other options or another number of groups.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"{owner}: a state is what state_dict returns, got {type(state).__name__}")
    if missing := [key for key in own if key not in state]:
        raise ValueError(f"{owner}: the state lacks {', '.join(missing)}")
    check_options(owner, state["options"], own["options"])
    given, groups = state[rates], len(own[rates])
    if not isinstance(given, list | tuple):
        raise TypeError(f"{owner}: the state's {rates} are {given!r} but must be a list of numbers, one for each group")
    if len(given) != groups:
        raise ValueError(f"{owner}: the state is of {len(given)} groups, not {groups}")
    for rate in given:
        check_number(owner, "a rate of the state", rate, NOT_NEGATIVE)


def check_options(owner: str, saved: Any, own: Mapping[str, Any]) -> None:
    """Raise ValueError unless a schedule's saved options are its own; it names those that differ.

    TypeError if the saved ones are no mapping.
    """
    if not isinstance(saved, Mapping):
        raise TypeError(f"{owner}: the state's options are {saved!r} but must be a dict")
    if differ := [f"{name} {was!r}, not {now!r}" for name, was, now in _differences(saved, own)]:
        raise ValueError(
            f"{owner}: the state is of {', '.join(differ)}; to go on with other options, such as a longer schedule, "
            "ask for it with extend_schedule=True"
        )


def _differences(saved: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(name, saved value, own value) of each option that differs; None for one that is not there.

    An option of a schedule inside another, such as `WarmupLR.then`, is named "then.T_max".
    """
    for name in [*own, *(name for name in saved if name not in own)]:
        was, now = saved.get(name), own.get(name)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            yield from ((f"{name}.{inner}", *values) for inner, *values in _differences(was, now))
        elif name not in saved or name not in own or was != now:
            yield name, was, now


def check_scaling(owner: str, values: Any) -> None:
    """Raise ValueError unless the state of loss scaling is three numbers, with a positive scale."""
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(isinstance(v, Real) for v in values):
        raise ValueError(f"{owner}: the state's scaling is {values!r} but takes three numbers")
    check_number(owner, "the state's scale", values[0], POSITIVE)
