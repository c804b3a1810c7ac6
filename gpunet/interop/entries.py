"""Entries of a state dict that are named one by one, or by the modules that they are in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def entries_of(operation: str, state: Iterable[str], named: Sequence[str]) -> set[str]:
    """The entries that have these names, or are in modules of these names.

    Args:
        operation: begins errors.
        state: the names of all entries.
        named: what the caller's `keep` says.
    Raises:
        ValueError: a name of neither an entry nor a module.
    """
    state, found = list(state), set[str]()
    for name in [named] if isinstance(named, str) else named:
        inside = {own for own in state if own == name or own.startswith(f"{name}.")}
        if not inside:
            raise ValueError(f"{operation}: keep names {name!r}, which is no part of the model")
        found |= inside
    return found
