"""The contract of updates of parameters: formulas of optimizers, max-norm and running averages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

import numpy as np

from gpunet.backends.contract.arrays import Array

__all__ = ["RULES", "SHARED", "UNGUARDED", "FlatStorage", "Guard", "Rule", "Segments", "StepReport", "columns"]


class Segments(NamedTuple):
    """Ranges of an arena's elements, and the hyper-parameters of each range."""

    bounds: np.ndarray
    """(M, 2) int64: first element and the one past the last."""
    hyper: Array
    """(M, K) float64, one column for each hyper-parameter: those of `SHARED`, then those of
    `Rule.own`."""
    device_bounds: Array | None = None
    """`bounds` as an array of the backend, needed where the update is captured in a graph.

    Then `hyper` is one too, and is read when the update runs, so that it may hold other numbers at
    each replay. Both must live as long as the graph."""


class StepReport(NamedTuple):
    """What a captured update reports to the host, and checks before it updates anything."""

    loss: Array
    """The loss of the update's batch, or the sum over its batches; one element."""
    correct: Array | None
    """int32, one element."""
    previous: Array
    """(3,) float64: what the step before reported; zeros before the first step."""
    written: Array
    """(3,) float64, written by the update: loss, correct (0 if it is None) and skipped_updates.

    `skipped_updates` is how many updates in a row have changed nothing: the first one whose loss
    was not finite, and all that came after it."""


class Guard(NamedTuple):
    """What decides on the device whether an update, and the launches behind it, change anything."""

    clip: Array | None = None
    """(norm, scale) as `gradient_norm` returns them. An update multiplies the gradients by scale,
    and skips the step where the loss is scaled and norm is not finite, for then the gradients
    overflowed. The launches behind the update skip the step wherever norm is not finite."""
    report: StepReport | None = None
    """Written by the update. The step changes nothing where its skipped_updates is not 0."""

    def behind(self, arena: FlatStorage) -> Guard:
        """The guard of launches behind an update: only the norm of a scaled loss may stop them."""
        return self if arena.scaling is not None else self._replace(clip=None)


UNGUARDED = Guard()
"""Every step changes the parameters, and the gradients are taken as they are."""


class FlatStorage(Protocol):
    """What an update needs of an arena: flat arrays of one length and dtype."""

    data: Array
    grad: Array
    slots: dict[str, Array]
    shadow: Array | None
    """`data` rounded to 16 bits, which every update writes; None where no operation computes with
    it."""
    scaling: Array | None
    """(scale, good, skipped) in float32, the state of dynamic loss scaling (Micikevicius et al.
    2018, section 3.2); None if `grad` is of the loss itself.

    With it, `grad` is that of scale times the loss. `gradient_norm` divides by the scale again, and
    an update whose gradients overflowed changes nothing but this state: the scale halves, and
    doubles again after 2,000 updates in a row that were good.
    """


class Rule(NamedTuple):
    """What an update rule keeps for each parameter, and its own hyper-parameters."""

    slots: tuple[str, ...]
    """Names of the arena's slots, which are the formula's a and b, in this order."""
    own: tuple[str, ...]
    """Columns of `Segments.hyper` behind those of `SHARED`."""


SHARED = ("lr", "weight decay", "L1", "decoupled weight decay")
"""The first columns of every rule."""
_ADAM = ("beta1", "beta2", "eps", "1 - beta1^t", "1 - beta2^t")
RULES = {
    "sgd": Rule(("momentum",), ("momentum", "nesterov")),
    "adam": Rule(("mean", "square"), _ADAM),
    "rmsprop": Rule(("square", "momentum"), ("alpha", "eps", "momentum")),
    "adagrad": Rule(("square",), ("eps",)),
    "lion": Rule(("mean",), ("beta1", "beta2")),
    "muon": Rule(("mean", "square"), (*_ADAM, "orthogonal")),
}
"""By the names of their formulas in kernels/optimizer.cu, which are capitalised there. In segments
that Muon does not leave to Adam, the column "orthogonal" is 1, the slot "square" holds the
direction of the step, which is computed before the update, and "beta1" is the momentum."""


def columns(rule: str) -> int:
    """How many hyper-parameters a segment has."""
    return len(SHARED) + len(RULES[rule].own)


class UpdatePrimitives(ABC):
    """Optimizers' steps, max-norm and averages."""

    @abstractmethod
    def gradient_norm(self, arena: FlatStorage, segments: Segments, max_norm: float) -> Array:
        """(norm, scale): 2-norm of the segments' gradients, and min(1, max_norm / (norm + 1e-6)).

        With `arena.scaling` the norm is that of the loss's own gradients, and scale divides by the
        loss scale as well; a norm that is not finite means that the gradients overflowed.
        """

    @abstractmethod
    def update(self, rule: str, arena: FlatStorage, segments: Segments, guard: Guard = UNGUARDED) -> None:
        """One step of an optimizer, in place.

        First w' = w - lr decoupled w and g = clip[1] grad + decay w' + l1 sign(w'), then the rule,
        with the slots a and b:

        - "sgd": a = momentum a + g; w = w' - lr (g + momentum a if nesterov, else a).
        - "adam" (Kingma & Ba 2015, algorithm 1): a = beta1 a + (1 - beta1) g;
          b = beta2 b + (1 - beta2) g^2;
          w = w' - lr a / (1 - beta1^t) / (sqrt(b / (1 - beta2^t)) + eps).
        - "rmsprop" (Tieleman & Hinton 2012): a = alpha a + (1 - alpha) g^2;
          b = momentum b + g / (sqrt(a) + eps); w = w' - lr b.
        - "adagrad" (Duchi et al. 2011): a = a + g^2; w = w' - lr g / (sqrt(a) + eps).
        - "lion" (Chen et al. 2023, algorithm 2): w = w' - lr sign(beta1 a + (1 - beta1) g);
          a = beta2 a + (1 - beta2) g.
        - "muon" (Jordan 2024): in orthogonal segments a = beta1 a + (1 - beta1) g; w = w' - lr b;
          in the others "adam".

        Args:
            rule: one of `RULES`. A slot that the arena does not have is read as 0.
            guard: needed with `arena.scaling`, and then with a clip. `arena.shadow` is written with
                the parameters.
        """

    @abstractmethod
    def clip_units(self, w: Array, limit: float, shadow: Array | None, guard: Guard = UNGUARDED) -> None:
        """Max-norm (Srivastava et al. 2014, section 5.1), in place: scale each column of w down to
        a 2-norm of `limit`.

        Args:
            w: (R, O); a column holds the weights that come into one unit.
            shadow: w rounded to 16 bits, written with w; None if there is none.
            guard: that of the update before; where it changed nothing, this changes nothing.
        """

    @abstractmethod
    def average_update(self, average: Array, value: Array, decay: float, guard: Guard = UNGUARDED) -> None:
        """average = decay average + (1 - decay) value, in place; `guard` is as for `clip_units`."""
