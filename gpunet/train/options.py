"""What a Trainer takes, checked before anything is changed."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from gpunet.backends import Backend
from gpunet.cuda.capture import Recorder
from gpunet.nn import Module
from gpunet.optim import ExponentialMovingAverage, Optimizer


def check_loader(name: str, loader: Any) -> None:
    """TypeError, ValueError: it is no loader, or has no batches."""
    if not hasattr(loader, "__iter__"):
        raise TypeError(f"Trainer: {name} must give batches, such as a DataLoader; got {type(loader).__name__}")
    if isinstance(loader, Sized) and len(loader) == 0:
        raise ValueError(f"Trainer: {name} has no batches")


def check_owner(model: Module, optimizer: Optimizer) -> None:
    """ValueError: the optimizer is of another model."""
    if not optimizer.holds(model.parameters()):
        raise ValueError("Trainer: the optimizer holds no parameter of the model")


def check_average(model: Module, optimizer: Optimizer, average: Any) -> None:
    """TypeError, ValueError: it is no average, or of something else."""
    if not isinstance(average, ExponentialMovingAverage):
        raise TypeError(f"Trainer: average takes an ExponentialMovingAverage, got {type(average).__name__}")
    for what, own, given in (("optimizer", optimizer, average.optimizer), ("model", model, average.model)):
        if given is not own:
            raise ValueError(f"Trainer: average is of another {what}")


def make_recorder(capture: bool | str, backend: Backend) -> Recorder | None:
    """What records the step; None where it runs eagerly."""
    if capture not in (True, False, "auto"):
        raise ValueError(f"Trainer: capture is {capture!r} but takes True, False or 'auto'")
    recorder = backend.recorder() if capture else None
    if capture is True and recorder is None:
        raise ValueError(f"Trainer: capture=True takes a CUDA backend, got {backend.name}")
    return recorder
