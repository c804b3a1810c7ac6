"""`Trainer`: fits a model to batches, evaluates it, predicts with it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from contextlib import closing, nullcontext
from copy import deepcopy
from time import perf_counter
from typing import Any

import numpy as np

from gpunet import functional as F
from gpunet import random
from gpunet.autograd import Tensor
from gpunet.backends import Backend, get_backend
from gpunet.interop.safetensors import load_checkpoint, save_checkpoint
from gpunet.nn import Module
from gpunet.nn.module import in_eval_mode
from gpunet.optim import ExponentialMovingAverage, Optimizer, ReduceLROnPlateau
from gpunet.optim.schedule import Schedule, sought
from gpunet.precision import stored_dtype
from gpunet.train.callbacks import Hooks
from gpunet.train.captured import STEPS, CapturedStep
from gpunet.train.control import Interrupt, SkipStep, StopEpoch, StopTraining, watching
from gpunet.train.history import History, numbers_of
from gpunet.train.metrics import Accuracy, Mean, Metric, make_metrics
from gpunet.train.options import check_average, check_loader, check_owner, make_recorder
from gpunet.train.progress import ProgressBar
from gpunet.train.step import EagerStep, Loss, Measured, StepFunction, begin_epoch, blocks, opened

Loader = Iterable[Any]
"""Batches, tuples of arrays (images first): a `DataLoader`, or a list of batches."""


class Trainer:
    """Trains a model, step by step; what it does is decided by the seed alone.

    Each epoch sets ``loader.epoch``, each step ``random.begin_step``, so that equal seeds give equal weights, bit for
    bit, also where training goes on in a second `fit`, or from a checkpoint.

    Args:
        model: moved to `backend`, together with the optimizer's state.
        optimizer: of the model's parameters.
        loss: ``loss(model(x), y)``, a tensor of one element, for a batch (x, y): a mean over rows, whose mean over batches is
            weighted by their rows; or a cross entropy of gpunet's with ignore_index or class weights, returned as it is, by
            the labels' weights. So the loss over a data set does not depend on the batch size.
        metrics: "accuracy", "top5" (any number), "confusion", "precision", "recall", "f1" (each also with "_micro" and
            "_by_class"), or `Metric` objects; the loss is always measured. If None, accuracy, or nothing where there is a
            `loss_step`.
        loss_step: ``loss_step(model, batch)``, the loss of a batch of any arrays, in place of `loss`. Floats come as tensors on
            the backend, integers as host arrays, which operations check and move. Metrics are not available then, for
            they take logits.
        schedule: stepped after each step of the optimizer; a `ReduceLROnPlateau` after each epoch, with its `monitor`.
        backend: as for `get_backend`.
        precision: "float32", float32 throughout; or, on CUDA, "bfloat16" or "float16", in which images, activations and their
            gradients are stored, while sums, losses, parameters and statistics stay float32. Losses are scaled in float16,
            see `Optimizer.scale_losses`. Evaluation and prediction compute the same way, and give float32.
        capture: whether a GPU's step is recorded as a CUDA graph, see `train.captured`: True raises where it cannot be,
            "auto" then warns and runs it eagerly, as NumPy does; the numbers are the same. A replay runs no Python: in a
            `loss` or `loss_step` of your own, what it reads of Python's numbers is frozen, and integers come as the device's
            int32 arrays. Without hooks around each step, 16 steps are one graph, and Ctrl-C waits for its end.
        batches_per_update: how many batches an update takes, so that a big one need not fit into memory: their gradients are
            added up, each times its share of the rows, or of the labels' weights where the loss is gpunet's cross entropy with
            ignore_index or class weights. So they are those of one batch of all the rows, but for batch norm, which sees each
            by itself; for a loss that divides by something else in each batch, as Dice does, only about those. A schedule
            then steps once for so many batches, and hooks around steps are called around them all.
        average: of this model and optimizer. `fit` validates with the averages, so that `EarlyStopping` and `BestCheckpoint`
            go by them (as Lightning and timm do); they are saved and loaded with checkpoints. The model itself keeps the
            weights that are trained: `evaluate` and `predict` use the averages inside ``average.applied()``.
        callbacks: see `train.callbacks`.
        progress: whether to show a bar, and print a line an epoch.
    Attributes:
        history: of all fits, see `History`.
        epoch: finished epochs; that of the running epoch, counted from 0.
        step: position of the running step in its epoch, from 0; `steps`: their number, None if unknown.
        columns: names that the history's rows will have; set by `fit`.
        last_epoch: epochs that will be finished when `fit` ends.
    Raises:
        ValueError, TypeError: what does not fit together, before anything is changed.
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        *,
        loss: Loss = F.cross_entropy,
        metrics: Sequence[str | Metric] | None = None,
        loss_step: StepFunction | None = None,
        schedule: Schedule | ReduceLROnPlateau | None = None,
        backend: str | Backend = "auto",
        precision: str = "float32",
        capture: bool | str = "auto",
        batches_per_update: int = 1,
        average: ExponentialMovingAverage | None = None,
        callbacks: Sequence[Any] = (),
        progress: bool = True,
    ) -> None:
        if loss_step is not None and metrics:
            raise ValueError(
                "Trainer: metrics take logits, which a loss_step= of your own does not give; pass metrics=[]"
            )
        if metrics is None:
            metrics = () if loss_step is not None else ("accuracy",)
        self.metrics = make_metrics(metrics)
        check_owner(model, optimizer)
        if schedule is not None and schedule.optimizer is not optimizer:
            raise ValueError("Trainer: schedule is of another optimizer")
        if average is not None:
            check_average(model, optimizer, average)
        self.backend = get_backend(backend)
        dtype = stored_dtype("Trainer", precision, self.backend)
        recorder = make_recorder(capture, self.backend)
        if not isinstance(batches_per_update, int | np.integer) or batches_per_update < 1:
            raise ValueError(
                f"Trainer: batches_per_update is {batches_per_update!r} but must be an integer of at least 1"
            )
        self._hooks = Hooks([*callbacks, *([ProgressBar()] if progress else [])])
        self.model, self.optimizer, self.schedule = model.to(self.backend), optimizer, schedule
        self.average = average
        if dtype is not None:
            optimizer.compute_in(dtype)
        by_step = None if isinstance(schedule, ReduceLROnPlateau) else schedule
        eager = EagerStep(
            model, optimizer,
            loss=loss, function=loss_step, schedule=by_step, keep_logits=bool(self.metrics), dtype=dtype,
            batches_per_update=int(batches_per_update),
        )  # fmt: skip
        self._step: EagerStep | CapturedStep = eager
        if recorder is not None:
            self._step = CapturedStep(
                eager,
                recorder,
                most=eager.update * (1 if self._hooks.every_step else STEPS),
                strict=capture is True,
                counts=all(type(metric) is Accuracy and metric.ignore_index is None for metric in self.metrics),
            )
        self.history = History()
        self.epoch = self.last_epoch = self.step = 0
        self.steps: int | None = None
        self.columns: list[str] = []
        self._meter, self._seconds = _Meter(self.metrics), 0.0
        self._fitting = False
        self._paced = schedule if isinstance(schedule, Schedule) else None  # by steps
        self._began: int | None = None  # step of the schedule at which the running epoch began

    # ---- the three things it does

    def fit(self, train_loader: Loader, epochs: int, valid: Loader | None = None) -> History:
        """Train for `epochs` more epochs.

        A first Ctrl-C ends it after the running step, with ``history.interrupted`` set; a second raises at once. An epoch that
        did not end, for whatever reason, gets no row and is not counted: the schedule goes back to where the epoch began, so
        that the next fit, or one from a checkpoint, which runs the epoch again, ends with as many steps of the schedule as a
        fit without a break. The weights, and what the optimizer counts and averages, keep what the epoch's steps have done.

        Args:
            train_loader: batches (x, y), or what `loss_step` takes; its `epoch` is set before each epoch, if it has one.
            epochs: at least 1.
            valid: batches to evaluate after each epoch, with the averages if there are, for the columns ``valid_loss``, ….
        Returns:
            The history of this and all earlier fits, with columns epoch, loss, the metrics', valid_…, lr (of the last
            step), seconds, images_per_second (of the training steps).
        Raises:
            FloatingPointError: the loss is not finite; names epoch and step. That step changed nothing.
            RuntimeError: averages are applied; a hook of this fit calls it; a hook raises what means nothing there.
        """
        if self._fitting:
            raise RuntimeError(
                "Trainer: fit is running; its hooks may call evaluate and predict, or fit of another Trainer"
            )
        self.optimizer.check_own_values("a step")
        if not isinstance(epochs, int | np.integer) or epochs < 1:
            raise ValueError(f"Trainer: epochs is {epochs!r} but must be an integer of at least 1")
        check_loader("train_loader", train_loader)
        if valid is not None:
            check_loader("valid", valid)
        self.last_epoch = self.epoch + epochs
        self.columns = self._column_names(valid is not None)
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.check_monitor(self.columns)
        self.history.interrupted = False
        interrupt = Interrupt()
        try:
            self._fitting = True
            with interrupt, self._step.running():
                self._run_fit(train_loader, valid, interrupt)
        finally:
            self._fitting = False
        self.history.interrupted |= interrupt.requested  # in the last hook
        return self.history

    def evaluate(self, loader: Loader) -> dict[str, Any]:
        """The loss and the metrics over a loader's batches, by name, with the model in inference mode.

        In a hook, the metrics of the running epoch stay as they are: copies measure, so that what they measured is in the
        result alone.
        """
        check_loader("loader", loader)
        metrics = (
            deepcopy(self.metrics) if self._fitting else self.metrics
        )  # a hook's, beside those of the running epoch
        with watching() as interrupt:
            return self._evaluate("loader", loader, interrupt, _Meter(metrics))

    def predict(self, data: Loader | np.ndarray | Tensor, batch_size: int = 256) -> np.ndarray:
        """The model's outputs, in inference mode.

        Args:
            data: batches (x, …), of which x is used, in the loader's order; or all of x in one array of floats (N, …).
            batch_size: images at a time where `data` is an array.
        Returns:
            (N, …) on the host.
        """
        if hasattr(data, "shape"):
            whole: Any = data
            data = [(whole[i : i + batch_size],) for i in range(0, len(whole), batch_size)]
        check_loader("data", data)
        outputs = []
        with watching() as interrupt, in_eval_mode(self.model), opened(data) as batches:
            for batch in batches:
                outputs.append(self._step.predict(batch))
                interrupt.check()
        if not outputs:
            raise ValueError("Trainer: data gave no batches")
        return np.concatenate(outputs)

    # ---- checkpoints

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint from which training goes on exactly: model, optimizer, schedule, history, seed.

        One that a hook writes within an epoch goes on from that epoch's start: it has the schedule there, and the weights of
        now.
        """
        training = {"epoch": self.epoch, "seed": random.current_seed(), "history": self.history.rows}
        metadata = {**(metadata or {}), "training": training}
        with sought(self._paced, self._began):
            save_checkpoint(path, self.model, self.optimizer, self.schedule, metadata, self.average)

    def load(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Go on from a checkpoint that `save` wrote: also the seed is set to the checkpoint's. -> its metadata."""
        metadata = load_checkpoint(path, self.model, self.optimizer, self.schedule, self.average)
        if training := metadata.pop("training", None):
            random.seed(training["seed"])
            self.epoch, self.history = training["epoch"], History(training["history"])
        return metadata

    # ---- for callbacks

    @property
    def running(self) -> dict[str, Any]:
        """Means over the steps of the running epoch so far: loss, metrics that are numbers, images_per_second."""
        return {**numbers_of(self._meter.values()), "images_per_second": self._meter.rows / max(self._seconds, 1e-9)}

    # ---- one epoch

    def _run_fit(self, loader: Loader, valid: Loader | None, interrupt: Interrupt) -> None:
        begun = False
        try:
            self._hooks.call("before_fit", self)
            begun = True
            interrupt.check()
            while self.epoch < self.last_epoch:
                self._run_epoch(loader, valid, interrupt)
        except StopTraining:
            begun = True
        except KeyboardInterrupt:
            if interrupt.requested:  # the second one
                raise
            begun, interrupt.count = True, 1
        except (SkipStep, StopEpoch) as error:
            raise RuntimeError(f"Trainer: {type(error).__name__} was raised outside the hooks around a step") from error
        finally:
            self.history.interrupted = interrupt.requested
            if begun:
                self._hooks.call("after_fit", self)

    def _run_epoch(self, loader: Loader, valid: Loader | None, interrupt: Interrupt) -> None:
        """An epoch, and its row; or neither row nor count, and the schedule as it was."""
        epoch, paced = self.epoch, self._paced
        before = self._began = None if paced is None else paced.step_count
        try:
            row = self._measured_epoch(loader, valid, interrupt)
            interrupt.holding = True
            self.history.append(row)
            self.epoch += 1
            if isinstance(self.schedule, ReduceLROnPlateau):
                self.schedule.step(row[self.schedule.monitor])
        finally:
            interrupt.holding = True
            if self.epoch == epoch and paced is not None and before is not None and paced.step_count != before:
                paced.seek(before)
            self._began = None
            interrupt.holding = False
        self._hooks.call("after_epoch", self)
        interrupt.check()

    def _measured_epoch(self, loader: Loader, valid: Loader | None, interrupt: Interrupt) -> dict[str, Any]:
        """The steps and the validation of an epoch -> its row."""
        start = perf_counter()
        self.step, self.steps = 0, len(loader) if isinstance(loader, Sized) else None
        self._meter, self._seconds = _Meter(self.metrics), 0.0
        begin_epoch(loader, self.epoch)
        if valid is not None:
            begin_epoch(valid, self.epoch)
        self._hooks.call("before_epoch", self)
        self.model.train()
        begin_epoch(loader, self.epoch)  # a hook may have iterated over it
        rate = self._run_steps(loader, interrupt)
        row = {"epoch": self.epoch + 1, **self.running}
        speed = row.pop("images_per_second")
        self._check_parameters()
        if valid is not None:
            begin_epoch(valid, self.epoch)
            random.begin_step(self.epoch, self.step + 1)  # for a model that draws in inference too, whatever hooks drew
            with nullcontext() if self.average is None else self.average.applied():
                measured = numbers_of(self._evaluate("valid", valid, interrupt, _Meter(self.metrics)))
            if not np.isfinite(measured["loss"]):
                raise FloatingPointError(f"Trainer: valid_loss is {measured['loss']} after epoch {self.epoch + 1}")
            row |= {f"valid_{name}": value for name, value in measured.items()}
        return row | {"lr": rate, "seconds": perf_counter() - start, "images_per_second": speed}

    def _run_steps(self, loader: Loader, interrupt: Interrupt) -> float:
        """The steps of an epoch -> the learning rate of the last one."""
        rate, start, done = self.optimizer.groups[0]["lr"], perf_counter(), 0
        try:
            with closing(blocks(loader, self._step.most, self._step.update)) as found:
                for batches in found:
                    interrupt.check()
                    self.step, done = done, done + len(batches)
                    random.begin_step(self.epoch, self.step)
                    hooks = perf_counter()  # whose time, of an evaluation say, is not the steps'
                    try:
                        self._hooks.call("before_step", self)
                    except SkipStep:
                        continue
                    start += perf_counter() - hooks
                    rate = self._train(batches)
                    hooks = perf_counter()
                    self._seconds = hooks - start
                    self._hooks.call("after_step", self)
                    start += perf_counter() - hooks
                    interrupt.check()
        except StopEpoch:
            pass
        if not self._meter.rows:
            why = "hooks left out every batch" if done else "train_loader gave no batches"
            raise ValueError(f"Trainer: no step was run in epoch {self.epoch + 1}: {why}")
        return rate

    def _train(self, batches: Sequence[Any]) -> float:
        """Steps, of which `step` is the first before and the last after -> the learning rate of the last one."""
        measured, first = Measured(0.0, 0), self.step
        try:
            for measured in self._step.run(batches, self.epoch, self.step):
                self._meter.update(measured)
                self.step += 1
        except FloatingPointError as error:
            raise FloatingPointError(
                f"Trainer: {error} in epoch {self.epoch + 1}, step {self.step + 1}; nothing was updated"
            ) from None
        self.step = first + len(batches) - 1
        return measured.rate

    def _evaluate(self, name: str, loader: Loader, interrupt: Interrupt, meter: _Meter) -> dict[str, Any]:
        with in_eval_mode(self.model), opened(loader) as batches:
            for batch in batches:
                meter.update(self._step.evaluate(batch))
                interrupt.check()
        if not meter.rows:
            raise ValueError(f"Trainer: {name} gave no batches")
        return meter.values()

    def _check_parameters(self) -> None:
        """FloatingPointError where the epoch's last update left a parameter that is not finite: before it is saved.

        So it is where the scale of a loss has fallen below 1: then gradients are not finite whatever it is.
        """
        arena = self.optimizer.arena
        if arena.scaling is not None and (scale := arena.backend.to_numpy(arena.scaling)[0]) < 1:
            raise FloatingPointError(
                f"Trainer: gradients overflow float16 even with losses scaled by {scale:g}, after epoch {self.epoch + 1}"
            )
        with np.errstate(invalid="ignore"):
            total = arena.backend.sum(arena.data, (0,))
        if not np.isfinite(arena.backend.to_numpy(total)):
            raise FloatingPointError(f"Trainer: the parameters are not finite after epoch {self.epoch + 1}")

    def _column_names(self, valid: bool) -> list[str]:
        measured = list(numbers_of(_Meter(self.metrics).values()))
        validated = [f"valid_{name}" for name in measured] if valid else []
        return ["epoch", *measured, *validated, "lr", "seconds", "images_per_second"]


class _Meter:
    """The loss and the metrics of one pass over a loader."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.metrics, self._loss, self.rows = metrics, Mean(), 0
        for metric in metrics:
            metric.reset()

    def update(self, measured: Measured) -> None:
        self.rows += measured.rows
        self._loss.update(measured.loss, measured.rows if measured.weight is None else measured.weight)
        for metric in self.metrics:
            if measured.correct is not None and isinstance(metric, Accuracy):
                metric.count(*measured.correct)
            elif measured.logits is not None:
                metric.update(measured.logits, measured.labels)

    def values(self) -> dict[str, Any]:
        nothing = self.rows and not self._loss.weight  # where all labels are ignored, a batch's loss is 0 too
        return {"loss": 0.0 if nothing else self._loss.value, **{metric.name: metric.value for metric in self.metrics}}
