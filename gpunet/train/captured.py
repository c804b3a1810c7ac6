"""The training step as a CUDA graph: recorded once for each form of a batch, then run again with one launch for many steps.

A replay repeats launches whose arguments are frozen, so all that differs from step to step is read from the device: the batch,
from arrays that the host fills before a replay, or made by kernels (`step.DeviceBatch`); learning rates and Adam's corrections,
from a table with a row a step; the place of a step's random numbers, from a clock. The update leaves a note, (loss, correct
labels, held), which is read once a replay: after a loss that is not finite it updates nothing until the host has looked.

The first step of each form runs eagerly. It compiles and loads the kernels and checks what only the host can check, and as
its numbers are those of a replay, bit for bit, nothing has to be restored after it. Evaluation runs eagerly too: it is a few
launches an epoch, and needs the logits of every batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from traceback import walk_tb
from typing import Any, NamedTuple

import numpy as np

import gpunet
from gpunet import random
from gpunet.autograd import Tensor
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.update import Segments, StepReport
from gpunet.cuda.capture import Feed, Recorder, Recording, row
from gpunet.errors import BackendError
from gpunet.functional.loss import correct_count, label_weight
from gpunet.nn import Module
from gpunet.optim import Optimizer
from gpunet.train.shares import LabelShares
from gpunet.train.step import DeviceBatch, EagerStep, Measured, form_of, form_of_all

STEPS = 16
"""Steps of a graph, where nothing needs to be told of each of them."""
INT32 = np.iinfo(np.int32)


class Graph(NamedTuple):
    """Some steps, recorded, with the arrays that they read and write."""

    recording: Recording
    batch: Batches
    clock: Feed
    """(steps, 2) uint64: step and epoch."""
    hyper: Feed
    """(updates, M, K) float64: the update's hyper-parameters."""
    notes: Array
    """(1 + updates, 3) float64: zeros, then each update's note."""
    losses: Array | None
    """(steps,) where an update takes several steps, one a batch: their losses, of which the note has the sum."""
    weights: Array | None
    """(steps,) where losses are means weighted by labels: what each was divided by."""
    bounds: np.ndarray
    """(M, 2): what the update walks over; `placed` is the device's."""
    placed: Array
    first: list[int]
    written: list[bool]
    """Which parameters get a gradient."""
    rows: int
    labels: int
    """Labels of a step, if the notes count the correct ones; else 0."""
    logits: list[Tensor]
    """A step each, if the host reads them."""
    grad_norm: Array | None
    """Of the last step."""


class CapturedStep:
    """`EagerStep` by replaying graphs; with the same methods, and the same numbers bit for bit.

    Args:
        eager: what is recorded, and runs whatever is not.
        recorder: of the model's backend.
        most: steps of a graph; fewer than these, at the end of an epoch, are replays of one update each.
        strict: whether a step that cannot be captured raises; else it runs eagerly and a warning says so.
        counts: whether the correct labels are all that is wanted of the logits.
    Attributes:
        graphs: by form of a batch and number of steps.
    """

    def __init__(self, eager: EagerStep, recorder: Recorder, *, most: int, strict: bool, counts: bool) -> None:
        self.eager, self.recorder, self.most, self.strict, self.counts = eager, recorder, most, strict, counts
        self.update = eager.update
        self.evaluate, self.predict = eager.evaluate, eager.predict
        self.graphs: dict[tuple[Hashable, int], Graph] = {}
        self._written: dict[Hashable, list[bool]] = {}  # by form, of the step that ran eagerly
        self._frozen: Frozen | None = None
        self._looked, self._refused = -1, False

    def __getstate__(self) -> dict[str, Any]:
        """Without what was recorded, which stands for the arrays of this model: a copy records anew."""
        left: dict[str, Any] = {"recorder": None, "graphs": {}, "_written": {}, "_frozen": None}
        return {**vars(self), **left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        recorder = self.eager.optimizer.arena.backend.recorder()
        if recorder is None:
            raise BackendError("Trainer: a copy of a captured step takes the model on a CUDA backend")
        self.recorder = recorder

    def running(self) -> AbstractContextManager[None]:
        """A stream of its own for everything in a fit, graphs and what runs eagerly between them."""
        self._looked = -1
        return self.recorder.current()

    def run(self, batches: Sequence[Any], epoch: int, step: int) -> Iterator[Measured]:
        """See `EagerStep.run`; the results come when all batches are done, those before one that fails too."""
        # a callback, or whoever called fit, may have changed something
        if epoch != self._looked or self.most == self.update:
            self._looked = epoch
            frozen = Frozen(self.eager.model, self.eager.optimizer)
            if self._frozen is None or frozen.values != self._frozen.values:
                self._frozen = frozen
                self.graphs.clear()
                self._written.clear()
        update = min(self.update, len(batches))
        form = form_of_all(batches[:update])
        if form not in self._written:
            yield from self._run_eagerly(batches[:update], epoch, step)
            self._written[form] = list(self.eager.optimizer.arena.written)
            batches, step = batches[update:], step + update
        count = len(batches) if len(batches) == self.most else update
        for i in range(0, len(batches), count):
            some = batches[i : i + count]
            unlike = any(form_of(batch) != form_of(some[0]) for batch in some[:update])  # in an epoch's last update
            graph = None if self._refused or unlike else self._graph(form, some)
            run = (
                self._run_eagerly(some, epoch, step + i)
                if graph is None
                else self._replay(graph, some, epoch, step + i)
            )
            yield from run

    def _run_eagerly(self, batches: Sequence[Any], epoch: int, step: int) -> Iterator[Measured]:
        for i in range(0, len(batches), self.update):
            yield from self.eager.run(batches[i : i + self.update], epoch, step + i)

    # ---- replaying

    def _replay(self, graph: Graph, batches: Sequence[Any], epoch: int, step: int) -> Iterator[Measured]:
        optimizer, schedule, backend = self.eager.optimizer, self.eager.schedule, self.eager.optimizer.arena.backend
        graph.batch.fill(batches)
        graph.clock.host[:, 0] = np.arange(step, step + len(batches))
        graph.clock.host[:, 1] = epoch
        rates, before = [], []
        updates = len(graph.hyper.host)
        update = len(batches) // updates
        for i in range(updates):
            rates.append(optimizer.groups[0]["lr"])
            before.append((optimizer.steps, 0 if schedule is None else schedule.step_count))
            graph.hyper.host[i] = optimizer.table(graph.first)
            optimizer.count()
            if schedule is not None:
                schedule.step()
        optimizer.arena.refresh()
        graph.clock.send()
        graph.hyper.send()
        graph.recording.launch()
        optimizer.arena.count_updates(updates)
        optimizer.grad_norm = graph.grad_norm
        notes = backend.to_numpy(graph.notes)[1:].tolist()  # waits for the device
        losses = [note[0] for note in notes] if graph.losses is None else backend.to_numpy(graph.losses).tolist()
        done = updates - int(notes[-1][2])
        if done < updates:  # as if the first bad update had never begun
            optimizer.steps = before[done][0]
            if schedule is not None:
                schedule.seek(before[done][1])
        weights = [None] * len(batches) if graph.weights is None else backend.to_numpy(graph.weights).tolist()
        for i, loss in enumerate(losses[: done * update]):
            measured = Measured(loss, graph.rows, weights[i], rate=rates[i // update])
            if graph.labels:
                measured = measured._replace(correct=(int(notes[i][1]), graph.labels))
            elif graph.logits:
                labels = self.eager.on_host(graph.batch.part(i, 1))
                measured = measured._replace(logits=self.eager.values(graph.logits[i]), labels=labels)
            yield measured
        if done < updates:
            for i in range(done * update, (done + 1) * update):
                random.begin_step(epoch, step + i)
                self.eager.begin(batches[i])  # raises what this step raises on its own: labels out of range, say
            raise FloatingPointError(f"the loss is {notes[done][0]}")

    # ---- recording

    def _graph(self, form: Hashable, batches: Sequence[Any]) -> Graph | None:
        """The graph for so many batches of a form; None if they must run eagerly."""
        optimizer = self.eager.optimizer
        optimizer.arena.written = list(self._written[form])
        bounds, first = optimizer.runs()
        graph = self.graphs.get((form, len(batches)))
        if graph is not None and np.array_equal(graph.bounds, bounds):
            return graph
        try:
            graph = self.graphs[form, len(batches)] = self._record(batches, bounds, first)
            return graph
        except Exception as error:
            optimizer.grad_norm = None  # a recorded one was never computed
            message = f"Trainer: the step cannot be captured{_where(error)}: {error}"
            if self.strict:
                raise BackendError(message) from error
            warnings.warn(f"{message}; it runs eagerly", RuntimeWarning, stacklevel=2)
        self._refused = True
        self.graphs.clear()
        self.recorder.free_unused()  # an eager step may need what the recording has left
        return None

    def _record(self, batches: Sequence[Any], bounds: np.ndarray, first: list[int]) -> Graph:
        check_hooks(self.eager.model)
        if not first:  # then there is no update, which would leave the note
            raise BackendError("no parameter of the optimizer got a gradient")
        optimizer, feed, count = self.eager.optimizer, self.recorder.feed, len(batches)
        update = min(self.update, count)
        updates = count // update
        backend, written = optimizer.arena.backend, list(optimizer.arena.written)
        batch = Batches(self.recorder, optimizer, batches, self.eager.dtype)
        clock, hyper = feed((count, 2), np.uint64), feed((updates, *optimizer.table(first).shape), np.float64)
        notes, placed = backend.asarray(np.zeros((updates + 1, 3))), backend.asarray(bounds)
        losses = None if update == 1 else backend.empty((count,), np.float32)
        weights = backend.empty((count,), np.float32)

        def work() -> tuple[int, int, list[Tensor], bool]:
            rows, labels, logits, weighted = 0, 0, [], False
            total: Array | None = None
            shares: LabelShares | None = None
            for i in range(count):
                place, u = row(clock.device, i), i // update
                with random.clocked(place):
                    if i % update == 0:
                        optimizer.zero_grad()
                        total = shares = None
                    parts = batch.parts(i, place)
                    loss, out = self.eager.forward(parts)
                    correct = correct_count(loss) if self.counts and update == 1 else None
                    if correct is not None:
                        labels = parts[1].size
                    elif out is not None and self.eager.keep_logits:
                        logits.append(out.detach())
                    rows = parts[0].shape[0]
                    value = loss.data.reshape(())
                    if losses is not None:
                        backend.copy(value, out=row(losses, i))
                    total = value if total is None else backend.binary("add", total, value)
                    if (weight := label_weight(loss)) is not None:
                        backend.copy(weight, out=row(weights, i))
                        weighted = True
                    shares = self.eager.add_gradients(loss, 1, update, update, shares, first=i % update == 0)
                    if (i + 1) % update:
                        continue
                    if shares is not None:
                        shares.finish()
                    if optimizer.arena.written != written:
                        raise BackendError("other parameters got a gradient than in the step before")
                    note = StepReport(total, correct, row(notes, u), row(notes, u + 1))
                    optimizer.apply(Segments(bounds, row(hyper.device, u), placed), note)
            return rows, labels, logits, weighted

        recording, (rows, labels, logits, weighted) = self.recorder.record(work)
        return Graph(
            recording, batch, clock, hyper, notes, losses, weights if weighted else None, bounds, placed, first, written, rows,
            labels, logits, optimizer.grad_norm,
        )  # fmt: skip


class Batches:
    """The arrays that a graph's steps take as their batches: filled by the host before a replay, or made in the graph.

    Args:
        batches: one a step, all of one form.
        dtype: of the arrays that host arrays of floats are copied to, and that deferred batches are made in.
    """

    def __init__(self, recorder: Recorder, optimizer: Optimizer, batches: Sequence[Any], dtype: np.dtype) -> None:
        self._backend, self._deferred = optimizer.arena.backend, isinstance(batches[0], DeviceBatch)
        self._dtype = dtype
        self._batches = list(batches) if self._deferred else []
        self._made: list[tuple[Any, ...]] = []
        self._feeds: list[Feed] = []
        for part in () if self._deferred else batches[0]:
            self._feeds.append(recorder.feed((len(batches), *part.shape), self._kept(part, dtype)))

    def _kept(self, part: Any, floats: np.dtype) -> Any:
        """The dtype of a part's array: of floats `floats`, integers int32, as the operations take them on the device."""
        on_device = isinstance(part, Tensor) or self._backend.owns(part)
        return part.dtype if on_device else {"f": floats, "i": np.int32, "u": np.int32}.get(part.dtype.kind, part.dtype)

    def fill(self, batches: Sequence[Any]) -> None:
        """Take these batches in the next replay.

        Raises:
            ValueError: integers beyond 32 bits.
        """
        if self._deferred:
            return
        for j, feed in enumerate(self._feeds):
            sent = False
            for i, batch in enumerate(batches):
                part = batch[j].data if isinstance(batch[j], Tensor) else batch[j]
                if self._backend.owns(part):
                    self._backend.copy(part, out=row(feed.device, i))
                    continue
                wide = part.dtype.kind in "iu" and part.dtype.itemsize >= 4 and part.size
                if wide and not INT32.min <= part.min() <= part.max() <= INT32.max:
                    raise ValueError(
                        f"Trainer: array {j} of a batch holds {part.min()} to {part.max()}, beyond 32 bits"
                    )
                feed.host[i] = part
                sent = True
            if sent:
                feed.send()

    def parts(self, i: int, clock: Array) -> tuple[Any, ...]:
        """The batch of step i, while recording."""
        if self._deferred:
            self._made.append(self._batches[i].make(clock, self._dtype))
            return self._made[i]
        return tuple(row(feed.device, i) for feed in self._feeds)

    def part(self, i: int, j: int) -> Any:
        """Part j of the batch of step i, of the last replay."""
        return self._made[i][j] if self._deferred else row(self._feeds[j].device, i)


class Frozen:
    """What a recording has frozen beside its arguments: where it changes, the step must be recorded again.

    The model's modules and their attributes, so that a new dropout rate, or a layer that trains no more, is heeded; where
    parameters and buffers lie; the optimizer's options and the seed. Learning rates are not among them: a graph reads them.
    """

    def __init__(self, model: Module, optimizer: Optimizer) -> None:
        arena = optimizer.arena
        # an id means nothing once its object is gone
        self._kept = [arena.data, arena.grad, arena.shadow, arena.scaling, *arena.slots.values()]
        self.values: list[Any] = [random.current_seed(), *optimizer.recorded(), *map(id, self._kept)]
        for _, module in model.named_modules():
            self.values += [id(module), module.training, len(hooks_of(module))]
            for _, tensor in module.children():
                if isinstance(tensor, Tensor):
                    self._kept.append(tensor.data)
                    self.values += [id(tensor.data), tensor.requires_grad]
            for name, value in vars(module).items():
                self._kept.append(value)
                self.values += [name, value if _is_plain(value) else id(value)]


def check_hooks(model: Module) -> None:
    """BackendError where a module has a forward hook: a replay would not call it."""
    for name, module in model.named_modules():
        if hooks_of(module):
            raise BackendError(f"the forward hook on {name or type(module).__name__} would not be called by a replay")


def hooks_of(module: Module) -> Sequence[Any]:
    """A module's forward hooks."""
    return vars(module).get("_forward_hooks", ())


def _is_plain(value: Any) -> bool:
    """Whether two values are told apart by ==, not by who they are."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str | None)


def _where(error: BaseException) -> str:
    """The user's line that an error came from; empty if gpunet called none."""
    package = str(Path(gpunet.__file__).parent)
    calls = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    outside = [
        (file, line)
        for file, line in calls
        if not file.startswith((package, "<")) and "site-packages" not in file and not file.endswith(".pyx")
    ]  # CuPy's compiled modules give files of its sources, which are not here
    return f" (at {Path(outside[-1][0]).name}:{outside[-1][1]})" if outside else ""
