"""Entries of a model's state dict, without copies of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gpunet.autograd import Tensor
from gpunet.nn import Module


def entries(model: Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name, in the order of `state_dict`."""
    return dict([*model.named_parameters(), *model.named_buffers()])


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
            parts = ", ".join(dict.fromkeys(own.partition(".")[0] for own in state))
            raise ValueError(f"{operation}: keep names {name!r}, which is no part of the model: it has {parts}")
        found |= inside
    return found


def one_line(text: str) -> str:
    """A message with names of a file, in which line breaks and other control characters are escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
