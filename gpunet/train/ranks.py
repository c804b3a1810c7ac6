"""What the ranks of a run tell each other: gradients, moments, and whether they are still alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpunet import random
from gpunet.distributed import Ranks, checksum, expect_alike
from gpunet.distributed.devices import on_devices
from gpunet.nn import BatchNorm2d, Module
from gpunet.optim import Optimizer

ALIKE_EVERY = 1000
"""Updates from one comparison of the ranks' parameters to the next within an epoch; it takes 1 ms for a megabyte."""


def mean_moments(ranks: Ranks, buffers: Sequence[Any], weight: float) -> None:
    """Give every rank the mean of the ranks' running moments of batch norm.

    Args:
        buffers: as `running_moments` finds them.
        weight: how much this rank's count; the weights of all ranks add up to 1.
    """
    if ranks.size == 1 or not buffers:
        return
    backend = buffers[0].backend
    if (devices := on_devices(ranks, backend)) is not None:
        for buffer in buffers:
            backend.copy(backend.scale(buffer.data, None, weight), out=buffer.data)
        devices.add(*(buffer.data for buffer in buffers))
        return
    flat = np.concatenate([buffer.numpy().ravel() for buffer in buffers]) * weight
    ranks.add(flat)
    ends = np.cumsum([buffer.size for buffer in buffers])
    for buffer, mean in zip(buffers, np.split(flat, ends[:-1]), strict=True):
        backend.copy(backend.asarray(mean.reshape(buffer.shape)), out=buffer.data)


def running_moments(model: Module) -> list[Any]:
    """The running moments of a model's batch norms, but for those that take all ranks' samples anyway."""
    norms = (module for _, module in model.named_modules() if isinstance(module, BatchNorm2d))
    return [moment for norm in norms if not norm.synchronised for moment in (norm.running_mean, norm.running_var)]


def begin_alike(ranks: Ranks, model: Module, optimizer: Optimizer) -> None:
    """Give every rank what rank 0 has: seed, parameters, the optimizer's arrays, buffers and averages."""
    if ranks.size == 1:
        return
    steps = optimizer.steps.tolist()
    expect_alike(ranks, "the updates so far", steps, "load the same checkpoint on all ranks, or on none")
    random.resume(*ranks.from_first((random.current_seed(), random.drawn())))
    arena, backend = optimizer.arena, optimizer.arena.backend
    buffers = [buffer.data for _, buffer in model.named_buffers()]
    arrays = [arena.data, *_slots(optimizer), *_averages(optimizer), *buffers]
    if (devices := on_devices(ranks, backend)) is not None:
        devices.copy_from_first(*arrays)
        arrays = []
    for array in arrays:
        host = backend.to_numpy(array)
        ranks.copy_from_first(host)
        if host is not array:
            backend.copy(backend.asarray(host), out=array)
    arena.version += 1


def check_alike(ranks: Ranks, optimizer: Optimizer, place: str, model: Module | None = None) -> None:
    """Compare the parameters of all ranks, bit for bit.

    Args:
        place: where the run is, for the error.
        model: compare the optimizer's arrays and its averages too, and the moments of this model's
            batch norms.
    Raises:
        RuntimeError: they are not the same on all ranks; it names the first that has others than rank 0.
    """
    if ranks.size == 1:
        return
    arena = optimizer.arena
    compared = {"parameters": [arena.data]}
    if model is not None:
        compared["optimizer's arrays"] = _slots(optimizer)
        compared["averages"] = _averages(optimizer)
        compared["moments of batch norm"] = [moment.data for moment in running_moments(model)]
    for what, arrays in compared.items():
        own = checksum(*map(arena.backend.to_numpy, arrays))
        expect_alike(
            ranks, f"Trainer: the checksum of the {what} after {place}", own,
            "a hook, a loss or a transform does something else on that rank, or its processor is of another kind",
        )  # fmt: skip


def _slots(optimizer: Optimizer) -> list[Any]:
    """The optimizer's own arrays: one or more for each parameter, and the scale of losses where there is one."""
    arena = optimizer.arena
    return [*arena.slots.values(), *([] if arena.scaling is None else [arena.scaling])]


def _averages(optimizer: Optimizer) -> list[Any]:
    """The averages of parameters and buffers that follow the optimizer."""
    return [array for follower in optimizer.followers for array in follower.arrays()]
