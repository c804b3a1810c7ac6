"""The rules of `Backend.update`: how a parameter follows from its gradient, by name."""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """What a rule keeps of each parameter, and its own hyper-parameters."""

    slots: tuple[str, ...]
    """Of the arena, in the order of the formula's a and b."""
    own: tuple[str, ...]
    """Columns behind `SHARED`."""


SHARED = ("lr", "weight decay", "L1", "decoupled weight decay")
"""The first columns of every rule: w' = w - lr decoupled w, then g = clip[1] grad + decay w' + l1 sign(w')."""
_ADAM = ("beta1", "beta2", "eps", "1 - beta1^t", "1 - beta2^t")
RULES = {
    "sgd": Rule(("momentum",), ("momentum", "nesterov")),
    "adam": Rule(("mean", "square"), _ADAM),
    "rmsprop": Rule(("square", "momentum"), ("alpha", "eps", "momentum")),
    "adagrad": Rule(("square",), ("eps",)),
    "lion": Rule(("mean",), ("beta1", "beta2")),
    "muon": Rule(("mean", "square"), (*_ADAM, "orthogonal")),
}
"""By the names of their formulas in kernels/optimizer.cu, there capitalised. Muon's "square" holds the orthogonal direction of
the segments that have one, whose "beta1" is the momentum."""


def columns(rule: str) -> int:
    """How many hyper-parameters a segment has."""
    return len(SHARED) + len(RULES[rule].own)
