"""Callbacks: small classes with the hooks they need, called with the trainer.

A hook is a method ``before_fit``, ``after_fit``, ``before_epoch``, ``after_epoch``, ``before_step`` or ``after_step``;
a callback defines those it needs, and callbacks take turns by their `order`, the lowest first. A hook, any of them, ends the
training by raising `StopTraining`; one around a step ends the epoch by `StopEpoch`, and ``before_step`` leaves a batch out by
`SkipStep`. Elsewhere these two mean nothing and are an error. Where one raises, those after it have no turn. ``after_fit`` is
called however training ended, of every callback: a StopTraining there changes nothing.

A hook may call `evaluate` and `predict` of its trainer: what is measured and drawn in training stays as it is without.

Where the step is captured, hooks around steps make each step a graph of its own, in place of many steps a graph. A callback
that is content with one call for several steps, ``before_step`` of the first and ``after_step`` of the last, says
``every_step = False``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gpunet.train.control import WHERE, StopTraining

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
        """Give each callback that defines the hook its turn.

        Raises:
            RuntimeError: one raises `SkipStep` or `StopEpoch` where that means nothing.
        """
        for method in self._methods[hook]:
            try:
                method(trainer)
            except StopTraining:
                if hook != "after_fit":
                    raise
            except tuple(WHERE) as error:
                allowed = next(hooks for kind, hooks in WHERE.items() if isinstance(error, kind))
                if hook not in allowed:
                    owner = type(getattr(method, "__self__", method)).__name__
                    raise RuntimeError(
                        f"Trainer: {owner}.{hook} raised {type(error).__name__}, which means something in "
                        f"{' and '.join(allowed)} alone; StopTraining ends the training"
                    ) from error
                raise


class _Monitor(Callback):
    """Watches one column of the history; that it will exist is checked before training.

    Args:
        monitor: the column.
        mode: "min" where less is better, "max" where more is; None where the name says it, see `direction`.
        min_delta: how much better a value must be than the best one to count.
    """

    def __init__(self, monitor: str, mode: str | None, min_delta: float = 0.0) -> None:
        if not min_delta >= 0:
            raise ValueError(f"{type(self).__name__}: min_delta is {min_delta} but must not be negative")
        self.monitor, self.min_delta = monitor, min_delta
        self.mode = direction(type(self).__name__, monitor, mode)

    def before_fit(self, trainer: Trainer) -> None:
        """ValueError if the history will not have the column."""
        if self.monitor not in trainer.columns:
            raise ValueError(
                f"{type(self).__name__}: monitor {self.monitor!r} is no column; there are {', '.join(trainer.columns)}"
            )

    def best(self, values: Sequence[float]) -> int:
        """Position of the last value that was better than the best before it by more than `min_delta`; -1 if none."""
        found, best, sign = -1, -inf, -1.0 if self.mode == "min" else 1.0
        for i, value in enumerate(values):
            if sign * value > best + (self.min_delta if found >= 0 else 0.0):
                found, best = i, sign * value
        return found


LESS = re.compile("loss|error")
MORE = re.compile(r"accuracy|precision|recall|dice|(?<![a-z0-9])(epoch(?![a-z])|f1|m?iou|map(?![a-z])|top\d)")


def direction(owner: str, monitor: str, mode: str | None) -> str:
    """Whether less ("min") or more ("max") of a column is better.

    Less is where its name has "loss" or "error" in it, as "top5_error" and "dice_loss" have; else more where it has accuracy,
    precision, recall, dice, or one of the words f1, iou, map and top5, or is the epoch. Of other names no one can tell.

    Args:
        owner: named in errors.
        monitor: the column.
        mode: "min" or "max"; None to go by the name.
    Raises:
        ValueError: another mode; none, and the name does not say it.
    """
    if mode in ("min", "max"):
        return mode
    if mode is not None:
        raise ValueError(f"{owner}: mode is {mode!r} but takes 'min', 'max' or None")
    name = monitor.lower()
    if LESS.search(name):
        return "min"
    if MORE.search(name):
        return "max"
    raise ValueError(f"{owner}: the name of monitor {monitor!r} does not say what is better: pass mode='min' or 'max'")


class EarlyStopping(_Monitor):
    """Ends training when a column has not improved for `patience` epochs of this fit.

    Args:
        monitor: column of the history.
        patience: epochs without improvement after which it stops.
        min_delta: how much better a value must be than the best one to count.
        restore_best: whether the model, and the trainer's averages, end with their states of the best epoch, however training
            ended.
        mode: "min" where less is better, "max" where more is; None where the name says it, see `direction`.
    """

    order = 90

    def __init__(
        self,
        monitor: str = "valid_loss",
        patience: int = 5,
        min_delta: float = 0.0,
        restore_best: bool = True,
        mode: str | None = None,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        if not isinstance(patience, int | np.integer) or patience < 1:
            raise ValueError(f"EarlyStopping: patience is {patience!r} but must be an integer of at least 1")
        self.patience = int(patience)
        self.restore_best = restore_best
        self._first, self._states = 0, list[Mapping[str, np.ndarray]]()

    def before_fit(self, trainer: Trainer) -> None:
        """Count anew."""
        super().before_fit(trainer)
        self._first = len(trainer.history)
        self._states = []

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
        states, self._states = self._states, []
        if states:
            for part, state in zip(_stateful(trainer), states, strict=True):
                part.load_state_dict(state)


def _stateful(trainer: Trainer) -> list[Any]:
    """The model, and the averages if there are."""
    return [part for part in (trainer.model, trainer.average) if part is not None]


class BestCheckpoint(_Monitor):
    """Writes a checkpoint, from which training can go on, after each epoch that was the best of the history.

    Args:
        path: the file; always a whole one, for it is written aside and renamed.
        monitor: column of the history. "epoch" keeps the last.
        metadata: kept in the file, what JSON can hold; `interop.read_metadata` gives it back.
        mode: "min" where less is better, "max" where more is; None where the name says it, see `direction`.
    """

    order = 50

    def __init__(
        self,
        path: str | os.PathLike[str],
        monitor: str = "valid_accuracy",
        metadata: Mapping[str, Any] | None = None,
        mode: str | None = None,
    ) -> None:
        super().__init__(monitor, mode)
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
