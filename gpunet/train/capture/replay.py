"""The training step that replays graphs."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from traceback import walk_tb
from typing import Any, NamedTuple

import numpy as np

from gpunet import random
from gpunet.cuda.capture import Recorder
from gpunet.distributed import Share
from gpunet.errors import BackendError, warn
from gpunet.modes import mode
from gpunet.train.batches import batch_signature, update_signature
from gpunet.train.capture.graph import StepGraph
from gpunet.train.capture.staleness import CaptureFingerprint
from gpunet.train.eager import EagerStep
from gpunet.train.metrics import Accuracy, Metric
from gpunet.train.step import StepResult, TrainingStep

UPDATES_PER_GRAPH = 16
"""How many updates one graph holds at most, where no hook is called around each step."""
PACKAGE = str(Path(__file__).parents[2])
"""The folder of gpunet, whose lines are not the user's."""


def captured(
    eager: EagerStep, recorder: Recorder, metrics: Sequence[Metric], every_step: bool, strict: bool
) -> CapturedStep:
    """The captured step of a Trainer, whose callbacks are called around every step or not."""
    updates = 1 if every_step else UPDATES_PER_GRAPH
    only_accuracy = all(type(metric) is Accuracy and metric.ignore_index is None for metric in metrics)
    max_batches = updates * eager.batches_per_update
    return CapturedStep(eager, recorder, max_batches=max_batches, strict=strict, count_correct=only_accuracy)


class HostCounts(NamedTuple):
    """What the host counts, before an update."""

    rate: float
    steps: np.ndarray
    schedule_step: int


class CapturedStep(TrainingStep):
    """A training step that replays graphs, with the same numbers as the eager step, bit for bit.

    Args:
        eager: the step that is captured; it also runs what is not captured.
        recorder: of the model's backend.
        max_batches: of one graph. Where there are fewer, behind the first eager update and at the
            end of an epoch, each update is a replay of its own.
        strict: whether a step that cannot be captured raises; if not, it runs eagerly after a
            warning.
        count_correct: whether the number of correct labels is all that metrics need of the logits.
    Attributes:
        graphs: by the signature of an update's batches and the number of steps.
    """

    def __init__(
        self, eager: EagerStep, recorder: Recorder, *, max_batches: int, strict: bool, count_correct: bool
    ) -> None:
        self.eager, self.recorder = eager, recorder
        self.max_batches, self.batches_per_update = max_batches, eager.batches_per_update
        self._strict, self._count_correct = strict, count_correct
        self.graphs: dict[tuple[Hashable, int], StepGraph] = {}
        self._written: dict[Hashable, list[bool]] = {}
        """Which segments of the arena get a gradient: of the eager step of each signature."""
        self._fingerprint: CaptureFingerprint | None = None
        self._checked_epoch, self._capture_failed = -1, False
        self._precision = ""  # of matrices, when `_fingerprint` was taken

    def __getstate__(self) -> dict[str, Any]:
        """Without graphs, which hold the arrays of this model: a copy captures its own."""
        return {**vars(self), "recorder": None, "graphs": {}, "_written": {}, "_fingerprint": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        recorder = self.eager.optimizer.arena.backend.recorder()
        if recorder is None:
            raise BackendError("Trainer: a copy of a captured step takes the model on a CUDA backend")
        self.recorder = recorder

    def session(self) -> AbstractContextManager[None]:
        """A stream for everything in a fit: graphs, and what runs eagerly between them."""
        self._checked_epoch = -1
        return self.recorder.current()

    def run(self, batches: Sequence[Any], epoch: int, step: int) -> Iterator[StepResult]:
        """Train on batches, see `TrainingStep.run`; a graph gives results after its last step."""
        self._drop_stale_graphs(epoch)
        update = min(self.batches_per_update, len(batches))
        signature = update_signature(batches[:update])
        if signature not in self._written:
            yield from self.eager.run(batches[:update], epoch, step)
            self._written[signature] = list(self.eager.optimizer.arena.written)
            batches, step = batches[update:], step + update
        size = len(batches) if len(batches) == self.max_batches else update
        for i in range(0, len(batches), size):
            some = batches[i : i + size]
            graph = None if self._runs_eagerly(some[:update]) else self._graph(signature, some)
            if graph is not None:
                yield from self._replay(graph, some, epoch, step + i)
                continue
            for j in range(0, len(some), update):
                yield from self.eager.run(some[j : j + update], epoch, step + i + j)

    def _runs_eagerly(self, update: Sequence[Any]) -> bool:
        """Whether an update cannot be captured: because of its batches, or as a capture has failed.

        A batch of fewer rows than there are ranks leaves some of them a row that counts for nothing,
        which no kernel knows. All ranks know that batch's rows, and so run it alike.
        """
        mixed = any(batch_signature(batch) != batch_signature(update[0]) for batch in update)
        few = isinstance(update[0], Share) and update[0].total < self.eager.ranks.size
        return self._capture_failed or mixed or few

    def _drop_stale_graphs(self, epoch: int) -> None:
        """Drop all graphs if anything that they have frozen has changed.

        It can change where code of the user runs: between two fits and between two epochs, and
        between two updates if hooks are called around each. The matrix precision, which costs
        nothing to compare, is looked at before each group of updates.
        """
        precision = self.eager.precision.matrix or mode.matrix_precision
        if epoch == self._checked_epoch and self.max_batches > self.batches_per_update and precision == self._precision:
            return
        self._checked_epoch, self._precision = epoch, precision
        fingerprint = CaptureFingerprint(self.eager.model, self.eager.optimizer, precision)
        stale = not fingerprint.matches(self._fingerprint)
        if self.eager.ranks.total("whether graphs are stale", [stale]).any():  # for all ranks must run the same
            self._fingerprint = fingerprint
            self.graphs.clear()
            self._written.clear()

    # ---- replaying

    def _replay(self, graph: StepGraph, batches: Sequence[Any], epoch: int, step: int) -> Iterator[StepResult]:
        optimizer = self.eager.optimizer
        self.eager.ranks.note(f"epoch {epoch + 1}, step {step + 1}")
        graph.inputs.fill([self._arrays(batch) for batch in batches], epoch, step)
        before = self._count_updates(graph)
        optimizer.arena.refresh()
        graph.inputs.send()
        graph.captured.launch()
        optimizer.arena.count_updates(graph.updates)
        optimizer.grad_norm = graph.grad_norm
        reports = graph.read_reports()
        completed = graph.updates - reports[-1][2]
        if completed < graph.updates:
            self._restore(before[completed])
        results = graph.read_results(reports[:completed], [counts.rate for counts in before])
        self.eager.count_updates(completed, f"epoch {epoch + 1}, step {step + len(batches)}")
        yield from results
        if completed < graph.updates:
            first = completed * graph.batches_per_update
            self._repeat_forward(batches[first : first + graph.batches_per_update], epoch, step + first)
            raise FloatingPointError(f"the loss is {reports[completed][0]}")

    def _count_updates(self, graph: StepGraph) -> list[HostCounts]:
        """Count the updates of a graph and fill in their hyper-parameters -> counts before each."""
        optimizer, schedule = self.eager.optimizer, self.eager.schedule
        before = []
        for u in range(graph.updates):
            schedule_step = 0 if schedule is None else schedule.step_count
            before.append(HostCounts(optimizer.groups[0]["lr"], optimizer.steps, schedule_step))
            graph.inputs.hyper.host[u] = optimizer.table(graph.first_segments)
            optimizer.count()
            if schedule is not None:
                schedule.step()
        return before

    def _restore(self, counts: HostCounts) -> None:
        """Count as if the update after these counts, and all later ones, had never begun."""
        self.eager.optimizer.steps = counts.steps
        if self.eager.schedule is not None:
            self.eager.schedule.seek(counts.schedule_step)

    def _repeat_forward(self, batches: Sequence[Any], epoch: int, step: int) -> None:
        """Run the forward passes of a failed update eagerly, to raise what only the host finds.

        Labels that are out of range are an example: on the device they make the loss NaN.
        """
        for i, batch in enumerate(batches):
            random.begin_step(epoch, step + i)
            with self.eager.arithmetic():
                self.eager.begin(batch)

    # ---- capturing

    def _graph(self, signature: Hashable, batches: Sequence[Any]) -> StepGraph | None:
        """The graph for so many batches of a signature; None if the step cannot be captured."""
        optimizer = self.eager.optimizer
        optimizer.arena.written = list(self._written[signature])
        bounds, _ = optimizer.runs()
        key = signature, len(batches)
        graph = self.graphs.get(key)
        # the ranges change when update counts of parameters have come apart, or together again
        if graph is not None and np.array_equal(graph.bounds, bounds):
            return graph
        if not (why := self._capture(key, batches)):
            return self.graphs[key]
        optimizer.grad_norm = None  # the one of the capture was never computed
        if self._strict:
            raise BackendError(why)
        if self.eager.ranks.leads:
            warn(f"{why}; it runs eagerly", RuntimeWarning)
        self._capture_failed = True
        self.graphs.clear()
        self.recorder.free_unused()  # an eager step may need the memory that the capture has left
        return None

    def _capture(self, key: tuple[Hashable, int], batches: Sequence[Any]) -> str:
        """Capture the graph of a key -> why it cannot be captured, on any rank; empty if it was, on all."""
        try:
            self.graphs[key] = self._captured(batches)
        except Exception as error:
            why = self._agreed(f"Trainer: the step cannot be captured{_user_line(error)}: {error}")
            if self._strict:
                self.eager.optimizer.grad_norm = None
                raise BackendError(why) from error
            return why
        return self._agreed("")

    def _agreed(self, why: str) -> str:
        """What the first rank says that says something, since all must run the same."""
        return next(filter(None, self.eager.ranks.gather("captures", why)), "")

    def _captured(self, batches: Sequence[Any]) -> StepGraph:
        share = batches[0] if isinstance(batches[0], Share) else None
        arrays = [self._arrays(batch) for batch in batches]
        with self.eager.arithmetic():
            return StepGraph(self.eager, self.recorder, arrays, count_correct=self._count_correct, share=share)

    def _arrays(self, batch: Any) -> Any:
        """What a graph takes of a batch: all of it, or the arrays of this rank's share, made by now.

        The clock of a graph tells where a whole batch begins, but not where a share does.
        """
        return self.eager.share(batch).batch if isinstance(batch, Share) else batch


def _user_line(error: BaseException) -> str:
    """The line of user code that an error came from; empty if it came from none."""
    calls = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    outside = [
        (file, line)
        for file, line in calls
        if not file.startswith((PACKAGE, "<")) and "site-packages" not in file and not file.endswith(".pyx")
    ]  # CuPy's compiled modules name files of its sources, which are not here
    return f" (at {Path(outside[-1][0]).name}:{outside[-1][1]})" if outside else ""
