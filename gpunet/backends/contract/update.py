"""The contract of updates of parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

import numpy as np

from gpunet.backends.contract.arrays import Array


class Segments(NamedTuple):
    """Ranges of an arena's elements and the hyper-parameters of each."""

    bounds: np.ndarray
    """(M, 2) int64: first element and the one past the last."""
    hyper: Array
    """(M, K) float64, one column a hyper-parameter; the update's docstring names them."""
    device_bounds: Array | None = None
    """`bounds` as an array of the backend, needed where the update is captured in a graph.

    Then `hyper` is one too, and is read when the update runs, so that it may hold other numbers at each replay. Both must live
    as long as the graph."""


class StepReport(NamedTuple):
    """What a captured update reports to the host, which reads it later, and what it checks before it updates anything."""

    loss: Array
    """The step's loss, one element."""
    correct: Array | None
    """int32, one element."""
    previous: Array
    """(3,) float64: what the step before reported; zeros before the first step."""
    written: Array
    """(3,) float64, written by the update: loss, correct (0 if it is None) and skipped_updates.

    `skipped_updates` is how many updates in a row have changed nothing: the first one whose loss was not finite, and all that
    came after it."""


class FlatStorage(Protocol):
    """What an update needs of an arena: flat arrays of one length and dtype."""

    data: Array
    grad: Array
    slots: dict[str, Array]
    shadow: Array | None
    """`data` rounded to 16 bits, which an update keeps up to date; None if nobody computes with it."""
    scaling: Array | None
    """(scale, good, skipped) in float32, the state of dynamic loss scaling; None if `grad` is of the loss itself.

    Then `grad` is that of scale times the loss. `gradient_norm` takes the scale out again, and an update whose gradients
    overflowed changes nothing but this state: the scale halves, and doubles again after 2,000 updates in a row that were good.
    """


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


class UpdatePrimitives(ABC):
    """Optimizers' steps, max-norm and averages."""

    @abstractmethod
    def gradient_norm(self, arena: FlatStorage, segments: Segments, *, max_norm: float) -> Array:
        """(norm, scale), shape (2,): the 2-norm of the segments' gradients, and min(1, max_norm / (norm + 1e-6)).

        With `arena.scaling` the norm is that of the loss's own gradients, and scale takes the loss scale out of them; a norm
        that is not finite means that they overflowed.
        """

    @abstractmethod
    def update(
        self,
        rule: str,
        arena: FlatStorage,
        segments: Segments,
        *,
        clip: Array | None = None,
        report: StepReport | None = None,
    ) -> None:
        """A step of an optimizer, in place: w' = w - lr decoupled w, g = clip[1] grad + decay w' + l1 sign(w'), then a rule:

        - "sgd": a = momentum a + g; w = w' - lr (g + momentum a if nesterov, else a).
        - "adam" (Kingma & Ba 2015, algorithm 1): a = beta1 a + (1 - beta1) g; b = beta2 b + (1 - beta2) g^2;
          w = w' - lr a / (1 - beta1^t) / (sqrt(b / (1 - beta2^t)) + eps).
        - "rmsprop" (Tieleman & Hinton 2012): a = alpha a + (1 - alpha) g^2; b = momentum b + g / (sqrt(a) + eps);
          w = w' - lr b.
        - "adagrad" (Duchi et al. 2011): a = a + g^2; w = w' - lr g / (sqrt(a) + eps).
        - "lion" (Chen et al. 2023, algorithm 2): w = w' - lr sign(beta1 a + (1 - beta1) g); a = beta2 a + (1 - beta2) g.
        - "muon" (Jordan 2024): where orthogonal, a = beta1 a + (1 - beta1) g; w = w' - lr b; elsewhere "adam".

        Args:
            rule: one of `rules.RULES`, which names the slots a and b of the arena and the columns of `segments.hyper`. A slot
                that the arena does not have reads as 0.
            clip: what `gradient_norm` gave; needed with `arena.scaling`, which changes as it says there.
            report: written, and decides whether anything else is written. `arena.shadow` is written with the parameters.
        """

    @abstractmethod
    def clip_units(
        self, w: Array, limit: float, *, shadow: Array | None, clip: Array | None = None, report: Array | None = None
    ) -> None:
        """Max-norm (Srivastava et al. 2014, section 5.1), in place: each column of w (R, O), the weights that come into one
        unit, whose 2-norm is above `limit`, is scaled down to it.

        Args:
            shadow: w rounded, written with it; None if there is none.
            clip: of the update before, if it was of a scaled loss: where that overflowed, nothing is changed.
            report: (3,), the `StepReport.written` of the update before: where that updated nothing, neither does this.
        """

    @abstractmethod
    def average_update(
        self, average: Array, value: Array, decay: float, *, clip: Array | None = None, report: Array | None = None
    ) -> None:
        """average = decay average + (1 - decay) value, in place; both of one shape. `clip` and `report` as for `clip_units`."""
