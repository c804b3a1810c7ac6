"""Learning-rate schedules: pure functions of the step, applied to an optimizer's groups.

Names, arguments and rates are those of `torch.optim.lr_scheduler`, but for `WarmupLR`, which is
ours.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from math import cos, pi
from typing import Any

import numpy as np

from gpunet.geometry import positive_int
from gpunet.optim.checks import NOT_NEGATIVE, POSITIVE, check_counts, check_number, check_state, group_rates
from gpunet.optim.optimizer import Optimizer, check_optimizer

__all__ = [
    "ConstantLR", "CosineAnnealingLR", "ExponentialLR", "MultiStepLR", "OneCycleLR", "Schedule", "StepLR",
    "WarmupLR",
]  # fmt: skip


class Schedule:
    """Sets every group's learning rate to `rate(base, step)`, with the group's first rate as base.

    The first rates are set at construction; call `step` after each optimizer step. A schedule of
    your own overrides `rate`.

    Args:
        optimizer: whose learning rates are set.
        base_rates: what `rate` starts from, one for each group; the rates that the groups have, if
            None.
    Attributes:
        step_count: how many steps have been made.
    """

    def __init__(self, optimizer: Optimizer, base_rates: Sequence[float] | None = None):
        check_optimizer(type(self).__name__, optimizer)
        self.optimizer = optimizer
        self.base_rates = [g["lr"] for g in optimizer.groups] if base_rates is None else list(base_rates)
        self.step_count = 0
        self._apply()

    def rate(self, base: float, step: int) -> float:
        """The learning rate, at a step counted from 0, of a group whose first rate is `base`."""
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
        """The groups' learning rates at a step.

        Raises:
            OverflowError: a rate that float64 does not hold.
        """
        try:
            return [self.rate(base, step) for base in self.base_rates]
        except OverflowError as error:
            raise OverflowError(f"{type(self).__name__}: the rate of step {step} is beyond float64") from error

    def state_dict(self) -> dict[str, Any]:
        """The step, the first rates, and the numbers that the schedule was made with."""
        return {"step_count": self.step_count, "base_rates": list(self.base_rates), "options": self.options()}

    def options(self) -> dict[str, Any]:
        """The numbers that the schedule was made with."""
        return {k: v for k, v in vars(self).items() if isinstance(v, int | float) and k != "step_count"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned.

        Raises:
            TypeError, ValueError: the state is of another schedule; then nothing is changed.
        """
        name = type(self).__name__
        check_state(name, state, self.state_dict(), "base_rates")
        check_counts(name, "the state's steps", [state["step_count"]])
        self.step_count, self.base_rates = int(state["step_count"]), list(state["base_rates"])
        self._apply()

    def _apply(self) -> None:
        for group, rate in zip(self.optimizer.groups, self.rates(self.step_count), strict=True):
            group["lr"] = rate


class ConstantLR(Schedule):
    """Multiplies the rate by `factor` for the first `total_iters` steps, and by 1 afterwards.

    A factor of 1 keeps the rate the same throughout.
    """

    def __init__(self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5):
        check_number("ConstantLR", "factor", factor, POSITIVE)
        check_counts("ConstantLR", "total_iters", [total_iters])
        self.factor, self.total_iters = float(factor), int(total_iters)
        super().__init__(optimizer)

    def rate(self, base: float, step: int) -> float:
        """See `Schedule.rate`."""
        return base * self.factor if step < self.total_iters else base


class StepLR(Schedule):
    """Multiplies the rate by `gamma`, at least 0, after every `step_size` steps of the optimizer."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1):
        check_number("StepLR", "gamma", gamma, NOT_NEGATIVE)
        self.step_size, self.gamma = positive_int("StepLR", "step_size", step_size), float(gamma)
        super().__init__(optimizer)

    def rate(self, base: float, step: int) -> float:
        """base gamma^floor(step / step_size)."""
        return base * self.gamma ** (step // self.step_size)


class MultiStepLR(Schedule):
    """Multiplies the rate by `gamma` at each step of `milestones`, twice at one named twice.

    Milestones are steps of the optimizer, not epochs; one that is no integer or below 0 raises a
    ValueError.
    """

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

    def rate(self, base: float, step: int) -> float:
        """base gamma^(the number of milestones up to the step)."""
        return base * self.gamma ** bisect_right(self.milestones, step)


class ExponentialLR(Schedule):
    """Multiplies the rate by `gamma` after every step."""

    def __init__(self, optimizer: Optimizer, gamma: float):
        check_number("ExponentialLR", "gamma", gamma, POSITIVE)
        self.gamma = float(gamma)
        super().__init__(optimizer)

    def rate(self, base: float, step: int) -> float:
        """base gamma^step."""
        return base * self.gamma**step


class CosineAnnealingLR(Schedule):
    """Half a cosine down to `eta_min` over `T_max` steps (Loshchilov & Hutter 2017, equation 5).

    Behind step `T_max` the cosine goes on, and the rate rises again, as PyTorch's does.

    Args:
        optimizer: whose learning rates are set.
        T_max: the step at which the rate is `eta_min`.
        eta_min: the lowest rate, of all groups.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0):
        check_number("CosineAnnealingLR", "eta_min", eta_min, NOT_NEGATIVE)
        self.T_max, self.eta_min = positive_int("CosineAnnealingLR", "T_max", T_max), float(eta_min)
        super().__init__(optimizer)

    def rate(self, base: float, step: int) -> float:
        """eta_min + (base - eta_min)(1 + cos(pi step / T_max)) / 2."""
        return _cosine(base, self.eta_min, step / self.T_max)


class OneCycleLR(Schedule):
    """Half a cosine up to `max_lr`, then one down to the final rate (Smith & Topin 2019).

    The final rate is max_lr / div_factor / final_div_factor. It is reached at step
    ``total_steps - 1``, the last one, and stays in force afterwards. Momentum is not cycled.

    Args:
        optimizer: whose learning rates are set.
        max_lr: the largest rate; one for all groups, or a sequence with one for each.
        total_steps: steps of the whole cycle.
        pct_start: share of the steps, from 0 to 1, in which the rate rises.
        div_factor: ratio of the largest rate to the first one.
        final_div_factor: ratio of the first rate to the final one.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int,
        pct_start: float = 0.3,
        *,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ):
        check_optimizer("OneCycleLR", optimizer)
        if not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: pct_start is {pct_start} but must be from 0 to 1")
        check_number("OneCycleLR", "div_factor", div_factor, POSITIVE)
        check_number("OneCycleLR", "final_div_factor", final_div_factor, POSITIVE)
        self.total_steps, self.pct_start = positive_int("OneCycleLR", "total_steps", total_steps), float(pct_start)
        self.div_factor, self.final_div_factor = float(div_factor), float(final_div_factor)
        super().__init__(optimizer, group_rates("OneCycleLR", "max_lr", max_lr, len(optimizer.groups)))

    def rate(self, base: float, step: int) -> float:
        """As above, with `base` as max_lr, which is reached at step pct_start total_steps - 1."""
        first, top, last = base / self.div_factor, self.pct_start * self.total_steps - 1, self.total_steps - 1
        if step >= last:
            return first / self.final_div_factor if top < last else base
        if 0 < top >= step:
            return _cosine(first, base, step / top)
        return _cosine(base, first / self.final_div_factor, (step - top) / (last - top))


class WarmupLR(Schedule):
    """A line from 1 / `steps` of the rate up to all of it in `steps` steps, then a schedule.

    Goyal et al. 2017, for the idea.

    Args:
        optimizer: whose learning rates are set.
        steps: length of the warm-up.
        then: a schedule of the same optimizer, which this one replaces, and whose steps are counted
            from the end of the warm-up; the rate stays as it is if None.
    """

    def __init__(self, optimizer: Optimizer, steps: int, then: Schedule | None = None):
        if then is not None:
            if not isinstance(then, Schedule):
                raise TypeError(f"WarmupLR: then is {type(then).__name__} but takes a Schedule, which goes by the step")
            if then.optimizer is not optimizer:
                raise ValueError("WarmupLR: then schedules another optimizer")
        self.steps, self.then = positive_int("WarmupLR", "steps", steps), then
        super().__init__(optimizer, None if then is None else then.base_rates)

    def options(self) -> dict[str, Any]:
        """Also the other schedule's."""
        then = {} if self.then is None else {"name": type(self.then).__name__, **self.then.options()}
        return {**super().options(), "then": then}

    def rate(self, base: float, step: int) -> float:
        """base (step + 1) / steps, then the other schedule's rate."""
        if step < self.steps:
            return base * ((step + 1) / self.steps)
        return base if self.then is None else self.then.rate(base, step - self.steps)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + cos(pi * share)) / 2
