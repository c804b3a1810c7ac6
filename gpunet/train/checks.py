"""Checks of what a Trainer takes, made before anything is changed, and of what an epoch leaves."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import numpy as np

from gpunet.backends import Backend
from gpunet.cuda.capture import Recorder
from gpunet.distributed import Ranks
from gpunet.distributed.devices import on_devices
from gpunet.geometry import positive_int
from gpunet.nn import Module
from gpunet.optim import ExponentialMovingAverage, Optimizer
from gpunet.train.ranks import check_alike


def check_loader(name: str, loader: Any) -> None:
    """Raise TypeError for what gives no batches, ValueError for a loader without any."""
    if not hasattr(loader, "__iter__"):
        raise TypeError(f"Trainer: {name} must give batches, such as a DataLoader; got {type(loader).__name__}")
    if isinstance(loader, Sized) and len(loader) == 0:
        raise ValueError(f"Trainer: {name} has no batches")


def check_fit(train_loader: Any, epochs: int, valid: Any) -> None:
    """Raise TypeError or ValueError for arguments that `Trainer.fit` does not take."""
    positive_int("Trainer", "epochs", epochs)
    check_loader("train_loader", train_loader)
    if valid is not None:
        check_loader("valid", valid)


def check_metadata(metadata: Any) -> None:
    """Raise ValueError where a checkpoint's metadata has the key that the Trainer uses."""
    if metadata is not None and "training" in metadata:
        raise ValueError("Trainer: metadata has the key 'training', under which the checkpoint keeps its own state")


def check_parts(model: Module, optimizer: Optimizer, schedule: Any, average: Any) -> None:
    """Raise ValueError where the parts of a training belong to different models or optimizers.

    Raises:
        TypeError: `average` is no ExponentialMovingAverage.
    """
    if not optimizer.holds(model.parameters()):
        raise ValueError("Trainer: the optimizer holds no parameter of the model")
    if schedule is not None and schedule.optimizer is not optimizer:
        raise ValueError("Trainer: schedule is of another optimizer")
    if average is None:
        return
    if not isinstance(average, ExponentialMovingAverage):
        raise TypeError(f"Trainer: average takes an ExponentialMovingAverage, got {type(average).__name__}")
    for what, own, given in (("optimizer", optimizer, average.optimizer), ("model", model, average.model)):
        if given is not own:
            raise ValueError(f"Trainer: average is of another {what}")


def make_recorder(capture: bool | str, backend: Backend, ranks: Ranks) -> Recorder | None:
    """The recorder that captures the step; None where it runs eagerly.

    It does so on several ranks too, unless NCCL carries their gradients: what goes by way of the
    host's memory cannot be captured.

    Raises:
        ValueError: another `capture`; or True, and the backend cannot capture, or NCCL does not join
            several ranks.
    """
    if capture not in (True, False, "auto"):
        raise ValueError(f"Trainer: capture is {capture!r} but takes True, False or 'auto'")
    by_host = ranks.size > 1 and on_devices(ranks, backend) is None  # which all ranks must ask
    if capture is True and by_host:
        raise ValueError(f"Trainer: capture=True on {ranks.size} ranks takes GPUs that NCCL joins, got {backend.name}")
    recorder = backend.recorder() if capture and not by_host else None
    if capture is True and recorder is None:
        raise ValueError(f"Trainer: capture=True takes a CUDA backend, got {backend.name}")
    return recorder


def check_parameters(model: Module, optimizer: Optimizer, epoch: int, ranks: Ranks) -> None:
    """Raise FloatingPointError where a parameter is not finite after an epoch, before it is saved.

    The same error comes where the scale of the loss has fallen below 1: then gradients overflow
    whatever the scale is. RuntimeError: ranks have come apart.
    """
    check_alike(ranks, optimizer, f"epoch {epoch}", model)
    arena = optimizer.arena
    if arena.scaling is not None and (scale := arena.backend.to_numpy(arena.scaling)[0]) < 1:
        raise FloatingPointError(f"Trainer: gradients overflow float16 at loss scale {scale:g} after epoch {epoch}")
    with np.errstate(invalid="ignore"):
        total = arena.backend.sum(arena.data, (0,))
    if not np.isfinite(arena.backend.to_numpy(total)):
        raise FloatingPointError(f"Trainer: the parameters are not finite after epoch {epoch}")


def check_rate(rate: float | None, offered: bool, epoch: int) -> float:
    """The learning rate of an epoch's last step; ValueError if no step was run.

    Args:
        offered: whether there were batches, which hooks have left out then.
    """
    if rate is None:
        why = "hooks left out every batch" if offered else "train_loader gave no batches"
        raise ValueError(f"Trainer: no step was run in epoch {epoch}: {why}")
    return rate


def check_valid_loss(loss: float, epoch: int) -> None:
    """Raise FloatingPointError where the loss of the validation is not finite after an epoch."""
    if not np.isfinite(loss):
        raise FloatingPointError(f"Trainer: valid_loss is {loss} after epoch {epoch}")
