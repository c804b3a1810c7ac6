"""Hooks: where a Trainer calls callbacks, and what a callback sees of it.

A hook is a method ``before_fit``, ``after_fit``, ``before_epoch``, ``after_epoch``,
``before_step``, ``after_step`` or ``on_stop`` of a callback, and is called with the trainer.
Callbacks take turns by their `order`, the lowest first.

Hooks control training by three exceptions. Any hook may raise `StopTraining`, which ends the fit.
The hooks around a step may raise `StopEpoch`, which ends the epoch, and ``before_step`` may raise
`SkipStep`, which leaves the batch out; in other hooks these two are errors. If a hook raises, the
callbacks after it get no turn. ``on_stop`` is called where StopTraining, Ctrl-C or SIGTERM ends the
fit after a whole step: a checkpoint that it writes goes on with the next one. ``after_fit`` is
called after that, however training ended. A StopTraining that these two raise changes nothing.

A hook may call `evaluate` and `predict` of its trainer: neither the metrics of the running epoch
nor the random numbers of training change.

Where the step is captured, hooks around steps make each step a graph of its own. A callback that
needs only one call for several steps, ``before_step`` of the first one and ``after_step`` of the
last one, sets ``every_step = False``, so that a graph may hold many steps.

Where several ranks train (`gpunet.distributed`), the hooks are called on all of them. One that
prints or writes files does so where ``trainer.leads``; but `evaluate`, `predict` and whatever
else waits for the other ranks must be called on all.

A callback with something to remember has the methods ``state_dict``, which returns a dict of what
JSON can hold and, at its top level, of NumPy arrays; and ``load_state_dict``, which takes it up.
Checkpoints keep it, and `Trainer.load` gives it to the callback of the same class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from gpunet.files import PathLike
from gpunet.nn import Module
from gpunet.optim import ExponentialMovingAverage, Optimizer
from gpunet.train.history import History

__all__ = ["Callback", "SkipStep", "StopEpoch", "StopTraining"]

HOOKS = ("before_fit", "after_fit", "before_epoch", "after_epoch", "before_step", "after_step", "on_stop")


class StopTraining(Exception):  # noqa: N818 - it is no error
    """Raised by any hook: `fit` returns. The next one goes on with an epoch that has not ended."""


class StopEpoch(Exception):  # noqa: N818
    """Raised by a hook before or after a step: the epoch ends here, and counts."""


class SkipStep(Exception):  # noqa: N818
    """Raised by ``before_step``: the batch is left out."""


ALLOWED_HOOKS: dict[type[Exception], tuple[str, ...]] = {
    StopEpoch: ("before_step", "after_step"),
    SkipStep: ("before_step",),
}
"""The hooks that may raise an exception that is an error in the others."""


class TrainerView(Protocol):
    """What gpunet's callbacks read and call of the `Trainer`, which stands above them."""

    model: Module
    optimizer: Optimizer
    average: ExponentialMovingAverage | None
    history: History
    columns: list[str]
    """The names that the rows of the history will have."""
    epoch: int
    """How many epochs are finished, which is the number of the running epoch, from 0."""
    last_epoch: int
    """How many epochs will be finished when this fit ends."""
    step: int
    """The position of the running step in its epoch, from 0."""
    steps: int | None
    """How many steps the epoch has; None if that is unknown."""

    @property
    def leads(self) -> bool:
        """Whether this process prints and writes files, which is rank 0 of several."""

    @property
    def running(self) -> dict[str, Any]:
        """Means over the steps of the running epoch so far."""

    def save(
        self, path: PathLike, metadata: Mapping[str, Any] | None = None, *, keep: int = 1, wait: bool = True
    ) -> None:
        """Write a checkpoint."""


class Callback:
    """A base class that callbacks may inherit. Any object with one of the hooks is a callback."""

    order: ClassVar[int] = 0
    """Callbacks with a lower order take their turn earlier."""
    every_step: ClassVar[bool] = True
    """Whether the hooks around a step must be called for every step."""


class Hooks:
    """The hooks of several callbacks, by name; TypeError for an object that has none."""

    def __init__(self, callbacks: Sequence[Any]) -> None:
        for callback in callbacks:
            if isinstance(callback, type) or not any(hasattr(callback, hook) for hook in HOOKS):
                raise TypeError(f"Trainer: callback {callback!r} has none of the hooks {', '.join(HOOKS)}")
        turns = sorted(callbacks, key=lambda callback: getattr(callback, "order", 0))
        self._callbacks = turns
        self._methods = {hook: [getattr(c, hook) for c in turns if hasattr(c, hook)] for hook in HOOKS}

    @property
    def every_step(self) -> bool:
        """Whether a hook must be called around every step."""
        hooks = [*self._methods["before_step"], *self._methods["after_step"]]
        return any(getattr(getattr(hook, "__self__", None), "every_step", True) for hook in hooks)

    def states(self) -> list[tuple[str, dict[str, Any]]]:
        """(class, state) of each callback that keeps one, in the order of their turns."""
        return [(type(each).__name__, each.state_dict()) for each in self._with_state()]

    def load_states(self, states: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Give each callback the next state of its class; one for which there is none begins anew."""
        waiting = list(self._with_state())
        for name, state in states:
            owner = next((each for each in waiting if type(each).__name__ == name), None)
            if owner is not None:
                waiting.remove(owner)
                owner.load_state_dict(state)

    def _with_state(self) -> Iterator[Any]:
        return (each for each in self._callbacks if hasattr(each, "state_dict") and hasattr(each, "load_state_dict"))

    def call(self, hook: str, trainer: TrainerView) -> None:
        """Call this hook of each callback that has it.

        Raises:
            RuntimeError: it raises `SkipStep` or `StopEpoch` and may not.
        """
        for method in self._methods[hook]:
            try:
                method(trainer)
            except StopTraining:
                if hook not in ("on_stop", "after_fit"):
                    raise
            except tuple(ALLOWED_HOOKS) as error:
                allowed = next(hooks for kind, hooks in ALLOWED_HOOKS.items() if isinstance(error, kind))
                if hook in allowed:
                    raise
                owner = type(getattr(method, "__self__", method)).__name__
                raise RuntimeError(
                    f"Trainer: {owner}.{hook} raised {type(error).__name__}, which only {' and '.join(allowed)} may"
                ) from error
