"""The results of whole batches, of each of which each rank has computed its share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpunet.distributed import Ranks, Share
from gpunet.train.meter import with_measurements
from gpunet.train.metrics import Metric
from gpunet.train.step import StepResult


def joined(
    ranks: Ranks, shares: Sequence[Share], results: Sequence[StepResult], metrics: Sequence[Metric]
) -> list[StepResult]:
    """The results of whole batches, on all ranks.

    Losses count by the rows of a share, or by the weight of its labels. Metrics measure each share;
    for those that take logits, these and the labels come in the order of the rows.

    Raises:
        ValueError: ranks have batches with different numbers of rows.
    """
    if ranks.size == 1 or not results:  # none on any rank, where a graph's first loss is not finite
        return list(results)
    results = [with_measurements(metrics, result, share.total) for share, result in zip(shares, results, strict=True)]
    own = [_numbers(share, result) for share, result in zip(shares, results, strict=True)]
    sums = ranks.total("the results of batches", np.concatenate(own))
    by_batch = np.split(sums, np.cumsum([numbers.size for numbers in own])[:-1])
    _check_rows(ranks, shares, by_batch)
    whole = [_joined(*parts) for parts in zip(shares, results, by_batch, strict=True)]
    if results[0].logits is None:
        return whole
    own_logits = [
        (result.logits, result.labels) if share.rows else None for share, result in zip(shares, results, strict=True)
    ]
    of_batches = zip(*ranks.gather("logits", own_logits), strict=True)
    return [_with_logits(result, parts) for result, parts in zip(whole, of_batches, strict=True)]


def joined_rows(ranks: Ranks, share: Share, values: np.ndarray) -> np.ndarray:
    """The rows of a whole batch, of which each rank has those of its share."""
    return values if ranks.size == 1 else np.concatenate(ranks.gather("predictions", values[: share.rows]))


def _numbers(share: Share, result: StepResult) -> np.ndarray:
    """What is added up: rows of the batch and their square, loss, its weight, and what metrics have measured."""
    weight = result.rows if result.label_weight is None else result.label_weight
    own = np.concatenate([[result.loss * weight, weight], *map(np.ravel, result.measured)])
    if not share.rows:
        own = np.zeros_like(own)  # whatever came out of a row that counts for nothing
    return np.concatenate([[share.total, share.total**2], own])


def _check_rows(ranks: Ranks, shares: Sequence[Share], by_batch: Sequence[np.ndarray]) -> None:
    """Raise ValueError where ranks have batches of different lengths: the squares tell where the sums agree."""
    expected = [(ranks.size * share.total, ranks.size * share.total**2) for share in shares]
    if expected == [tuple(sums[:2]) for sums in by_batch]:
        return
    rows = zip(*ranks.gather("the rows of batches", [share.total for share in shares]), strict=True)
    raise ValueError(
        f"Trainer: a batch has {next(list(each) for each in rows if len({*each}) > 1)} rows on the ranks: each must be "
        "given the whole batch, of which it takes its share"
    )


def _joined(share: Share, result: StepResult, sums: np.ndarray) -> StepResult:
    """The result of a whole batch, from the sums of `_numbers`; the rest is that of `result`."""
    _, _, loss, weight = sums[:4]
    ends = np.cumsum([part.size for part in result.measured], dtype=int)
    parts = np.split(sums[4:], ends[:-1]) if result.measured else []
    return result._replace(
        loss=float(loss / weight) if weight else 0.0,
        rows=share.total,
        label_weight=None if result.label_weight is None else float(weight),
        measured=tuple(part.reshape(own.shape) for part, own in zip(parts, result.measured, strict=True)),
    )


def _with_logits(result: StepResult, parts: Sequence[Any]) -> StepResult:
    """The result with logits and labels in the order of the rows, from those of the shares that have rows."""
    logits, labels = zip(*filter(None, parts), strict=True)
    return result._replace(logits=np.concatenate(logits), labels=np.concatenate(labels))
