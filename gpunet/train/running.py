"""The running epoch: how far it is, and what it has measured so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from gpunet.errors import warn
from gpunet.train.history import numbers_of
from gpunet.train.meter import EpochMeter
from gpunet.train.metrics import Metric


class RunningEpoch:
    """Counts and measures an epoch; a checkpoint that is written within it keeps this.

    Args:
        metrics: of the epoch; they begin anew.
        state: what `state_dict` returned where the epoch was left; None to begin one.
        traits: of the loader, see `traits_of`; a warning names those that are not the state's.
    Attributes:
        taken: how many batches of the epoch are behind it, trained on or left out by hooks.
        seconds: which the steps have taken, without their hooks.
        started: when the clock that counts them began or went on.
        rate: the learning rate of the last step; None before the first.
        ended: whether a hook has ended the steps, so that only the validation is left.
        schedule_start: the step of the schedule at which the epoch began; None without one.
    """

    def __init__(
        self, metrics: Sequence[Metric], state: Mapping[str, Any] | None = None, traits: Mapping[str, Any] | None = None
    ) -> None:
        self.meter = EpochMeter(metrics)
        self.taken, self.seconds, self.started = 0, 0.0, perf_counter()
        self.traits, self.ended = dict(traits or {}), False
        self.rate: float | None = None
        self.schedule_start: int | None = None
        if state is not None:
            self.taken, self.seconds, self.rate = state["taken"], state["seconds"], state["rate"]
            self.schedule_start, self.ended = state["schedule_start"], state.get("ended", False)
            self._check_traits(state.get("loader", {}))
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
            "ended": self.ended,
            "loader": self.traits,
            "meter": self.meter.state_dict(),
        }

    def means(self) -> dict[str, Any]:
        """The means so far: loss, metrics that are numbers, images_per_second."""
        return {**numbers_of(self.meter.values()), "images_per_second": self.meter.rows / max(self.seconds, 1e-9)}

    def _check_traits(self, saved: Mapping[str, Any]) -> None:
        pairs = {name: (saved[name], self.traits[name]) for name in saved.keys() & self.traits.keys()}
        if changed := [f"{name} {old}, now {new}" for name, (old, new) in sorted(pairs.items()) if old != new]:
            warn(f"Trainer: the epoch was left with {'; '.join(changed)}: the rest of it has other batches")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock while hooks run."""
        self.seconds += perf_counter() - self.started
        try:
            yield
        finally:
            self.started = perf_counter()


def traits_of(loader: Any, batches_per_update: int) -> dict[str, Any]:
    """What decides an epoch's batches beside the seed and the epoch, as far as a loader tells."""
    dataset = getattr(loader, "dataset", None)
    return {
        "batch_size": getattr(loader, "batch_size", None),
        "batches": len(loader) if isinstance(loader, Sized) else None,
        "batches_per_update": batches_per_update,
        "samples": len(dataset) if isinstance(dataset, Sized) else None,
        "shuffle": getattr(loader, "shuffle", None),
    }
