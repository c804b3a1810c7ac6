"""What each of several batches counts for in one update, where losses are means weighted by their labels."""

from __future__ import annotations

from gpunet.arena import Arena
from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array


class LabelShares:
    """Gradients of several batches, added up so that each label counts as it would in one batch of all.

    The weights of later batches are not known when the first one's gradients are made, and on a device the host never reads
    them. So gradients are counted in units of the first batch's weight, and `finish` divides by the sum of all.

    Args:
        arena: of the gradients.
        batches: how many go into the update.
    """

    def __init__(self, arena: Arena, batches: int):
        self._arena, self._backend, self._batches = arena, arena.backend, batches
        self._unit: Array | None = None
        self._total: Array | None = None

    def of(self, weight: Array) -> Array:
        """What the gradient of the next batch's loss is multiplied by, (1,), of its weight, one element."""
        backend, apply = self._backend, self._backend.binary
        weight = backend.cast(weight, self._arena.dtype).reshape(1)
        if self._total is None:  # 1 where the first batch weighs nothing
            one = backend.full((1,), 1, weight.dtype)
            self._unit = apply("add", weight, apply("subtract", one, backend.unary("sign", weight)))
        self._total = weight if self._total is None else apply("add", self._total, weight)
        return backend.scale(apply("divide", weight, self._unit), None, 1 / self._batches)

    def finish(self) -> None:
        """Turn what has been added up into the gradient of the weighted mean; 0 where nothing weighs anything."""
        if self._total is None:
            return
        backend, total, grad = self._backend, self._total, self._arena.grad
        share = backend.scale(backend.binary("divide", self._unit, total), None, self._batches)
        share = backend.activation_backward(share, total, Activation("relu"))  # 0 of a total of 0
        backend.binary("multiply", grad, share, out=grad)
