"""The training step that runs operation by operation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from gpunet import random
from gpunet.autograd import Tensor, no_grad, tensor
from gpunet.backends.contract import is_float
from gpunet.distributed import Alone, Ranks, Share, computing
from gpunet.errors import BackendError
from gpunet.functional import cast
from gpunet.functional.loss import label_weight
from gpunet.modes import late_results, multiplying
from gpunet.nn import Module
from gpunet.optim import Optimizer
from gpunet.optim.schedule import Schedule
from gpunet.precision import Precision
from gpunet.train.batches import batch_arrays, check_batch, check_images
from gpunet.train.gradients import UpdateGradients
from gpunet.train.joining import joined, joined_rows
from gpunet.train.metrics import Metric
from gpunet.train.ranks import ALIKE_EVERY, check_alike, mean_moments, running_moments
from gpunet.train.step import Loss, LossStep, StepResult, TrainingStep


class EagerStep(TrainingStep):
    """Forward pass, loss, backward pass and update, run operation by operation.

    Args:
        model, optimizer: of one backend.
        loss: of the model's output and the second array of a batch.
        loss_step: takes the place of `loss`, if given.
        schedule: stepped after each update.
        metrics: what measures each batch; the logits are read to the host if there are any.
        precision: in which dtype the floats of a batch are computed, that of the parameters if it
            names none; and how matrices are multiplied.
        batches_per_update: how many batches go into an update, see `UpdateGradients`.
        ranks: that share each batch, see `distributed.Share`; each has results of the whole batch.
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        *,
        loss: Loss,
        loss_step: LossStep | None = None,
        schedule: Schedule | None = None,
        metrics: Sequence[Metric] = (),
        precision: Precision = Precision(),  # noqa: B008 - it cannot change
        batches_per_update: int = 1,
        ranks: Ranks = Alone(),  # noqa: B008
    ) -> None:
        self.model, self.optimizer, self.loss, self.loss_step = model, optimizer, loss, loss_step
        self.max_batches = self.batches_per_update = batches_per_update
        self.schedule, self.metrics, self.ranks = schedule, metrics, ranks
        self._updates = 0
        self._moments: list[Any] | None = None
        self.precision, self.dtype = precision, np.dtype(precision.stored or optimizer.arena.dtype)

    def session(self) -> AbstractContextManager[None]:
        """An eager step needs no context around it."""
        return nullcontext()

    def run(self, batches: Sequence[Any], epoch: int, step: int) -> Iterator[StepResult]:
        """One update from these batches, see `TrainingStep.run`."""
        rate, shares, results = self.optimizer.groups[0]["lr"], [self.share(batch) for batch in batches], []
        rows = sum(share.total for share in shares)
        self.optimizer.zero_grad()
        gradients = UpdateGradients(self.optimizer, len(shares), self.ranks)
        with self.arithmetic():
            for i, share in enumerate(shares):
                self.ranks.note(f"epoch {epoch + 1}, step {step + i + 1}")
                random.begin_step(epoch, step + i)  # for the first too, since hooks may have drawn
                loss, result = self._begin(share)
                gradients.add(loss, share.rows, rows)
                results.append(result._replace(rate=rate))
            gradients.finish()
            results = joined(self.ranks, shares, results, self.metrics)  # here, where the ranks have met anyway
            for result in results:
                _check_finite(result)
            if self._moments is None or step == 0:  # a hook may have changed the model since the last epoch
                self._moments = running_moments(self.model)
            mean_moments(self.ranks, self._moments, sum(share.rows for share in shares) / rows)
            self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        self.count_updates(1, f"epoch {epoch + 1}, step {step + len(batches)}")
        return iter(results)

    def count_updates(self, updates: int, place: str) -> None:
        """Compare the ranks' parameters where these updates, behind which `place` is, make it due.

        Raises:
            RuntimeError: they are not the same on all ranks.
        """
        due = self._updates // ALIKE_EVERY < (self._updates + updates) // ALIKE_EVERY
        self._updates += updates
        if self.ranks.size > 1 and due:
            check_alike(self.ranks, self.optimizer, place)

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """A context in which all operations of a step run.

        Matrices are multiplied in the step's precision. NumPy does not warn of overflows: where the
        loss is read, one that is not finite raises.
        """
        with multiplying(self.precision.matrix), np.errstate(over="ignore", invalid="ignore"):
            yield

    def begin(self, batch: Any) -> tuple[Tensor, StepResult]:
        """The forward pass of a training step -> the loss and the result of the share of this rank.

        Raises:
            FloatingPointError: the loss is not finite. Several ranks find that out together, in `run`.
        """
        return self._begin(self.share(batch))

    def evaluate(self, batch: Any, metrics: Sequence[Metric]) -> StepResult:
        """The loss of a batch, and what metrics take, without an update."""
        with no_grad(), self.arithmetic():
            share = self.share(batch)
            return joined(self.ranks, [share], [self._forward_and_read(share)[1]], metrics)[0]

    def predict(self, batch: Any) -> np.ndarray:
        """The model's output for the first array of a batch."""
        share = self.share(batch)
        x = share.batch[0]
        check_images(x)
        with no_grad(), self.arithmetic(), random.rows_of_batch(share.first, x.shape[0]):
            return joined_rows(self.ranks, share, self.read_values(self.model(self._to_backend(x))))

    def forward(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """The loss of a batch, and the model's output, which is None if there is a `LossStep`."""
        parts = check_batch(batch)
        if self.loss_step is not None:
            with late_results():
                loss = self.loss_step(self.model, tuple(self._to_backend(part) for part in parts))
            _check_loss("loss_step", loss)
            return loss, None
        if len(parts) != 2:
            raise ValueError(f"Trainer: loss(model(x), y) takes 2 arrays, a batch has {len(parts)}; pass a loss_step=")
        x, y = parts
        check_images(x)
        with late_results():
            logits = self.model(self._to_backend(x))
            loss = self.loss(logits, self._to_backend(y))
        _check_loss("loss", loss)
        return loss, logits

    def read_values(self, tensor: Tensor) -> np.ndarray:
        """A tensor on the host, in the dtype of the parameters, in which NumPy can compute."""
        return tensor.numpy().astype(self.optimizer.arena.dtype, copy=False)

    def read_part(self, part: Any) -> np.ndarray:
        """One array or tensor of a batch on the host."""
        array = part.data if isinstance(part, Tensor) else part
        backend = self.optimizer.arena.backend
        return backend.to_numpy(array) if backend.owns(array) else np.asarray(array)

    def share(self, batch: Any) -> Share:
        """The share of a batch that this rank has, its arrays checked; a whole batch if it is none."""
        arrays = check_batch(batch_arrays(batch.batch if isinstance(batch, Share) else batch, self.dtype))
        rows = arrays[0].shape[0]
        return replace(batch, batch=arrays) if isinstance(batch, Share) else Share(arrays, 0, rows, rows)

    def _begin(self, share: Share) -> tuple[Tensor, StepResult]:
        """`begin`, for a share whose arrays have been checked."""
        loss, result = self._forward_and_read(share)
        if self.ranks.size == 1:
            _check_finite(result)
        return loss, result

    def _forward_and_read(self, share: Share) -> tuple[Tensor, StepResult]:
        """The loss and the result of the share."""
        with computing(share), random.rows_of_batch(share.first, share.batch[0].shape[0]):
            loss, logits = self.forward(share.batch)
        weight = label_weight(loss)
        with self.ranks.waiting():  # the device may have to wait for the sums of the update before
            value = loss.item()
        weight = None if weight is None else float(self.optimizer.arena.backend.to_numpy(weight))
        result = StepResult(value, share.rows, weight)
        if logits is not None and self.metrics:
            result = result._replace(logits=self.read_values(logits), labels=self.read_part(share.batch[1]))
        return loss, result

    def _to_backend(self, part: Any) -> Any:
        """Floats as a tensor of the step's dtype on the model's backend; integers as they are.

        Integers stay host arrays: the operation that takes them checks their values there, then
        moves them.
        """
        backend = self.optimizer.arena.backend
        if isinstance(part, Tensor):
            if part.backend is not backend:
                raise BackendError(f"Trainer: a batch is on {part.backend.name} but the model on {backend.name}")
            return cast(part, self.dtype)
        if not is_float(part.dtype):
            return part
        if backend.owns(part):
            return Tensor(backend.cast(part, self.dtype), backend)
        return tensor(part, dtype=self.dtype, backend=backend)


def _check_finite(result: StepResult) -> None:
    if not np.isfinite(result.loss):
        raise FloatingPointError(f"the loss is {result.loss}")


def _check_loss(name: str, loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.size != 1:
        got = f"shape {loss.shape}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"Trainer: {name} must return the loss, a tensor of one element, got {got}")
