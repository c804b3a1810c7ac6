"""The loss and the metrics of a pass over data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpunet.train.metrics import Mean, Metric, takes_measures
from gpunet.train.step import StepResult


class EpochMeter:
    """Measures the loss and the metrics of one pass over a loader.

    Attributes:
        rows: how many rows have been measured.
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.metrics, self._loss, self.rows = metrics, Mean(), 0
        for metric in metrics:
            metric.reset()

    def update(self, result: StepResult) -> None:
        """Add a batch."""
        self.rows += result.rows
        self._loss.update(result.loss, result.rows if result.label_weight is None else result.label_weight)
        for i, metric in enumerate(self.metrics):
            if result.measured:
                metric.add(result.measured[i])  # type: ignore[attr-defined]
            elif result.logits is not None:
                metric.update(result.logits, result.labels)

    def state_dict(self) -> dict[str, Any]:
        """What has been added up, without metrics that have no state to give."""
        kept = {metric.name: metric.state_dict() for metric in self.metrics if hasattr(metric, "state_dict")}
        return {"rows": self.rows, "loss": self._loss.state_dict(), "metrics": kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> list[str]:
        """Take up what `state_dict` returned -> the names of metrics of which it has nothing."""
        self.rows = state["rows"]
        self._loss.load_state_dict(state["loss"])
        known = {metric.name: metric for metric in self.metrics if hasattr(metric, "load_state_dict")}
        for name, kept in state["metrics"].items():
            if name in known:
                known[name].load_state_dict(kept)
        return [metric.name for metric in self.metrics if metric.name not in state["metrics"]]

    def values(self) -> dict[str, Any]:
        """The loss and the metrics by name."""
        ignored = self.rows and not self._loss.weight  # then the loss is 0, as that of a batch is
        return {"loss": 0.0 if ignored else self._loss.value, **{metric.name: metric.value for metric in self.metrics}}


def with_measurements(metrics: Sequence[Metric], result: StepResult, rows: int) -> StepResult:
    """The result with what metrics measure in place of its logits, unless one takes these, or they are fewer numbers.

    Args:
        rows: of the whole batch, by which all ranks decide alike.
    """
    if result.logits is None:
        return result
    found = tuple(np.asarray(m.measure(result.logits, result.labels)) for m in metrics if takes_measures(m))
    logits = rows * result.logits[0].size
    if len(found) < len(metrics) or sum(part.size for part in found) > logits:
        return result
    return result._replace(logits=None, labels=None, measured=found)
