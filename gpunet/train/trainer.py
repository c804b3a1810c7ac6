"""`Trainer`: fits a model to batches, evaluates it, predicts with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from contextlib import closing, nullcontext
from copy import deepcopy
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from gpunet import functional as F
from gpunet import random
from gpunet.autograd import Tensor
from gpunet.backends import Backend, get_backend
from gpunet.distributed import world
from gpunet.files import PathLike
from gpunet.geometry import positive_int
from gpunet.interop.checkpoints import checkpoint_snapshot, open_checkpoint
from gpunet.nn import Module
from gpunet.optim import ExponentialMovingAverage, Optimizer, ReduceLROnPlateau
from gpunet.optim.schedule import Schedule
from gpunet.precision import split_precision
from gpunet.progress import Progress
from gpunet.train import checks
from gpunet.train.batches import Loader, batch_groups, set_epoch
from gpunet.train.callbacks import ProgressBar
from gpunet.train.capture import captured
from gpunet.train.eager import EagerStep
from gpunet.train.evaluation import column_names, evaluate_batches, predict_batches
from gpunet.train.history import History, numbers_of
from gpunet.train.hooks import Hooks, SkipStep, StopEpoch, StopTraining
from gpunet.train.interrupt import Interrupt, watch_interrupts
from gpunet.train.metrics import Metric, make_metrics
from gpunet.train.ranks import begin_alike
from gpunet.train.running import RunningEpoch, traits_of
from gpunet.train.step import Loss, LossStep, StepResult, TrainingStep
from gpunet.train.writing import BackgroundWriter

__all__ = ["Trainer"]


class Trainer:
    """Trains a model step by step; the seed alone decides the result.

    Each epoch sets ``loader.epoch``, and each step calls ``random.begin_step``. So equal seeds give
    equal weights, bit for bit, also where training goes on in a second `fit` or from a checkpoint.
    Where ``mpirun`` has launched several processes, they train one model: see `gpunet.distributed`.

    Args:
        model, optimizer: which holds the model's parameters; both are moved to `backend`.
        loss: computes ``loss(model(x), y)``, a tensor of one element, for a batch (x, y). It is a
            mean over rows, whose mean over batches is weighted by their rows. Where it returns
            gpunet's cross entropy with ignore_index or class weights, unchanged, batches are
            weighted by the weights of their labels instead. So the loss over a data set does not
            depend on the batch size.
        metrics: "accuracy", "top5" (with any number), "confusion", "precision", "recall", "f1" (the
            last three also with "_micro" and "_by_class"), or `Metric` objects; the loss is always
            measured. If None, accuracy, or nothing if there is a `loss_step`.
        loss_step: computes ``loss_step(model, batch)`` for a batch of any arrays, in place of
            `loss`. Floats come as tensors on the backend; integers come as host arrays, which
            operations check and move. Metrics need logits, so there are none then.
        schedule: stepped after each step of the optimizer; a `ReduceLROnPlateau` after each epoch,
            with its `monitor`.
        backend: as for `get_backend`.
        precision: "float32", in which matrices are multiplied as `gpunet.matrix_precision` says
            around `fit`. On CUDA also "tf32" or "3xtf32", see there; or "bfloat16" or "float16", in
            which images, activations and their gradients are stored, while sums, losses, parameters
            and statistics stay float32; in float16 losses are scaled, see `Optimizer.scale_losses`.
            Evaluation and prediction compute in the same precision and return float32.
        capture: whether a GPU's step is captured as a CUDA graph, see `train.capture`; the numbers
            are the same. If it cannot be captured, True raises (after a first, eager update), and
            "auto" warns and runs the step eagerly, as NumPy does, and as several ranks do without
            NCCL. Python numbers that your own `loss` or `loss_step` reads are frozen; its integers are int32 on the device.
        batches_per_update: how many batches one update takes, so that a big batch need not fit into
            memory. Their gradients are added up, weighted as in `loss`: the gradient of one batch of
            all rows, except that batch norm sees each by itself, and that it is only close for a loss
            that divides by something else, such as Dice. A schedule steps once for these batches, and
            hooks around a step are called around all of them.
        average: of this model and optimizer. `fit` validates with the averages, so `EarlyStopping`
            and `BestCheckpoint` go by them, and checkpoints hold them. The model itself keeps the
            trained weights: `evaluate` and `predict` use the averages inside ``average.applied()``.
        callbacks: see `train.hooks`.
        progress: whether to show bars, and to print a line for each epoch.
    Attributes:
        history: of all fits, see `History`.
        epoch: how many epochs are finished, which is the number of the running epoch, from 0.
        step, steps: the position of the running step in its epoch, and how many there are or None.
        columns: the names that the rows of the history will have; set by `fit`.
        last_epoch: how many epochs will be finished when `fit` ends.
    Raises:
        ValueError, TypeError: arguments that do not fit together, before anything is changed.
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        *,
        loss: Loss = F.cross_entropy,
        metrics: Sequence[str | Metric] | None = None,
        loss_step: LossStep | None = None,
        schedule: Schedule | ReduceLROnPlateau | None = None,
        backend: str | Backend = "auto",
        precision: str = "float32",
        capture: bool | str = "auto",
        batches_per_update: int = 1,
        average: ExponentialMovingAverage | None = None,
        callbacks: Sequence[Any] = (),
        progress: bool = True,
    ) -> None:
        self._ranks = ranks = world()  # first, so that an error that all ranks meet is reported once
        self.metrics = make_metrics(metrics, logits=loss_step is None)
        checks.check_parts(model, optimizer, schedule, average)
        self.backend = get_backend(backend)
        split = split_precision("Trainer", precision, self.backend)
        recorder = checks.make_recorder(capture, self.backend, ranks)
        batches_per_update = positive_int("Trainer", "batches_per_update", batches_per_update)
        self._progress = progress = progress and ranks.leads
        self._hooks = Hooks([*callbacks, *([ProgressBar()] if progress else [])])
        self.model, self.optimizer, self.schedule, self.average = model.to(self.backend), optimizer, schedule, average
        self._step_schedule = schedule if isinstance(schedule, Schedule) else None  # which is stepped after each update
        if split.stored is not None:
            optimizer.compute_in(split.stored)
        self._eager = EagerStep(
            model, optimizer, loss=loss, loss_step=loss_step, schedule=self._step_schedule,
            metrics=self.metrics, precision=split, batches_per_update=batches_per_update, ranks=ranks,
        )  # fmt: skip
        self._step: TrainingStep = self._eager
        if recorder is not None:
            self._step = captured(self._eager, recorder, self.metrics, self._hooks.every_step, capture is True)
        self._about = {"backend": self.backend.name, "precision": precision, **self.backend.describe()}
        self.history = History()
        self.epoch = self.last_epoch = self.step = 0
        self.steps: int | None = None
        self.columns: list[str] = []
        self._running, self._writer = RunningEpoch(self.metrics), BackgroundWriter()
        self._stopped_epoch: dict[str, Any] | None = None
        """Where the epoch that runs next was left; None at its start."""
        self._fitting = False

    def fit(self, train_loader: Loader, epochs: int, valid: Loader | None = None) -> History:
        """Train for `epochs` more epochs.

        The first Ctrl-C ends training after the running step, with ``history.interrupted`` set; a
        second one raises at once. A SIGTERM does the same, and then ends the process, unless the
        program handles it. Where Ctrl-C or `StopTraining` ends an epoch early, the next fit, or one
        from a checkpoint written after it, goes on with the epoch's next batch, bit for bit, unless
        `EarlyStopping` has given the model its best epoch's weights back.

        An epoch that an error ends is not counted, and the schedule goes back to where the epoch
        began, so that the next fit runs all of it. The weights, and what the optimizer counts and
        averages, keep what its steps have done.

        Args:
            train_loader: gives batches (x, y), or what `loss_step` takes. Its `epoch` is set before
                each epoch, if it has one.
            valid: batches to evaluate after each epoch, with the averages if there are any, for the
                columns ``valid_loss`` and so on.
        Returns:
            The history of this and all earlier fits, with the columns epoch, loss, those of the
            metrics, valid_…, lr (of the last step), seconds, and images_per_second (of the training
            steps).
        Raises:
            FloatingPointError: the loss is not finite; names the epoch and the step, which changed
                nothing.
            RuntimeError: averages are applied; a hook of this fit calls it; or a hook raises an
                exception that is an error there.
        """
        if self._fitting:
            raise RuntimeError("Trainer: fit is running; hooks may call evaluate, predict or another Trainer's fit")
        self.optimizer.check_own_values("a step")
        checks.check_fit(train_loader, epochs, valid)
        self.last_epoch = self.epoch + epochs
        self.columns = column_names(self.metrics, valid is not None)
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.check_monitor(self.columns)
        self.history.interrupted = False
        interrupt = Interrupt(ranks=self._ranks)
        begin_alike(self._ranks, self.model, self.optimizer)
        try:
            self._fitting, self._eager.metrics = True, self.metrics  # which may be another list by now
            with interrupt, self._step.session():
                self._run_fit(train_loader, valid, interrupt)
        finally:
            self._fitting = False
        self.history.interrupted |= interrupt.requested  # in the last hook
        return self.history

    def evaluate(self, loader: Loader) -> dict[str, Any]:
        """The loss and the metrics over a loader's batches, by name, in inference mode.

        In a hook, copies of the metrics measure: those of the running epoch must not change.
        """
        checks.check_loader("loader", loader)
        with watch_interrupts() as interrupt:
            metrics = deepcopy(self.metrics) if self._fitting else self.metrics
            return self._evaluate("loader", loader, interrupt, metrics)

    def predict(self, data: Loader | np.ndarray | Tensor, batch_size: int = 256) -> np.ndarray:
        """The model's outputs, in inference mode.

        Args:
            data: batches (x, …), of which x is used; or all x in one array of floats (N, …).
            batch_size: how many images are taken at a time from an array.
        Returns:
            (N, …) on the host.
        """
        return predict_batches(self._eager, data, batch_size, self._progress)

    # ---- checkpoints

    def save(
        self, path: PathLike, metadata: Mapping[str, Any] | None = None, *, keep: int = 1, wait: bool = True
    ) -> None:
        """Write a checkpoint from which training goes on exactly.

        It holds the model, the optimizer, the schedule, the averages, the history, the seed, the
        places in the random streams and the callbacks' states; within an epoch, or after a stopped
        fit, also how many batches are behind it and what has been measured. So training goes on
        with the next batch: with the same bits as without a break, on the same backend. Rank 0
        writes it, and any number of ranks takes it up.

        Args:
            metadata: what the file keeps beside, as JSON.
            keep: how many files are kept: this one and those before it, see `train.Checkpoint`.
            wait: until the file is on the disk; if not, `fit` waits for it at its end.
        """
        checks.check_metadata(metadata)
        if not self.leads:
            return
        running = self._running.state_dict() if self._running.taken else self._stopped_epoch
        training = {"epoch": self.epoch, "seed": random.current_seed(), "drawn": random.drawn()}
        training |= {"history": self.history.rows, "running": running}
        snapshot = checkpoint_snapshot(
            self.model, self.optimizer, self.schedule, {**(metadata or {}), "training": training}, self.average,
            callbacks=self._hooks.states(), about=self._about,
        )  # fmt: skip
        self._writer.submit(Path(path).absolute(), snapshot, keep)
        if wait:
            self._writer.finish()

    def load(self, path: PathLike, *, extend_schedule: bool = False) -> dict[str, Any]:
        """Go on from a checkpoint that `save` wrote, with its seed -> its metadata.

        Where it was written within an epoch, the next fit begins with the rest of it, as one epoch.

        Args:
            extend_schedule: whether the schedule may be of another length than the saved one.
        Raises:
            DamagedFileError, ValueError: the file is not whole, or belongs to another model,
                optimizer or schedule; nothing is changed then.
        """
        self._ranks.gather("load", None)  # rank 0 may still be writing the file
        saved = open_checkpoint(path)
        saved.load_into(self.model, self.optimizer, self.schedule, self.average, extend_schedule=extend_schedule)
        if training := saved.metadata.pop("training", None):
            random.resume(training["seed"], training.get("drawn", {}))
            self.epoch, self.history = training["epoch"], History(training["history"])
            self._stopped_epoch = training.get("running")
        self._hooks.load_states(saved.callbacks)
        return saved.metadata

    @property
    def leads(self) -> bool:
        """Whether this process prints and writes files: rank 0, and one that trains alone."""
        return self._ranks.leads

    @property
    def running(self) -> dict[str, Any]:
        """Means over the running epoch so far: loss, metrics that are numbers, images_per_second."""
        return self._running.means()

    def _run_fit(self, loader: Loader, valid: Loader | None, interrupt: Interrupt) -> None:
        begun = False
        self._writer.finish()  # before callbacks remove what killed writes have left
        try:
            self._hooks.call("before_fit", self)
            begun = True
            interrupt.check()
            while self.epoch < self.last_epoch:
                self._run_epoch(loader, valid, interrupt)
        except StopTraining:
            begun = True
            self._hooks.call("on_stop", self)
        except KeyboardInterrupt:
            if interrupt.requested:  # the second one
                raise
            begun, interrupt.count = True, 1
        except (SkipStep, StopEpoch) as error:
            raise RuntimeError(f"Trainer: {type(error).__name__} was raised outside the hooks around a step") from error
        finally:
            self.history.interrupted = interrupt.requested
            try:
                if begun:
                    self._hooks.call("after_fit", self)
            finally:
                self._writer.finish()

    def _run_epoch(self, loader: Loader, valid: Loader | None, interrupt: Interrupt) -> None:
        """Run (the rest of) an epoch and append its row; keep where it stops, or put the schedule back."""
        epoch, schedule, left = self.epoch, self._step_schedule, None
        traits = traits_of(loader, self._step.batches_per_update)
        self._running, self._stopped_epoch = RunningEpoch(self.metrics, self._stopped_epoch, traits), None
        start = self._running.schedule_start
        if schedule is not None and start is None:
            start = self._running.schedule_start = schedule.step_count
        try:
            row = self._measure_epoch(loader, valid, interrupt)
            interrupt.holding = True
            self.history.append(row)
            self.epoch += 1
            if isinstance(self.schedule, ReduceLROnPlateau):
                self.schedule.step(row[self.schedule.monitor])
        except StopTraining:
            interrupt.holding = True
            left = self._running.state_dict()
            raise
        finally:
            interrupt.holding = True
            ended = self.epoch > epoch or left is not None
            if not ended and schedule is not None and start is not None and schedule.step_count != start:
                schedule.seek(start)
            self._stopped_epoch, self._running.taken = left, 0
            interrupt.holding = False
        self._hooks.call("after_epoch", self)
        interrupt.check()

    def _measure_epoch(self, loader: Loader, valid: Loader | None, interrupt: Interrupt) -> dict[str, Any]:
        """Run the steps and the validation of an epoch -> its row."""
        start = perf_counter() - self._running.seconds
        self.step, self.steps = self._running.taken, len(loader) if isinstance(loader, Sized) else None
        set_epoch(loader, self.epoch)
        set_epoch(valid, self.epoch)
        self._hooks.call("before_epoch", self)
        self.model.train()
        set_epoch(loader, self.epoch)  # again, because a hook may have iterated over it
        rate = self._run_steps(loader, interrupt)
        row = {"epoch": self.epoch + 1, **self.running}
        speed = row.pop("images_per_second")
        checks.check_parameters(self.model, self.optimizer, self.epoch + 1, self._ranks)
        if valid is not None:
            row |= self._validate(valid, interrupt)
        return row | {"lr": rate, "seconds": perf_counter() - start, "images_per_second": speed}

    def _validate(self, valid: Loader, interrupt: Interrupt) -> dict[str, Any]:
        """Evaluate after an epoch, with the averages if there are any -> the columns valid_…."""
        set_epoch(valid, self.epoch)
        random.begin_step(self.epoch, self._running.taken)  # hooks may have drawn, and models may draw
        with nullcontext() if self.average is None else self.average.applied():
            # by copies, since Ctrl-C may leave the epoch here and its own metrics are kept then
            measured = numbers_of(self._evaluate("valid", valid, interrupt, deepcopy(self.metrics)))
        checks.check_valid_loss(measured["loss"], self.epoch + 1)
        return {f"valid_{name}": value for name, value in measured.items()}

    def _run_steps(self, loader: Loader, interrupt: Interrupt) -> float:
        """Run the steps of an epoch -> the learning rate of the last one."""
        run, size = self._running, self._step.batches_per_update
        run.started, offered = perf_counter(), False
        try:
            with closing(batch_groups(loader, self._step.max_batches, size, run.taken, self._ranks)) as groups:
                for group in () if run.ended else groups:
                    interrupt.check(between=True)
                    self.step, offered = run.taken, True
                    random.begin_step(self.epoch, self.step)
                    try:
                        with run.paused():
                            self._hooks.call("before_step", self)
                    except SkipStep:
                        run.taken += len(group)
                        continue
                    run.rate = self._train(group)
                    run.taken += len(group)
                    with run.paused():
                        self._hooks.call("after_step", self)
                    interrupt.check()
        except StopEpoch:
            run.ended = True
        return checks.check_rate(run.rate, offered, self.epoch + 1)

    def _train(self, batches: Sequence[Any]) -> float:
        """Train on batches, and move `step` to the last -> its learning rate."""
        result, first = StepResult(0.0, 0), self.step
        try:
            for result in self._step.run(batches, self.epoch, self.step):
                self._running.meter.update(result)
                self.step += 1
        except FloatingPointError as error:
            place = f"epoch {self.epoch + 1}, step {self.step + 1}"
            raise FloatingPointError(f"Trainer: {error} in {place}; nothing was updated") from None
        self.step = first + len(batches) - 1
        return result.rate

    def _evaluate(self, name: str, loader: Loader, interrupt: Interrupt, metrics: Sequence[Metric]) -> dict[str, Any]:
        lines = self._progress and not self._fitting  # a fit's log has a line for each epoch
        shown = Progress("evaluating", loader, "batch", bars=self._progress, lines=lines)
        return evaluate_batches(self._eager, name, loader, metrics, interrupt, shown)
