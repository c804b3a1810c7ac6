"""What the ranks of a run tell each other: results, gradients, moments, and whether they are still alike."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpunet import random
from gpunet.distributed import Ranks, Share, expect_alike
from gpunet.distributed.devices import on_devices
from gpunet.nn import BatchNorm2d, Module
from gpunet.optim import ExponentialMovingAverage, Optimizer
from gpunet.train.step import StepResult

ALIKE_EVERY = 100
"""Updates from one comparison of the ranks' parameters to the next."""


def joined(ranks: Ranks, shares: Sequence[Share], results: Sequence[StepResult]) -> list[StepResult]:
    """The results of whole batches, of each of which each rank has computed its share.

    Losses count by the rows of a share, or by the weight of its labels. Logits and labels come in the
    order of the rows, so that metrics measure what one rank alone would measure.
    """
    if ranks.size == 1:
        return list(results)
    own = [(share.total, result if share.rows else None) for share, result in zip(shares, results, strict=True)]
    gathered = list(zip(*ranks.gather("the results of batches", own), strict=True))
    for of_batch in gathered:
        if len({total for total, _ in of_batch}) > 1:
            raise ValueError(
                f"Trainer: a batch has {[total for total, _ in of_batch]} rows on the ranks: each must be given the whole "
                "batch, of which it takes its share"
            )
    return [
        _joined([each for _, each in of_batch if each is not None], share.total, result)
        for share, result, of_batch in zip(shares, results, gathered, strict=True)
    ]


def _joined(results: Sequence[StepResult], rows: int, result: StepResult) -> StepResult:
    """The result of a batch of so many rows, from those of its shares; the rest is that of `result`."""
    weights = [each.rows if each.label_weight is None else each.label_weight for each in results]
    total = sum(weights)
    loss = sum(each.loss * weight for each, weight in zip(results, weights, strict=True)) / total if total else 0.0
    logits = [each.logits for each in results if each.logits is not None]
    counts = list(zip(*(each.correct for each in results if each.correct is not None), strict=True))
    return result._replace(
        loss=loss,
        rows=rows,
        label_weight=None if result.label_weight is None else total,
        logits=np.concatenate(logits) if logits else None,
        labels=np.concatenate([each.labels for each in results]) if logits else None,
        correct=None if result.correct is None else (sum(counts[0]), sum(counts[1])),
    )


def joined_rows(ranks: Ranks, share: Share, values: np.ndarray) -> np.ndarray:
    """The rows of a whole batch, of which each rank has those of its share."""
    return values if ranks.size == 1 else np.concatenate(ranks.gather("predictions", values[: share.rows]))


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


def begin_alike(
    ranks: Ranks, model: Module, optimizer: Optimizer, average: ExponentialMovingAverage | None = None
) -> None:
    """Give every rank what rank 0 has: seed, parameters, the optimizer's arrays, buffers and averages."""
    if ranks.size == 1:
        return
    steps = optimizer.steps.tolist()
    expect_alike(ranks, "the updates so far", steps, "load the same checkpoint on all ranks, or on none")
    random.resume(*ranks.from_first((random.current_seed(), random.drawn())))
    arena, backend = optimizer.arena, optimizer.arena.backend
    arrays = [arena.data, *arena.slots.values(), *(buffer.data for _, buffer in model.named_buffers())]
    if average is not None:
        arrays += [average.weights.data, average.statistics.data]
    if (devices := on_devices(ranks, backend)) is not None:
        devices.copy_from_first(*arrays)
        arrays = []
    for array in arrays:
        host = backend.to_numpy(array)
        ranks.copy_from_first(host)
        if host is not array:
            backend.copy(backend.asarray(host), out=array)
    arena.version += 1


def check_alike(ranks: Ranks, optimizer: Optimizer, place: str) -> None:
    """Compare the parameters of all ranks, bit for bit.

    Args:
        place: where the run is, for the error.
    Raises:
        RuntimeError: they are not the same on all ranks; it names the first that has others than rank 0.
    """
    if ranks.size == 1:
        return
    arena = optimizer.arena
    own = zlib.crc32(arena.backend.to_numpy(arena.data).tobytes())
    expect_alike(
        ranks, f"Trainer: the checksum of the parameters after {place}", own,
        "a hook, a loss or a transform does something else on that rank, or its processor is of another kind",
    )  # fmt: skip
