"""One training step, run operation by operation; `captured.CapturedStep` stands beside it, with the same methods."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from math import nan
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from gpunet import random
from gpunet.autograd import Tensor, no_grad, tensor
from gpunet.backends.contract.arrays import Array, is_float
from gpunet.errors import BackendError
from gpunet.functional import cast
from gpunet.functional.loss import label_weight
from gpunet.nn import Module
from gpunet.optim import Optimizer
from gpunet.optim.schedule import Schedule
from gpunet.train.shares import LabelShares

Loss = Callable[[Tensor, Any], Tensor]
"""(model(x), y) to a tensor of no axes."""
StepFunction = Callable[[Module, tuple[Any, ...]], Tensor]
"""(model, batch) to the loss, a tensor of no axes: what takes the place of ``loss(model(x), y)``."""


class Measured(NamedTuple):
    """What one step gave, on the host."""

    loss: float
    rows: int
    weight: float | None = None
    """What a loss that is a mean weighted by labels was divided by; None where it is one over the rows."""
    logits: np.ndarray | None = None
    """None where the step computes the loss itself, or no metric reads them."""
    labels: Any = None
    correct: tuple[int, int] | None = None
    """(labels whose logit is the first largest, labels), where the device has counted them in place of the logits."""
    rate: float = nan
    """The learning rate of the first group in this step."""


@runtime_checkable
class DeviceBatch(Protocol):
    """A batch that kernels make, from a data set on the device: what a loader gives in place of host arrays."""

    key: Hashable
    """Batches of one key differ by their place alone, so that one graph, which reads it from a clock, makes them all."""

    def make(self, clock: Array | None, dtype: Any) -> tuple[Array | Tensor, ...]:
        """Launch what makes the arrays; nothing may be read or copied by the host.

        Args:
            clock: two uint64 on the device, (step, epoch): the place of the batch to make, whichever object of this key is
                asked; None to make this one.
            dtype: what the model computes in; images of another float dtype are cast to it in a pass of their own.
        """


class EagerStep:
    """Forward pass, loss, backward pass and update of one batch.

    Args:
        model, optimizer: of one backend.
        loss: of the model's output and the batch's second array.
        function: takes the place of `loss`, if given.
        schedule: stepped after each update.
        keep_logits: whether to read the logits to the host.
        dtype: what floats of a batch are computed in; the parameters' if None.
        batches_per_update: how many batches an update takes, or fewer at the end of an epoch; each counts by its rows, or by
            the weight of its labels, see `functional.loss.label_weight`.
    Attributes:
        most, update: how many batches `run` takes at once, and how many go into an update.
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        *,
        loss: Loss,
        function: StepFunction | None = None,
        schedule: Schedule | None = None,
        keep_logits: bool = True,
        dtype: Any = None,
        batches_per_update: int = 1,
    ) -> None:
        self.model, self.optimizer, self.loss, self.function = model, optimizer, loss, function
        self.most = self.update = batches_per_update
        self.schedule, self.keep_logits = schedule, keep_logits
        self.dtype = np.dtype(dtype or optimizer.arena.dtype)

    def running(self) -> AbstractContextManager[None]:
        """Around everything that is run between two looks of a user: a whole fit."""
        return nullcontext()

    def run(self, batches: Sequence[Any], epoch: int, step: int) -> Iterator[Measured]:
        """One update of these batches together -> what each of them gave.

        Args:
            batches: at most `most`.
            epoch, step: place of the first batch.
        Raises:
            FloatingPointError: a loss is not finite; nothing was updated.
        """
        rate, given = self.optimizer.groups[0]["lr"], [made(batch, self.dtype) for batch in batches]
        total, results = sum(checked_batch(batch)[0].shape[0] for batch in given), []
        self.optimizer.zero_grad()
        shares: LabelShares | None = None
        with _quiet():
            for i, batch in enumerate(given):
                random.begin_step(epoch, step + i)  # also of the first, for hooks may have drawn
                loss, measured = self.begin(batch)
                shares = self.add_gradients(loss, measured.rows, total, len(given), shares, first=not i)
                results.append(measured._replace(rate=rate))
            if shares is not None:
                shares.finish()
            self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        return iter(results)

    def add_gradients(
        self, loss: Tensor, rows: int, total: int, batches: int, shares: LabelShares | None, *, first: bool
    ) -> LabelShares | None:
        """The backward pass of one of an update's batches, of which the first decides whether they count by labels.

        Args:
            rows, total: the batch's and the update's.
            batches: the update's.
            shares: what this gave for the batch before.
        Returns:
            What must be finished before the update, if they count by labels.
        """
        weight = label_weight(loss) if batches > 1 and (first or shares is not None) else None
        if first and weight is not None:
            shares = LabelShares(self.optimizer.arena, batches)
        if shares is None:
            self.optimizer.backward(loss, rows / total)
        else:
            backend = self.optimizer.arena.backend
            self.optimizer.backward(loss, shares.of(backend.full((), rows, loss.dtype) if weight is None else weight))
        return shares

    def begin(self, batch: Any) -> tuple[Tensor, Measured]:
        """The forward pass of an update; FloatingPointError where the loss is not finite."""
        loss, measured = self._measure(batch)
        if not np.isfinite(measured.loss):
            raise FloatingPointError(f"the loss is {measured.loss}")
        return loss, measured

    def evaluate(self, batch: Any) -> Measured:
        """The loss and the logits, without an update."""
        with no_grad(), _quiet():
            return self._measure(batch)[1]

    def predict(self, batch: Any) -> np.ndarray:
        """The model's output for the batch's first array."""
        x = checked_batch(made(batch, self.dtype))[0]
        check_images(x)
        with no_grad(), _quiet():
            return self.values(self.model(self._placed(x)))

    def forward(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """The loss of a batch and the model's output, None where the step is a function of the user's."""
        parts = checked_batch(batch)
        if self.function is not None:
            loss = self.function(self.model, tuple(self._placed(part) for part in parts))
            _check_loss("loss_step", loss)
            return loss, None
        if len(parts) != 2:
            raise ValueError(
                f"Trainer: a batch has {len(parts)} arrays but loss(model(x), y) takes 2; "
                "pass loss_step=lambda model, batch: … to compute the loss of others"
            )
        x, y = parts
        check_images(x)
        logits = self.model(self._placed(x))
        loss = self.loss(logits, self._placed(y))
        _check_loss("loss", loss)
        return loss, logits

    def _measure(self, batch: Any) -> tuple[Tensor, Measured]:
        batch = made(batch, self.dtype)
        loss, logits = self.forward(batch)
        weight = label_weight(loss)
        weight = None if weight is None else float(self.optimizer.arena.backend.to_numpy(weight))
        measured = Measured(loss.item(), batch[0].shape[0], weight)
        if logits is None or not self.keep_logits:
            return loss, measured
        return loss, measured._replace(logits=self.values(logits), labels=self.on_host(batch[1]))

    def values(self, tensor: Tensor) -> np.ndarray:
        """A result on the host, in the parameters' dtype, which NumPy computes in."""
        return tensor.numpy().astype(self.optimizer.arena.dtype, copy=False)

    def on_host(self, part: Any) -> np.ndarray:
        """A part of a batch as a host array."""
        array = part.data if isinstance(part, Tensor) else part
        backend = self.optimizer.arena.backend
        return backend.to_numpy(array) if backend.owns(array) else np.asarray(array)

    def _placed(self, part: Any) -> Any:
        """Floats as a tensor of the step's dtype on the model's backend; integers stay host arrays, for the operation
        that takes them checks their values there, then moves them."""
        arena = self.optimizer.arena
        if isinstance(part, Tensor) and part.backend is not arena.backend:
            raise BackendError(
                f"Trainer: a batch is on {part.backend.name} but the model on {arena.backend.name}: make the loader there"
            )
        if isinstance(part, Tensor):
            return cast(part, self.dtype)
        if not is_float(part.dtype):
            return part
        if arena.backend.owns(part):
            return Tensor(arena.backend.cast(part, self.dtype), arena.backend)
        return tensor(part, dtype=self.dtype, backend=arena.backend)


def made(batch: Any, dtype: Any) -> Any:
    """A batch of arrays: itself, or what its kernels make for a model that computes in `dtype`."""
    return batch.make(None, dtype) if isinstance(batch, DeviceBatch) else batch


def form_of(batch: Any) -> Hashable:
    """What batches have in common that one graph can serve; batches that are none have a form too."""
    if isinstance(batch, DeviceBatch):
        return batch.key
    parts = batch if isinstance(batch, tuple | list) else (batch,)
    return tuple((type(p), getattr(p, "shape", None), str(getattr(p, "dtype", ""))) for p in parts)


def blocks(loader: Any, most: int, update: int = 1) -> Generator[list[Any], None, None]:
    """A loader's batches, up to `most` neighbours together; deferred, if the loader can.

    An update takes `update` batches, the last of an epoch fewer, and the updates of a block are alike in the forms of theirs.
    What a loader gave before it raised comes first, as it would one by one.
    """
    block: list[Any] = []
    try:
        with closing(_groups(loader, update)) as groups:
            for group in groups:
                if block and (len(block) == most or form_of_all(group) != form_of_all(block[:update])):
                    yield block
                    block = []
                block += group
                if len(block) == most:
                    yield block
                    block = []
    except Exception:
        if block:
            yield block
        raise
    if block:
        yield block


def begin_epoch(loader: Any, epoch: int) -> None:
    """Have a loader that counts epochs begin this one."""
    if hasattr(loader, "epoch"):
        loader.epoch = epoch


@contextmanager
def opened(loader: Iterable[Any], make: Callable[[], Iterator[Any]] | None = None) -> Iterator[Iterator[Any]]:
    """An iterator over a loader's batches, or what `make` gives; a generator that was made here is closed at the end.

    Else its finaliser would do it, which may wait for a thread, and in which Python drops what a signal raises.
    """
    iterator = iter(loader) if make is None else make()
    try:
        yield iterator
    finally:
        if isinstance(iterator, Generator) and iterator is not loader:
            iterator.close()


def form_of_all(batches: Sequence[Any]) -> Hashable:
    """The forms of an update's batches."""
    return tuple(map(form_of, batches))


def _groups(loader: Any, size: int) -> Generator[list[Any], None, None]:
    """So many neighbours together, deferred if the loader can; fewer at the end, or before an error, which comes after them."""
    group: list[Any] = []
    try:
        with opened(loader, getattr(loader, "deferred", None)) as batches:
            for batch in batches:
                group.append(batch)
                if len(group) == size:
                    yield group
                    group = []
    except Exception:
        if group:
            yield group
        raise
    if group:
        yield group


def checked_batch(batch: Any) -> tuple[Any, ...]:
    """The batch, if it is a tuple of arrays or tensors of equally many rows."""
    if not isinstance(batch, tuple | list) or not batch:
        raise TypeError(f"Trainer: a batch must be a tuple of arrays, got {type(batch).__name__}")
    for i, part in enumerate(batch):
        if not hasattr(part, "dtype") or not hasattr(part, "shape"):
            raise TypeError(f"Trainer: array {i} of a batch is {type(part).__name__} but must be an array")
    lengths = [part.shape[0] if part.shape else 0 for part in batch]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise ValueError(f"Trainer: the arrays of a batch must have equally many rows, at least 1; got {lengths}")
    return tuple(batch)


def check_images(x: Any) -> None:
    """TypeError where a model's input is not of floats."""
    if not is_float(x.dtype):
        raise TypeError(
            f"Trainer: images are {x.dtype} but must be floats: give the DataLoader transform=data.Normalize(mean, std)"
        )


def _quiet() -> np.errstate:
    """Without NumPy's warnings of overflow: what is not finite is found, and said once, by who reads the loss."""
    return np.errstate(over="ignore", invalid="ignore")


def _check_loss(name: str, loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.size != 1:
        got = f"shape {loss.shape}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"Trainer: {name} must return the loss, a tensor of one element, got {got}")
