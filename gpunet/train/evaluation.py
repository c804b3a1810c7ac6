"""Passes over data that train nothing: measuring, and the model's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpunet.autograd import Tensor
from gpunet.nn.module import in_eval_mode
from gpunet.progress import Progress
from gpunet.train.batches import Loader, open_batches
from gpunet.train.checks import check_loader
from gpunet.train.eager import EagerStep
from gpunet.train.history import numbers_of
from gpunet.train.interrupt import Interrupt, watch_interrupts
from gpunet.train.meter import EpochMeter
from gpunet.train.metrics import Metric


def evaluate_batches(
    step: EagerStep, name: str, loader: Loader, metrics: Sequence[Metric], interrupt: Interrupt, shown: Progress
) -> dict[str, Any]:
    """The loss and the metrics over a loader's batches; `name` is what an error calls it."""
    meter = EpochMeter(metrics)
    with in_eval_mode(step.model), open_batches(loader, step.ranks) as batches, shown:
        for i, batch in enumerate(batches):
            step.ranks.note(f"batch {i + 1} of an evaluation")
            meter.update(step.evaluate(batch, metrics))
            shown.update()
            interrupt.check()
    if not meter.rows:
        raise ValueError(f"Trainer: {name} gave no batches")
    return meter.values()


def predict_batches(step: EagerStep, data: Loader | np.ndarray | Tensor, batch_size: int, show: bool) -> np.ndarray:
    """The model's outputs, see `Trainer.predict`; `show` is whether progress is shown."""
    if hasattr(data, "shape"):
        whole: Any = data
        data = [(whole[i : i + batch_size],) for i in range(0, len(whole), batch_size)]
    check_loader("data", data)
    outputs = []
    shown = Progress("predicting", data, "batch", bars=show, lines=show)
    with watch_interrupts() as interrupt, in_eval_mode(step.model), open_batches(data, step.ranks) as batches, shown:
        for batch in batches:
            outputs.append(step.predict(batch))
            shown.update()
            interrupt.check()
    if not outputs:
        raise ValueError("Trainer: data gave no batches")
    return np.concatenate(outputs)


def column_names(metrics: Sequence[Metric], valid: bool) -> list[str]:
    """The columns of a history, with those of a validation or without."""
    own = list(numbers_of(EpochMeter(metrics).values()))
    validated = [f"valid_{name}" for name in own] if valid else []
    return ["epoch", *own, *validated, "lr", "seconds", "images_per_second"]
