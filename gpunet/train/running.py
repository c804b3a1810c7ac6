"""The running epoch: how far it is, and what it has measured so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from gpunet.errors import warn
from gpunet.train.metrics import EpochMeter, Metric


class RunningEpoch:
    """Counts and measures an epoch; a checkpoint that is written within it keeps this.

    Args:
        metrics: of the epoch; they begin anew.
        state: what `state_dict` returned where the epoch was left; None to begin one.
    Attributes:
        taken: how many batches of the epoch are behind it, trained on or left out by hooks.
        seconds: which the steps have taken, without their hooks.
        started: when the clock that counts them began or went on.
        rate: the learning rate of the last step; None before the first.
        schedule_start: the step of the schedule at which the epoch began; None without one.
    """

    def __init__(self, metrics: Sequence[Metric], state: Mapping[str, Any] | None = None) -> None:
        self.meter = EpochMeter(metrics)
        self.taken, self.seconds, self.started = 0, 0.0, perf_counter()
        self.rate: float | None = None
        self.schedule_start: int | None = None
        if state is not None:
            self.taken, self.seconds, self.rate = state["taken"], state["seconds"], state["rate"]
            self.schedule_start = state["schedule_start"]
            if lost := self.meter.load_state_dict(state["meter"]):
                names = ", ".join(lost)
                warn(f"Trainer: the checkpoint has no state of {names}, which the rest of the epoch alone decides")

    def state_dict(self) -> dict[str, Any]:
        """What an epoch that goes on from here needs, as JSON can hold it."""
        return {
            "taken": self.taken,
            "seconds": self.seconds,
            "rate": self.rate,
            "schedule_start": self.schedule_start,
            "meter": self.meter.state_dict(),
        }

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock while hooks run."""
        self.seconds += perf_counter() - self.started
        try:
            yield
        finally:
            self.started = perf_counter()
