"""Hyper-parameters are checked before anything is changed: numbers, and within their range."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf
from numbers import Integral, Real
from typing import Any

Range = tuple[Callable[[Any], bool], str]
"""Whether a number is within it, and what one that is not must be."""
NOT_NEGATIVE: Range = (lambda value: 0 <= value < inf, "finite and not negative")
POSITIVE: Range = (lambda value: value > 0, "positive")
SHARE: Range = (lambda value: 0 <= value < 1, "at least 0 and below 1")


def check_number(owner: str, name: str, value: Any, within: Range) -> None:
    """TypeError for what is no number, ValueError for a number that is not within the range."""
    if not isinstance(value, Real):
        raise TypeError(f"{owner}: {name} is {value!r} but must be a number")
    fits, must = within
    if not fits(value):
        raise ValueError(f"{owner}: {name} is {value} but must be {must}")


def check_numbers(owner: str, group: Mapping[str, Any], within: Range, *names: str) -> None:
    """`check_number` for hyper-parameters of a group."""
    for name in names:
        check_number(owner, name, group[name], within)


def check_betas(owner: str, betas: Any) -> None:
    """TypeError for what is no pair of numbers, ValueError for one of others than shares."""
    if not (isinstance(betas, tuple | list) and len(betas) == 2 and all(isinstance(beta, Real) for beta in betas)):
        raise TypeError(f"{owner}: betas are {betas!r} but must be a pair of numbers")
    fits, must = SHARE
    if not all(map(fits, betas)):
        raise ValueError(f"{owner}: betas are {betas} but must be {must}")


def check_counts(owner: str, name: str, values: Any) -> None:
    """TypeError for what is no sequence of integers, ValueError for a negative one, or one of more than 63 bits."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{owner}: {name} are {values!r} but take integers")
    for value in values:
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"{owner}: {name} hold {value!r} but take integers")
        if value < 0:
            raise ValueError(f"{owner}: {name} hold {value} but none may be negative")
        if int(value) >= 2**63:
            raise ValueError(f"{owner}: {name} hold {value} but take less than 2^63")


def check_rates(owner: str, name: str, rates: Any, groups: int) -> None:
    """Learning rates of a state: TypeError for what is no list of numbers, ValueError for another number of groups."""
    if not isinstance(rates, list | tuple):
        raise TypeError(f"{owner}: {name} are {rates!r} but must be a list of numbers, one a group")
    if len(rates) != groups:
        raise ValueError(f"{owner}: the state is of {len(rates)} groups, not {groups}")
    for rate in rates:
        check_number(owner, "a rate of the state", rate, NOT_NEGATIVE)


def check_parts(owner: str, state: Any, parts: Iterable[str]) -> None:
    """TypeError for a state that is no mapping, ValueError for one that lacks a part."""
    if not isinstance(state, Mapping):
        raise TypeError(f"{owner}: a state is what state_dict gives, got {type(state).__name__}")
    if missing := [key for key in parts if key not in state]:
        raise ValueError(f"{owner}: the state lacks {', '.join(missing)}")


def check_scaling(owner: str, values: Any) -> None:
    """The state of loss scaling: ValueError for what is not three numbers, of which the first is the scale."""
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(isinstance(v, Real) for v in values):
        raise ValueError(f"{owner}: the state's scaling is {values!r} but takes three numbers")
    check_number(owner, "the state's scale", values[0], POSITIVE)
