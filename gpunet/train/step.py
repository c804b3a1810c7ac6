"""One training step, run operation by operation.

A step that replays a captured CUDA graph will stand beside `EagerStep`, with the same three methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpunet.autograd import Tensor, no_grad, tensor
from gpunet.errors import BackendError
from gpunet.nn import Module
from gpunet.optim import Optimizer

Loss = Callable[[Tensor, Any], Tensor]
"""(model(x), y) to a tensor of no axes."""
StepFunction = Callable[[Module, tuple[Any, ...]], Tensor]
"""(model, batch) to the loss, a tensor of no axes: what takes the place of ``loss(model(x), y)``."""


class Measured(NamedTuple):
    """What one step gave, on the host."""

    loss: float
    rows: int
    logits: np.ndarray | None
    """None where the step computes the loss itself, or no metric reads them."""
    labels: Any


class EagerStep:
    """Forward pass, loss, backward pass and update of one batch.

    Args:
        model, optimizer: of one backend.
        loss: of the model's output and the batch's second array.
        function: takes the place of `loss`, if given.
        keep_logits: whether to read the logits to the host.
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        *,
        loss: Loss,
        function: StepFunction | None = None,
        keep_logits: bool = True,
    ) -> None:
        self.model, self.optimizer, self.loss, self.function = model, optimizer, loss, function
        self.keep_logits = keep_logits

    def train(self, batch: Any) -> Measured:
        """One update; FloatingPointError, before the update, where the loss is not finite."""
        self.optimizer.zero_grad()
        with _quiet():
            loss, measured = self._forward(batch)
            if not np.isfinite(measured.loss):
                raise FloatingPointError(f"the loss is {measured.loss}")
            loss.backward()
            self.optimizer.step()
        return measured

    def evaluate(self, batch: Any) -> Measured:
        """The loss and the logits, without an update."""
        with no_grad(), _quiet():
            return self._forward(batch)[1]

    def predict(self, batch: Any) -> np.ndarray:
        """The model's output for the batch's first array."""
        x = checked_batch(batch)[0]
        check_images(x)
        with no_grad(), _quiet():
            return self.model(self._placed(x)).numpy()

    def _forward(self, batch: Any) -> tuple[Tensor, Measured]:
        parts = checked_batch(batch)
        rows = len(parts[0])
        if self.function is not None:
            loss = self.function(self.model, tuple(self._placed(part) for part in parts))
            _check_loss("step", loss)
            return loss, Measured(loss.item(), rows, None, None)
        if len(parts) != 2:
            raise ValueError(
                f"Trainer: a batch has {len(parts)} arrays but loss(model(x), y) takes 2; "
                "pass step=lambda model, batch: … to compute the loss of others"
            )
        x, y = parts
        check_images(x)
        logits = self.model(self._placed(x))
        loss = self.loss(logits, self._placed(y))
        _check_loss("loss", loss)
        if not self.keep_logits:
            return loss, Measured(loss.item(), rows, None, None)
        labels = y if isinstance(y, np.ndarray) else logits.backend.to_numpy(y.data if isinstance(y, Tensor) else y)
        return loss, Measured(loss.item(), rows, logits.numpy(), labels)

    def _placed(self, part: Any) -> Any:
        """Floats as a tensor of the parameters' dtype on the model's backend; integers stay host arrays, for the
        operation that takes them checks their values there, then moves them."""
        arena = self.optimizer.arena
        if isinstance(part, Tensor) and part.backend is not arena.backend:
            raise BackendError(
                f"Trainer: a batch is on {part.backend.name} but the model on {arena.backend.name}: make the loader there"
            )
        if isinstance(part, Tensor) or part.dtype.kind != "f":
            return part
        return tensor(part, dtype=arena.dtype, backend=arena.backend)


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
    if x.dtype.kind != "f":
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
