"""The gradient of one update, added up over its batches."""

from __future__ import annotations

from gpunet.autograd import Tensor
from gpunet.backends.contract import Activation, Array
from gpunet.functional.loss import label_weight
from gpunet.optim import Optimizer


class UpdateGradients:
    """Adds up the gradients of the batches of one update, so that they are those of one big batch.

    Each batch counts by its share of the rows. Where losses are means weighted by labels (see
    `functional.loss.label_weight`), each batch counts by the weight of its labels; the first batch
    decides which of the two it is. The weights of later batches are not known when the first
    gradient is computed, and the host never reads them. So gradients are computed in units of the
    first batch's weight, and `finish` divides by the sum of all weights.

    Args:
        optimizer: of the parameters.
        batches: how many go into the update.
    """

    def __init__(self, optimizer: Optimizer, batches: int) -> None:
        self._optimizer, self._batches = optimizer, batches
        self._backend = optimizer.arena.backend
        self._by_labels = batches > 1  # until the first batch says otherwise
        self._unit: Array | None = None
        self._total: Array | None = None

    def add(self, loss: Tensor, rows: int, update_rows: int) -> None:
        """Run the backward pass of the next batch, `rows` of the update's `update_rows` rows."""
        weight = label_weight(loss) if self._by_labels else None
        if weight is None and self._total is None:
            self._by_labels = False
            self._optimizer.backward(loss, rows / update_rows)
            return
        if weight is None:
            weight = self._backend.full((), rows, loss.dtype)
        self._optimizer.backward(loss, self._factor(weight))

    def finish(self) -> None:
        """Divide by the sum of the labels' weights if they count; a sum of 0 gives gradients of 0."""
        if self._total is None:
            return
        backend, total, grad = self._backend, self._total, self._optimizer.arena.grad
        share = backend.scale(backend.binary("divide", self._unit, total), None, self._batches)
        share = backend.activation_backward(share, total, Activation("relu"))  # 0 for a total of 0
        backend.binary("multiply", grad, share, out=grad)

    def _factor(self, weight: Array) -> Array:
        """The factor (1,) of a batch's gradient, from the weight of its labels, one element."""
        backend, binary = self._backend, self._backend.binary
        weight = backend.cast(weight, self._optimizer.arena.dtype).reshape(1)
        if self._total is None:  # the unit is 1 where the first batch weighs nothing
            one = backend.full((1,), 1, weight.dtype)
            self._unit = binary("add", weight, binary("subtract", one, backend.unary("sign", weight)))
        self._total = weight if self._total is None else binary("add", self._total, weight)
        return backend.scale(binary("divide", weight, self._unit), None, 1 / self._batches)
