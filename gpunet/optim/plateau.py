"""`ReduceLROnPlateau`: learning rates that fall when a metric stops improving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isnan
from numbers import Real
from typing import Any

from gpunet.optim.checks import NOT_NEGATIVE, SHARE, check_counts, check_monitor, check_number, check_state, group_rates
from gpunet.optim.optimizer import Optimizer, check_optimizer

__all__ = ["ReduceLROnPlateau"]


class ReduceLROnPlateau:
    """Multiplies learning rates by `factor` after more than `patience` calls without improvement.

    Unlike a `Schedule`, it depends on what was measured: call ``step(metric)`` after each
    validation. The Trainer does so after each epoch, with the history's column `monitor`. The
    arguments, their order and what counts as better are PyTorch's.

    Args:
        optimizer: whose learning rates fall.
        mode: whether less ("min") or more ("max") is better.
        factor: what a rate is multiplied by; below 1.
        patience: how many calls without improvement in a row are allowed.
        threshold: by how much a metric must be better than the best one: a share of the best one
            for `threshold_mode` "rel", an amount in the metric's own unit for "abs".
        cooldown: calls after a reduction that are not counted.
        min_lr: the lowest rate; one for all groups, or a sequence with one for each.
        eps: a rate that would fall by no more than this stays as it is.
        monitor: column of the history, such as "valid_loss" or "loss".
    Attributes:
        best: the best metric so far; None before the first.
        bad_epochs: calls without improvement since then.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
        *,
        monitor: str = "valid_loss",
    ):
        name = type(self).__name__
        check_optimizer(name, optimizer)
        for argument, value, choices in (
            ("mode", mode, ("min", "max")),
            ("threshold_mode", threshold_mode, ("rel", "abs")),
        ):
            if value not in choices:
                raise ValueError(f"{name}: {argument} is {value!r} but takes one of {', '.join(choices)}")
        check_number(name, "factor", factor, SHARE)
        check_counts(name, "patience and cooldown", [patience, cooldown])
        check_number(name, "threshold", threshold, NOT_NEGATIVE)
        check_number(name, "eps", eps, NOT_NEGATIVE)
        self.optimizer, self.monitor = optimizer, monitor
        self.mode, self.threshold_mode = mode, threshold_mode
        self.factor, self.threshold, self.eps = float(factor), float(threshold), float(eps)
        self.patience, self.cooldown = int(patience), int(cooldown)
        self.min_lr = group_rates(name, "min_lr", min_lr, len(optimizer.groups))
        self.best: float | None = None
        self.step_count = self.bad_epochs = self.cooldown_left = 0

    def check_monitor(self, columns: Sequence[str]) -> None:
        """Raise ValueError if the history will not have the column."""
        check_monitor(type(self).__name__, self.monitor, columns)

    def step(self, metric: Any) -> None:
        """Take up a new metric, a number or a one-element tensor, and reduce the rates if due."""
        try:
            value = metric.item() if hasattr(metric, "item") else metric
        except (ValueError, RuntimeError):  # not of one element
            value = metric
        if not isinstance(value, Real):
            raise TypeError(f"{type(self).__name__}: metric is {metric!r} but takes a number")
        value = float(value)
        self.step_count += 1
        if self._is_better(value):
            self.best, self.bad_epochs = value, 0
        else:
            self.bad_epochs += 1
        if self.cooldown_left:
            self.cooldown_left, self.bad_epochs = self.cooldown_left - 1, 0
        if self.bad_epochs > self.patience:
            self._reduce()
            self.cooldown_left, self.bad_epochs = self.cooldown, 0

    def state_dict(self) -> dict[str, Any]:
        """The measurements so far, the present rates, and the arguments that it was made with."""
        return {
            "step_count": self.step_count,
            "best": self.best,
            "bad_epochs": self.bad_epochs,
            "cooldown_left": self.cooldown_left,
            "rates": [group["lr"] for group in self.optimizer.groups],
            "options": self.options(),
        }

    def options(self) -> dict[str, Any]:
        """What it was made with."""
        names = ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "eps", "monitor")
        return {**{name: getattr(self, name) for name in names}, "min_lr": list(self.min_lr)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned.

        Raises:
            TypeError, ValueError: the state is of another one; then nothing is changed.
        """
        name = type(self).__name__
        check_state(name, state, self.state_dict(), "rates")
        counts = [state[key] for key in ("step_count", "bad_epochs", "cooldown_left")]
        check_counts(name, "the state's counts", counts)
        if state["best"] is not None:
            check_number(name, "the state's best", state["best"], (lambda value: not isnan(value), "a number"))
        self.step_count, self.bad_epochs, self.cooldown_left = counts
        self.best = state["best"]
        for group, rate in zip(self.optimizer.groups, state["rates"], strict=True):
            group["lr"] = rate

    def _is_better(self, value: float) -> bool:
        sign = -1.0 if self.mode == "min" else 1.0
        if self.best is None:
            return sign * value > -inf
        if self.threshold_mode == "rel":
            return sign * value > sign * self.best * (1 + sign * self.threshold)
        return sign * value > sign * self.best + self.threshold

    def _reduce(self) -> None:
        for group, lowest in zip(self.optimizer.groups, self.min_lr, strict=True):
            rate = max(group["lr"] * self.factor, lowest)
            if group["lr"] - rate > self.eps:
                group["lr"] = rate
