"""Learning-rate schedules: pure functions of the step, applied to an optimizer's groups."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import cos, pi
from typing import Any

import numpy as np

from gpunet.optim.checks import NOT_NEGATIVE, POSITIVE, check_counts, check_number, check_parts, check_rates
from gpunet.optim.optimizer import Optimizer, check_optimizer


class Schedule:
    """Sets every group's learning rate to its first one times `factor(step)`.

    The first rate is in force from construction on; call `step` after each optimizer step.
    """

    def __init__(self, optimizer: Optimizer):
        check_optimizer(type(self).__name__, optimizer)
        self.optimizer = optimizer
        self.base_rates = [g["lr"] for g in optimizer.groups]
        self.step_count = 0
        self._apply()

    def factor(self, step: int) -> float:
        """What the first learning rate is multiplied by at a step, counted from 0."""
        raise NotImplementedError

    def step(self) -> None:
        """Go on to the next step."""
        self.seek(self.step_count + 1)

    def seek(self, step: int) -> None:
        """Go to a step, counted from 0."""
        check_counts(type(self).__name__, "seek's steps", [step])
        self.rates(int(step))  # raises before anything is changed
        self.step_count = int(step)
        self._apply()

    def rates(self, step: int) -> list[float]:
        """The groups' learning rates at a step."""
        try:
            factor = self.factor(step)
        except OverflowError as error:
            raise OverflowError(f"{type(self).__name__}: the factor of step {step} is beyond float64") from error
        return [rate * factor for rate in self.base_rates]

    def state_dict(self) -> dict[str, Any]:
        """The step, the first rates, and the schedule's own numbers."""
        return {"step_count": self.step_count, "base_rates": list(self.base_rates), "options": self.options()}

    def options(self) -> dict[str, Any]:
        """The numbers that the schedule was made with."""
        return {k: v for k, v in vars(self).items() if isinstance(v, int | float) and k != "step_count"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave; ValueError or TypeError, and no change, if it is of another schedule."""
        name = type(self).__name__
        check_parts(name, state, self.state_dict())
        check_counts(name, "the state's steps", [state["step_count"]])
        if state["options"] != self.options():
            raise ValueError(f"{type(self).__name__}: the state is of {state['options']}, not {self.options()}")
        check_rates(name, "the state's base_rates", state["base_rates"], len(self.base_rates))
        self.step_count, self.base_rates = int(state["step_count"]), list(state["base_rates"])
        self._apply()

    def _apply(self) -> None:
        for group, rate in zip(self.optimizer.groups, self.rates(self.step_count), strict=True):
            group["lr"] = rate


class ConstantLR(Schedule):
    """The rate stays as it is."""

    def factor(self, step: int) -> float:
        """1."""
        return 1.0


class StepLR(Schedule):
    """The rate is multiplied by `gamma` after every `size` steps."""

    def __init__(self, optimizer: Optimizer, size: int, gamma: float = 0.1):
        _check_steps("StepLR", size=size)
        check_number("StepLR", "gamma", gamma, NOT_NEGATIVE)
        self.size, self.gamma = int(size), float(gamma)
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        """gamma^floor(step / size)."""
        return self.gamma ** (step // self.size)


class MultiStepLR(Schedule):
    """The rate is multiplied by `gamma` at each of the steps `milestones`, at one that is named twice, twice."""

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1):
        given = list(milestones) if isinstance(milestones, Iterable) else milestones
        if not isinstance(given, list) or not all(isinstance(m, int | np.integer) and m >= 0 for m in given):
            raise ValueError(f"MultiStepLR: milestones are {given!r} but must be integers of at least 0")
        check_number("MultiStepLR", "gamma", gamma, POSITIVE)
        self.milestones, self.gamma = sorted(int(m) for m in given), float(gamma)
        super().__init__(optimizer)

    def options(self) -> dict[str, Any]:
        """Also the milestones, in their order."""
        return {**super().options(), "milestones": list(self.milestones)}

    def factor(self, step: int) -> float:
        """gamma^(how many milestones are not after the step)."""
        return self.gamma ** bisect_right(self.milestones, step)


class ExponentialLR(Schedule):
    """The rate is multiplied by `gamma` after every step."""

    def __init__(self, optimizer: Optimizer, gamma: float):
        check_number("ExponentialLR", "gamma", gamma, POSITIVE)
        self.gamma = float(gamma)
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        """gamma^step."""
        return self.gamma**step


class CosineLR(Schedule):
    """Half a cosine from 1 down to `final` over `total` steps (Loshchilov & Hutter 2017, equation 5), constant after."""

    def __init__(self, optimizer: Optimizer, total: int, final: float = 0.0):
        _check_steps("CosineLR", total=total)
        self.total, self.final = int(total), float(final)
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        """final + (1 - final)(1 + cos(pi step / total)) / 2."""
        return _cosine(1.0, self.final, step / self.total)


class OneCycleLR(Schedule):
    """Half a cosine up from 1 / `start_div` to 1, then one down to 1 / `end_div` (Smith & Topin 2019).

    Args:
        optimizer: whose learning rates are the peaks.
        total: steps of the whole cycle; constant after.
        rise: share of them before the peak.
        start_div, end_div: peak over first, and peak over last rate.
    """

    def __init__(
        self, optimizer: Optimizer, total: int, *, rise: float = 0.3, start_div: float = 25.0, end_div: float = 1e4
    ):
        _check_steps("OneCycleLR", total=total)
        if not 0 < rise < 1:
            raise ValueError(f"OneCycleLR: rise is {rise} but must lie between 0 and 1")
        self.total, self.rise, self.start_div, self.end_div = int(total), float(rise), float(start_div), float(end_div)
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        """Between 1 / end_div and 1."""
        peak = self.rise * self.total
        if step < peak:
            return _cosine(1 / self.start_div, 1.0, step / peak)
        return _cosine(1.0, 1 / self.end_div, (step - peak) / (self.total - peak))


class WarmupLR(Schedule):
    """A line from 1 / `steps` up to 1 over the first `steps` steps, then another schedule, counted from there.

    Args:
        optimizer: to schedule.
        steps: length of the warm-up.
        then: a schedule of the same optimizer, which this one replaces; constant if None.
    """

    def __init__(self, optimizer: Optimizer, steps: int, then: Schedule | None = None):
        _check_steps("WarmupLR", steps=steps)
        if then is not None:
            if not isinstance(then, Schedule):
                raise TypeError(f"WarmupLR: then is {type(then).__name__} but takes a Schedule, which goes by the step")
            if then.optimizer is not optimizer:
                raise ValueError("WarmupLR: then schedules another optimizer")
            for group, rate in zip(optimizer.groups, then.base_rates, strict=True):
                group["lr"] = rate
        self.steps, self.then = int(steps), then
        super().__init__(optimizer)

    def options(self) -> dict[str, Any]:
        """Also the other schedule's."""
        then = {} if self.then is None else {"name": type(self.then).__name__, **self.then.options()}
        return {**super().options(), "then": then}

    def factor(self, step: int) -> float:
        """(step + 1) / steps, then the other's."""
        if step < self.steps:
            return (step + 1) / self.steps
        return 1.0 if self.then is None else self.then.factor(step - self.steps)


@contextmanager
def sought(schedule: Schedule | None, step: int | None) -> Iterator[None]:
    """Inside, a schedule, if there is one, stands at a step, if one is named; afterwards all is as it was."""
    if schedule is None or step is None or step == schedule.step_count:
        yield
        return
    now, rates = schedule.step_count, [group["lr"] for group in schedule.optimizer.groups]
    schedule.seek(step)
    try:
        yield
    finally:
        schedule.step_count = now
        for group, rate in zip(schedule.optimizer.groups, rates, strict=True):
            group["lr"] = rate


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + cos(pi * min(share, 1.0))) / 2


def _check_steps(schedule: str, **steps: int) -> None:
    for name, value in steps.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{schedule}: {name} is {value!r} but must be an integer of at least 1")
