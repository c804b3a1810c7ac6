"""The protocol of a training step, which `EagerStep` and `capture.CapturedStep` implement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from math import nan
from typing import Any, NamedTuple, Protocol

import numpy as np

from gpunet.autograd import Tensor
from gpunet.nn import Module

Loss = Callable[[Tensor, Any], Tensor]
"""Computes the loss, a tensor of one element, from (model(x), y)."""
LossStep = Callable[[Module, tuple[Any, ...]], Tensor]
"""Computes the loss, a tensor of one element, from (model, batch), in place of a `Loss`."""


class StepResult(NamedTuple):
    """What one batch gave, on the host."""

    loss: float
    rows: int
    label_weight: float | None = None
    """What a loss weighted by labels was divided by; None for a mean over the rows."""
    logits: np.ndarray | None = None
    """None where a `LossStep` computed the loss, or where no metric reads the logits."""
    labels: Any = None
    measured: tuple[np.ndarray, ...] = ()
    """What each metric has measured, see `metrics.Measures`; () where metrics are to take the logits."""
    rate: float = nan
    """The learning rate of the optimizer's first group in this step."""


class TrainingStep(Protocol):
    """What a Trainer needs to train on batches; an `EagerStep` evaluates and predicts."""

    max_batches: int
    """How many batches `run` takes at once."""
    batches_per_update: int
    """How many batches go into one update; the last update of an epoch may have fewer."""

    def session(self) -> AbstractContextManager[None]:
        """A context around a whole fit, inside which `run` is called."""

    def run(self, batches: Sequence[Any], epoch: int, step: int) -> Iterator[StepResult]:
        """Train on batches, and give the result of each, in order.

        Nothing need have run before the iterator is exhausted.

        Args:
            batches: 1 to `max_batches`.
            epoch, step: the place of the first batch, which decides its random numbers.
        Raises:
            FloatingPointError: a loss is not finite. The results before the update of that batch
                were given. Neither this update nor a later one has changed a parameter or a slot;
                running moments of batch norm have moved.
        """
