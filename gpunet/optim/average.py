"""`ExponentialMovingAverage`: running averages of a model's values over an optimizer's steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpunet.arena import Arena
from gpunet.backends.contract import Array, Guard
from gpunet.nn import Module
from gpunet.optim.checks import SHARE, check_number
from gpunet.optim.optimizer import Optimizer

__all__ = ["ExponentialMovingAverage"]


class ExponentialMovingAverage:
    """Averages a model's values over the steps of an optimizer (Polyak & Juditsky 1992).

    The averages start from the present values. `Optimizer.step` updates them, on the device and in
    a captured step too; a step whose loss was not finite, or whose gradients overflowed, leaves
    them as they are. They move with the optimizer. After its `release` they raise RuntimeError.

    Args:
        model: the model whose buffers, such as batch norm's running moments, are averaged as well.
        optimizer: the optimizer whose parameters are averaged; it holds parameters of the model.
        decay: share of the average that is kept, from 0 to below 1.
    """

    def __init__(self, model: Module, optimizer: Optimizer, decay: float = 0.999):
        check_number("ExponentialMovingAverage", "decay", decay, SHARE)
        if not optimizer.holds(model.parameters()):
            raise ValueError("ExponentialMovingAverage: the optimizer holds no parameter of the model")
        source = optimizer.arena
        self.model, self.optimizer, self.decay = model, optimizer, decay
        self.buffers = dict(model.named_buffers())
        for name, buffer in self.buffers.items():
            if buffer.dtype != source.dtype:
                raise TypeError(f"ExponentialMovingAverage: {name} is {buffer.dtype} but parameters are {source.dtype}")
        self.weights = Arena(source.backend, source.shapes, source.dtype, grad=False)
        self.statistics = Arena(source.backend, [b.shape for b in self.buffers.values()], source.dtype, grad=False)
        self.applying = False
        source.backend.copy(source.data, out=self.weights.data)
        for buffer, average in zip(self.buffers.values(), self.statistics.views, strict=True):
            source.backend.copy(source.backend.asarray(buffer.numpy()), out=average)
        optimizer.followers.append(self)

    def follow(self, guard: Guard) -> None:
        """Update the averages after a step; `Optimizer.step` calls this."""
        self._place()
        for average, value in self._pairs():
            self.weights.backend.average_update(average, value, self.decay, guard)

    def recorded(self) -> list[Any]:
        """See `Optimizer.recorded`."""
        return [self.decay, id(self.weights), self.weights.backend.name]

    def arrays(self) -> list[Array]:
        """See `Follower`: the averages of the parameters, and of the buffers."""
        self._place()
        return [self.weights.data, self.statistics.data]

    @contextmanager
    def applied(self, averages: bool = True) -> Iterator[None]:
        """Have the model compute with the averages inside:
        ``with average.applied(): trainer.evaluate(loader)``.

        It may be nested; inside ``applied(False)`` the model has its own values again.

        Raises:
            RuntimeError: other averages of the optimizer are applied, or it has released its
                parameters.
        """
        outside = self.applying
        self._apply(averages)
        try:
            yield
        finally:
            self._apply(outside)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Host copies, by the model's names, of the averages and of all that is not averaged."""
        with self.applied():
            return self.model.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned; errors are those of `Module.load_state_dict`."""
        with self.applied():
            self.model.load_state_dict(state)

    def _place(self) -> None:
        """Follow the optimizer to its backend."""
        for arena in (self.weights, self.statistics):
            arena.to(self.optimizer.arena.backend)

    def _pairs(self) -> Iterator[tuple[Array, Array]]:
        yield self.weights.data, self.optimizer.arena.data
        yield from zip(self.statistics.views, (b.data for b in self.buffers.values()), strict=True)

    def _apply(self, averages: bool) -> None:
        """Have the model hold the averages, or its own values; the two change places."""
        if averages == self.applying:
            return
        if self not in self.optimizer.followers:
            raise RuntimeError("ExponentialMovingAverage: the optimizer has released the parameters; make new averages")
        if averages:
            self.optimizer.check_own_values("other averages")
        self._place()
        backend = self.weights.backend
        for average, value in self._pairs():
            kept = backend.copy(value)
            backend.copy(average, out=value)
            backend.copy(kept, out=average)
        self.optimizer.arena.version += 1
        self.applying = averages
