"""The gradient of one update, added up over its batches."""

from __future__ import annotations

from gpunet.autograd import Tensor
from gpunet.backends.contract import Activation, Array
from gpunet.distributed import Alone, Ranks
from gpunet.distributed.devices import add
from gpunet.functional.loss import label_weight
from gpunet.optim import Optimizer
from gpunet.train.buckets import Buckets


class UpdateGradients:
    """Adds up the gradients of the batches of one update, so that they are those of one big batch.

    Each batch counts by its share of the rows. Where losses are means weighted by labels (see
    `functional.loss.label_weight`), each batch counts by the weight of its labels; the first batch
    decides which of the two it is. The weights of later batches are not known when the first
    gradient is computed, and the host never reads them. So gradients are computed in units of the
    first batch's weight, and `finish` divides by the sum of all weights. The shares that several
    ranks have of a batch count as batches do, and have one unit: synchronised batch norm adds up
    what flows back on all of them.

    Args:
        optimizer: of the parameters.
        batches: how many go into the update.
        ranks: over which the gradients are added up.
    """

    def __init__(self, optimizer: Optimizer, batches: int, ranks: Ranks = Alone()) -> None:  # noqa: B008 - it cannot change
        self._optimizer, self._batches, self._ranks = optimizer, batches, ranks
        self._backend = optimizer.arena.backend
        self._by_labels = batches * ranks.size > 1  # until the first batch says otherwise
        self._buckets = Buckets(ranks, optimizer.arena) if ranks.size > 1 else None
        self._left = batches
        self._unit: Array | None = None
        self._total: Array | None = None

    def add(self, loss: Tensor, rows: int, update_rows: int) -> None:
        """Run the backward pass of the next batch, `rows` of the update's `update_rows` rows.

        A batch of which 0 rows count adds 0.
        """
        weight = label_weight(loss) if self._by_labels else None
        if weight is None and self._total is None:
            self._by_labels = False
            self._left -= 1
            filled = None if self._buckets is None or self._left else self._buckets.filled
            self._optimizer.backward(loss, rows / update_rows, filled)
            return
        if weight is None:
            weight = self._backend.full((), rows, loss.dtype)
        if not rows:
            weight = self._backend.full((), 0, loss.dtype)
        self._optimizer.backward(loss, self._factor(weight))

    def finish(self) -> None:
        """Divide by the sum of the labels' weights if they count; a sum of 0 gives gradients of 0.

        Then add up the gradients of all ranks.
        """
        if self._total is not None:
            backend, total, grad = self._backend, self._total, self._optimizer.arena.grad
            if self._ranks.size > 1:
                add(self._ranks, backend, total := backend.copy(total))
            share = backend.scale(backend.binary("divide", self._unit, total), None, self._batches)
            share = backend.activation_backward(share, total, Activation("relu"))  # 0 for a total of 0
            backend.binary("multiply", grad, share, out=grad)
        if self._buckets is not None:
            self._buckets.finish()

    def _factor(self, weight: Array) -> Array:
        """The factor (1,) of a batch's gradient, from the weight of its labels, one element."""
        backend, binary = self._backend, self._backend.binary
        weight = backend.cast(weight, self._optimizer.arena.dtype).reshape(1)
        if self._total is None:  # the unit is 1 where the first batch weighs nothing
            first, one = weight, backend.full((1,), 1, weight.dtype)
            if self._ranks.size > 1:
                add(self._ranks, backend, first := backend.copy(weight))
            self._unit = binary("add", first, binary("subtract", one, backend.unary("sign", first)))
        self._total = weight if self._total is None else binary("add", self._total, weight)
        return backend.scale(binary("divide", weight, self._unit), None, 1 / self._batches)
