"""The callbacks that come with gpunet; `hooks` tells how callbacks work."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.geometry import positive_int
from gpunet.optim.checks import check_monitor
from gpunet.progress import bar
from gpunet.train.history import describe
from gpunet.train.hooks import Callback, StopTraining, TrainerView

__all__ = ["CSVLogger", "EarlyStopping", "LearningRateMonitor", "ProgressBar"]


class Monitor(Callback):
    """A callback that watches one column of the history, which it checks for before training.

    Args:
        monitor: the column.
        mode: "min" if lower values are better, "max" if higher ones are; None to go by the name of
            the column, see `direction`.
        min_delta: by how much a value must be better than the best one to count as an improvement.
    """

    def __init__(self, monitor: str, mode: str | None, min_delta: float = 0.0) -> None:
        if not min_delta >= 0:
            raise ValueError(f"{type(self).__name__}: min_delta is {min_delta} but must not be negative")
        self.monitor, self.min_delta = monitor, min_delta
        self.mode = direction(type(self).__name__, monitor, mode)

    def before_fit(self, trainer: TrainerView) -> None:
        """Raise ValueError if the history will not have the column."""
        check_monitor(type(self).__name__, self.monitor, trainer.columns)

    def best(self, values: Sequence[float]) -> int:
        """The position of the last improvement by more than `min_delta`; -1 if there is none."""
        found, best, sign = -1, -inf, -1.0 if self.mode == "min" else 1.0
        for i, value in enumerate(values):
            if sign * value > best + (self.min_delta if found >= 0 else 0.0):
                found, best = i, sign * value
        return found


LOWER_IS_BETTER = re.compile("loss|error")
HIGHER_IS_BETTER = re.compile(
    r"accuracy|precision|recall|dice|(?<![a-z0-9])(epoch(?![a-z])|f1|m?iou|map(?![a-z])|top\d)"
)


def direction(owner: str, monitor: str, mode: str | None) -> str:
    """Whether lower ("min") or higher ("max") values of a column are better.

    Lower ones are better where the name contains "loss" or "error", such as "top5_error" or
    "dice_loss". Otherwise higher ones are better where it contains accuracy, precision, recall,
    dice, or one of the words f1, iou, map, top5 and epoch. Other names do not tell.

    Args:
        owner: whom errors name.
        monitor: the column.
        mode: "min" or "max"; None to go by the name.
    Raises:
        ValueError: another mode; or None, and the name does not tell.
    """
    if mode in ("min", "max"):
        return mode
    if mode is not None:
        raise ValueError(f"{owner}: mode is {mode!r} but takes 'min', 'max' or None")
    name = monitor.lower()
    if LOWER_IS_BETTER.search(name):
        return "min"
    if HIGHER_IS_BETTER.search(name):
        return "max"
    raise ValueError(f"{owner}: the name of monitor {monitor!r} does not say what is better: pass mode='min' or 'max'")


class EarlyStopping(Monitor):
    """Ends training when a column has not improved for `patience` epochs of this fit.

    Args:
        monitor: a column of the history.
        patience: how many epochs without an improvement end the training.
        min_delta: by how much a value must be better than the best one to count as an improvement.
        restore_best: whether the model and the trainer's averages get back their states of the best
            epoch when the fit ends, for whatever reason. After a fit that was stopped, the next one
            then goes on from these; one that goes on from a `Checkpoint` does not.
        mode: "min" if lower values are better, "max" if higher ones are; None to go by the name of
            the column, see `direction`.
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
        self.patience = positive_int("EarlyStopping", "patience", patience)
        self.restore_best = restore_best
        self._first: int | None = None  # the epoch at which the running fit began; None outside a fit
        self._states = list[Mapping[str, np.ndarray]]()

    def state_dict(self) -> dict[str, Any]:
        """Where the running fit began to count epochs, and the states of its best epoch."""
        arrays = {f"{i}.{name}": array for i, state in enumerate(self._states) for name, array in state.items()}
        return {"first": self._first, **arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next fit go on counting where another was left."""
        self._first = state["first"]
        names = [name.partition(".") for name in state if name != "first"]
        count = len({i for i, _, _ in names})
        self._states = [{name: state[f"{i}.{name}"] for j, _, name in names if j == str(i)} for i in range(count)]

    def before_fit(self, trainer: TrainerView) -> None:
        """Begin to count epochs, or go on counting; end a fit that had ended before it was left."""
        super().before_fit(trainer)
        if self._first is None:
            self._first, self._states = len(trainer.history), []
        else:
            self._check_patience(trainer.history[self.monitor][self._first :] if len(trainer.history) else [])

    def after_epoch(self, trainer: TrainerView) -> None:
        """Keep the state of a best epoch; end training `patience` epochs after it."""
        values = trainer.history[self.monitor][self._first :]
        if self.restore_best and self.best(values) == len(values) - 1:
            self._states = [part.state_dict() for part in _stateful(trainer)]
        self._check_patience(values)

    def after_fit(self, trainer: TrainerView) -> None:
        """Load the state of the best epoch."""
        states, self._states, self._first = self._states, [], None
        if states:
            for part, state in zip(_stateful(trainer), states, strict=True):
                part.load_state_dict(state)

    def _check_patience(self, values: Sequence[float]) -> None:
        if values and len(values) - 1 - self.best(values) >= self.patience:
            raise StopTraining


def _stateful(trainer: TrainerView) -> list[Any]:
    """The parts of a trainer whose states are kept: the model, and the averages if it has them."""
    return [part for part in (trainer.model, trainer.average) if part is not None]


class LearningRateMonitor(Callback):
    """Records the learning rates of every step.

    Attributes:
        rates: for each step a list with the rate of each parameter group.
    """

    def __init__(self) -> None:
        self.rates: list[list[float]] = []

    def state_dict(self) -> dict[str, Any]:
        """The rates so far, an array (steps, groups)."""
        return {"rates": np.array(self.rates, np.float64).reshape(len(self.rates), -1)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after these rates."""
        self.rates = state["rates"].tolist()

    def before_step(self, trainer: TrainerView) -> None:
        """Record the rates that the step will use."""
        self.rates.append([group["lr"] for group in trainer.optimizer.groups])


class CSVLogger(Callback):
    """Writes the whole history to a CSV file after each epoch, see `History.to_csv`."""

    order = 40

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def before_fit(self, trainer: TrainerView) -> None:
        """Make the folder of the file, so that an error comes before any training."""
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def after_epoch(self, trainer: TrainerView) -> None:
        """Write the file."""
        if trainer.leads:
            trainer.history.to_csv(self.path)


class ProgressBar(Callback):
    """Shows a bar on stderr, see `gpunet.progress`, and prints one line for each epoch on stdout."""

    order = 60  # before EarlyStopping, which would keep it from printing the last line
    every_step = False

    def __init__(self) -> None:
        self._bar: Any = None

    def before_epoch(self, trainer: TrainerView) -> None:
        """Show an empty bar."""
        self._bar = bar(_epoch(trainer.epoch + 1, trainer), trainer.steps, "step")

    def after_step(self, trainer: TrainerView) -> None:
        """Move the bar on, and show the means so far."""
        if self._bar is not None:
            self._bar.set_postfix_str(describe(trainer.running), refresh=False)
            self._bar.update(trainer.step + 1 - self._bar.n)

    def after_epoch(self, trainer: TrainerView) -> None:
        """Print the line in place of the bar."""
        self._close()
        row = trainer.history.rows[-1]
        print(f"{_epoch(int(row['epoch']), trainer)}  {describe(row)}", flush=True)

    def after_fit(self, trainer: TrainerView) -> None:
        """Remove the bar, and say how training ended if Ctrl-C ended it."""
        self._close()
        if trainer.history.interrupted:
            print(f"interrupted after {trainer.epoch} finished epochs", flush=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _epoch(number: int, trainer: TrainerView) -> str:
    return f"epoch {number}/{trainer.last_epoch}"
