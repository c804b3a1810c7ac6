"""What makes a captured step stale: all that a graph has frozen and that may change later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpunet import random
from gpunet.autograd import Tensor
from gpunet.errors import BackendError
from gpunet.nn import Module
from gpunet.optim import Optimizer


class CaptureFingerprint:
    """What was decided when graphs were captured, and may have changed since.

    It holds the model's modules with their attributes, so that a new dropout rate or a layer that
    was frozen counts as a change: the values of numbers, strings and tuples of them, and of every
    other object only which object it is. It also holds where parameters and buffers lie in memory,
    the optimizer's options, the seed, and `precision`, with which matrices are multiplied. Learning
    rates and the other hyper-parameters of an update are not part of it: a graph reads them as an
    input.
    """

    def __init__(self, model: Module, optimizer: Optimizer, precision: str) -> None:
        arena = optimizer.arena
        # objects are compared by id, which tells them apart only while they are alive
        self._alive = [arena.data, arena.grad, arena.shadow, arena.scaling, *arena.slots.values()]
        self._values: list[Any] = [precision, random.current_seed(), *optimizer.recorded(), *map(id, self._alive)]
        for _, module in model.named_modules():
            self._values += [id(module), module.training, len(_forward_hooks(module))]
            for _, tensor in module.named_parts():
                if isinstance(tensor, Tensor):
                    self._alive.append(tensor.data)
                    self._values += [id(tensor.data), tensor.requires_grad]
            for name, value in vars(module).items():
                self._alive.append(value)
                self._values += [name, value if _compares_by_value(value) else id(value)]

    def matches(self, other: CaptureFingerprint | None) -> bool:
        """Whether graphs that were captured at the time of `other` may still be replayed."""
        return other is not None and self._values == other._values


def check_hooks(model: Module) -> None:
    """Raise BackendError where a module has a forward hook, since a replay would not call it."""
    for name, module in model.named_modules():
        if _forward_hooks(module):
            raise BackendError(f"the forward hook on {name or type(module).__name__} would not be called by a replay")


def _forward_hooks(module: Module) -> Sequence[Any]:
    return vars(module).get("_forward_hooks", ())


def _compares_by_value(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_compares_by_value, value))
    return isinstance(value, bool | int | float | str | None)
