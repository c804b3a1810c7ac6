"""Callbacks: small classes with the hooks they need, called with the trainer.

A hook is a method ``before_fit``, ``after_fit``, ``before_epoch``, ``after_epoch``, ``before_step`` or ``after_step``;
a callback defines those it needs, and callbacks take turns by their `order`, the lowest first. A hook ends the training
by raising `StopTraining`, an epoch by `StopEpoch` (around a step), and leaves a batch out by `SkipStep` (before it).
Where one raises, those after it have no turn. ``after_fit`` is called however training ended.

Where the step is captured, hooks around steps make each step a graph of its own, in place of many steps a graph. A callback
that is content with one call for several steps, ``before_step`` of the first and ``after_step`` of the last, says
``every_step = False``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gpunet.train.control import StopTraining

if TYPE_CHECKING:
    from gpunet.train.trainer import Trainer

HOOKS = ("before_fit", "after_fit", "before_epoch", "after_epoch", "before_step", "after_step")


class Callback:
    """What callbacks may inherit: an `order`. Any object with one of the hooks is a callback."""

    order: ClassVar[int] = 0
    every_step: ClassVar[bool] = True


class Hooks:
    """The hooks of many callbacks by name, in turn; TypeError for an object that has none."""

    def __init__(self, callbacks: Sequence[Any]) -> None:
        for callback in callbacks:
            if isinstance(callback, type) or not any(hasattr(callback, hook) for hook in HOOKS):
                raise TypeError(f"Trainer: callback {callback!r} has none of the hooks {', '.join(HOOKS)}")
        turns = sorted(callbacks, key=lambda callback: getattr(callback, "order", 0))
        self._methods = {hook: [getattr(c, hook) for c in turns if hasattr(c, hook)] for hook in HOOKS}

    @property
    def every_step(self) -> bool:
        """Whether a hook must be called around every step."""
        hooks = [*self._methods["before_step"], *self._methods["after_step"]]
        return any(getattr(getattr(hook, "__self__", None), "every_step", True) for hook in hooks)

    def call(self, hook: str, trainer: Trainer) -> None:
        """Give each callback that defines the hook its turn."""
        for method in self._methods[hook]:
            method(trainer)


class _Monitor(Callback):
    """Watches one column of the history; that it will exist is checked before training.

    Less is better for a column with "loss" in its name, more for others.
    """

    def __init__(self, monitor: str, min_delta: float = 0.0) -> None:
        if not min_delta >= 0:
            raise ValueError(f"{type(self).__name__}: min_delta is {min_delta} but must not be negative")
        self.monitor, self.min_delta = monitor, min_delta
        self._sign = -1.0 if "loss" in monitor else 1.0

    def before_fit(self, trainer: Trainer) -> None:
        """ValueError if the history will not have the column."""
        if self.monitor not in trainer.columns:
            raise ValueError(
                f"{type(self).__name__}: monitor {self.monitor!r} is no column; there are {', '.join(trainer.columns)}"
            )

    def best(self, values: Sequence[float]) -> int:
        """Position of the last value that was better than the best before it by more than `min_delta`; -1 if none."""
        found, best = -1, -inf
        for i, value in enumerate(values):
            if self._sign * value > best + (self.min_delta if found >= 0 else 0.0):
                found, best = i, self._sign * value
        return found


class EarlyStopping(_Monitor):
    """Ends training when a column has not improved for `patience` epochs of this fit.

    Args:
        monitor: column of the history; less is better if "loss" is in its name, else more.
        patience: epochs without improvement after which it stops.
        min_delta: how much better a value must be than the best one to count.
        restore_best: whether the model, and the trainer's averages, end with their states of the best epoch, however training
            ended.
    """

    order = 90

    def __init__(
        self, monitor: str = "valid_loss", patience: int = 5, min_delta: float = 0.0, restore_best: bool = True
    ) -> None:
        super().__init__(monitor, min_delta)
        if not isinstance(patience, int | np.integer) or patience < 1:
            raise ValueError(f"EarlyStopping: patience is {patience!r} but must be an integer of at least 1")
        self.patience = int(patience)
        self.restore_best = restore_best

    def before_fit(self, trainer: Trainer) -> None:
        """Count anew."""
        super().before_fit(trainer)
        self._first = len(trainer.history)
        self._states: list[Mapping[str, np.ndarray]] = []

    def after_epoch(self, trainer: Trainer) -> None:
        """Keep the best state; stop when it is too long ago."""
        values = trainer.history[self.monitor][self._first :]
        best = self.best(values)
        if best == len(values) - 1:
            if self.restore_best:
                self._states = [part.state_dict() for part in _stateful(trainer)]
        elif len(values) - 1 - best >= self.patience:
            raise StopTraining

    def after_fit(self, trainer: Trainer) -> None:
        """Bring the best state back."""
        if self._states:
            for part, state in zip(_stateful(trainer), self._states, strict=True):
                part.load_state_dict(state)


def _stateful(trainer: Trainer) -> list[Any]:
    """The model, and the averages if there are."""
    return [part for part in (trainer.model, trainer.average) if part is not None]


class BestCheckpoint(_Monitor):
    """Writes a checkpoint, from which training can go on, after each epoch that was the best of the history.

    Args:
        path: the file; always a whole one, for it is written aside and renamed.
        monitor: column of the history; less is better if "loss" is in its name, else more. "epoch" keeps the last.
        metadata: kept in the file, what JSON can hold; `interop.read_metadata` gives it back.
    """

    order = 50

    def __init__(
        self,
        path: str | os.PathLike[str],
        monitor: str = "valid_accuracy",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(monitor)
        self.path, self.metadata = Path(path), metadata

    def after_epoch(self, trainer: Trainer) -> None:
        """Save if this epoch is the best."""
        if self.best(trainer.history[self.monitor]) == len(trainer.history) - 1:
            trainer.save(self.path, metadata=self.metadata)


class LearningRateMonitor(Callback):
    """Notes the learning rate of every step in `rates`: a list a step, with a number a parameter group."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []

    def before_step(self, trainer: Trainer) -> None:
        """Note the rates that the step will use."""
        self.rates.append([group["lr"] for group in trainer.optimizer.groups])


class CSVLogger(Callback):
    """Writes the whole history to a CSV file after each epoch."""

    order = 40

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def before_fit(self, trainer: Trainer) -> None:
        """Make the file's folder, so that a place that cannot be written to is known before any work."""
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def after_epoch(self, trainer: Trainer) -> None:
        """Write it."""
        trainer.history.to_csv(self.path)
