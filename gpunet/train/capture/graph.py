"""What a graph holds, and how it is captured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpunet import random
from gpunet.autograd import Tensor
from gpunet.backends.contract import Array, Segments, StepReport
from gpunet.cuda.capture import Recorder, row
from gpunet.distributed import Share, computing
from gpunet.distributed.devices import add
from gpunet.errors import BackendError
from gpunet.functional.loss import correct_count, label_weight
from gpunet.train.capture.inputs import GraphInputs
from gpunet.train.capture.staleness import check_hooks
from gpunet.train.eager import EagerStep
from gpunet.train.gradients import UpdateGradients
from gpunet.train.joining import joined
from gpunet.train.ranks import mean_moments, running_moments
from gpunet.train.step import StepResult


class StepGraph:
    """Consecutive training steps captured as one CUDA graph, with the arrays they read and write.

    Args:
        eager: the step that is captured.
        recorder: of the model's backend.
        batches: one for each step: whole updates, all of one signature; on several ranks the arrays
            of this rank's shares.
        share: of the batches, which this rank takes; None for all of each.
        count_correct: whether the device counts the correct labels, so that no logits are read.
    Attributes:
        captured: the CUDA graph.
        updates, batches_per_update: how many updates the graph makes, of how many batches each.
        inputs: what the host fills before each replay.
        bounds: (M, 2), the ranges of the arena that an update walks over.
        first_segments: the first segment of each range, whose hyper-parameters hold for all of it.
        reports: (1 + updates, 3) float64: zeros, then the `StepReport.written` of each update. On
            several ranks the losses there are those of all of them, so that all skip the same
            updates, and the correct labels are those of this rank.
        losses: (steps,), the loss of each batch, where an update takes several batches, or where
            this rank has a share of each; else None, because the reports have them.
        label_weights: (steps,), what losses weighted by labels were divided by; None for others.
        share: the place of this rank's rows in each batch, without arrays.
        labels: how many labels a batch has, if the device counts the correct ones; else 0.
        logits: of each step, if the host reads them; else empty.
        grad_norm: of the last update, see `Optimizer.grad_norm`.
    Raises:
        BackendError: the step cannot be captured; the error names the operation.
        MemoryError: the device has not enough memory for the graph.
    """

    def __init__(
        self,
        eager: EagerStep,
        recorder: Recorder,
        batches: Sequence[Any],
        *,
        count_correct: bool,
        share: Share | None = None,
    ) -> None:
        check_hooks(eager.model)
        optimizer, steps = eager.optimizer, len(batches)
        backend = optimizer.arena.backend
        self.bounds, self.first_segments = optimizer.runs()
        if not self.first_segments:  # without an update, nothing would write the report
            raise BackendError("no parameter of the optimizer got a gradient")
        self._eager, self._count_correct = eager, count_correct
        self.share = Share(None, 0, 0, 0) if share is None else replace(share, batch=None)
        self.batches_per_update = min(eager.batches_per_update, steps)
        self.updates = steps // self.batches_per_update
        hyper_shape = self.updates, *optimizer.table(self.first_segments).shape
        self.inputs = GraphInputs(recorder, eager, batches, hyper_shape)
        self.reports = backend.asarray(np.zeros((1 + self.updates, 3)))
        self._device_bounds = backend.asarray(self.bounds)
        reported = self.batches_per_update == 1 and eager.ranks.size == 1
        self.losses = None if reported else backend.empty((steps,), np.float32)
        self.label_weights: Array | None = None
        self.labels = 0
        self.logits: list[Tensor] = []
        self.captured, _ = recorder.record(self._launch)
        self.grad_norm = optimizer.grad_norm

    def read_reports(self) -> list[tuple[float, int, int]]:
        """Wait for the replay; return (loss, correct labels, skipped updates) of each update."""
        with self._eager.ranks.waiting():
            reports = self._eager.optimizer.arena.backend.to_numpy(self.reports)[1:]
        return [(loss, int(correct), int(skipped)) for loss, correct, skipped in reports.tolist()]

    def read_results(self, reports: Sequence[tuple[float, int, int]], rates: Sequence[float]) -> list[StepResult]:
        """Read what the batches of the first updates gave, on all ranks.

        Args:
            reports: of these updates.
            rates: the learning rate of each update of the graph.
        """
        own = list(self._read_own(reports, rates))
        return joined(self._eager.ranks, [self.share] * len(own), own, self._eager.metrics)

    def _read_own(self, reports: Sequence[tuple[float, int, int]], rates: Sequence[float]) -> Iterator[StepResult]:
        """The results of this rank's shares."""
        to_numpy = self._eager.optimizer.arena.backend.to_numpy
        losses = [loss for loss, _, _ in reports] if self.losses is None else to_numpy(self.losses).tolist()
        weights = None if self.label_weights is None else to_numpy(self.label_weights).tolist()
        for i in range(len(reports) * self.batches_per_update):
            u = i // self.batches_per_update
            result = StepResult(losses[i], self.share.rows, None if weights is None else weights[i], rate=rates[u])
            if self.labels:
                counts = np.array([reports[u][1], self.labels])
                result = result._replace(measured=(counts,) * len(self._eager.metrics))
            elif self.logits:
                labels = self._eager.read_part(self.inputs.batches.labels(i))
                result = result._replace(logits=self._eager.read_values(self.logits[i]), labels=labels)
            yield result

    # ---- during the capture, where launches are recorded but not run

    def _launch(self) -> None:
        written = list(self._eager.optimizer.arena.written)
        for u in range(self.updates):
            self._launch_update(u, written)

    def _launch_update(self, u: int, written: list[bool]) -> None:
        """Launch the passes of the batches of update `u`, and the update of what is `written`."""
        optimizer, batches, ranks = self._eager.optimizer, self.batches_per_update, self._eager.ranks
        optimizer.zero_grad()
        gradients = UpdateGradients(optimizer, batches, ranks)
        total: Array | None = None
        for i in range(u * batches, (u + 1) * batches):
            clock = row(self.inputs.clock.device, i)
            with random.clocked(clock):
                loss, correct = self._launch_forward(i, clock)
                value = loss.data.reshape(())
                total = value if total is None else optimizer.arena.backend.binary("add", total, value)
                gradients.add(loss, self.share.rows, self.share.total * batches)
        gradients.finish()
        mean_moments(ranks, running_moments(self._eager.model), self.share.rows / self.share.total)
        if optimizer.arena.written != written:
            raise BackendError("other parameters got a gradient than in the step before")
        if ranks.size > 1:
            total = optimizer.arena.backend.scale(total, None, self.share.rows / self.share.total)
            add(ranks, optimizer.arena.backend, total)
        segments = Segments(self.bounds, row(self.inputs.hyper.device, u), self._device_bounds)
        optimizer.apply(segments, StepReport(total, correct, row(self.reports, u), row(self.reports, u + 1)))

    def _launch_forward(self, i: int, clock: Array) -> tuple[Tensor, Array | None]:
        """Launch the forward pass of step `i`, and keep what the host will read of it.

        Returns:
            (the loss, the count of correct labels or None).
        """
        backend = self._eager.optimizer.arena.backend
        parts = self.inputs.batches.arrays(i, clock)
        rows = parts[0].shape[0]
        if self._eager.ranks.size == 1:
            self.share = Share(None, 0, rows, rows)
        with computing(self.share), random.rows_of_batch(self.share.first, rows):
            loss, logits = self._eager.forward(parts)
        correct = correct_count(loss) if self._count_correct and self.batches_per_update == 1 else None
        if correct is not None:
            self.labels = parts[1].size
        elif logits is not None and self._eager.metrics:
            self.logits.append(logits.detach())
        if self.losses is not None:
            backend.copy(loss.data.reshape(()), out=row(self.losses, i))
        if (weight := label_weight(loss)) is not None:
            if self.label_weights is None:
                self.label_weights = backend.empty((self.updates * self.batches_per_update,), np.float32)
            backend.copy(weight, out=row(self.label_weights, i))
        return loss, correct
