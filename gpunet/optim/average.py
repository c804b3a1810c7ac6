"""`ExponentialMovingAverage`: averages of a model's values over an optimizer's steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpunet.arena import Arena
from gpunet.backends.base import Array
from gpunet.nn import Module
from gpunet.optim.optimizer import Optimizer


class ExponentialMovingAverage:
    """average = decay average + (1 - decay) value, after each step of an optimizer (Polyak & Juditsky 1992, for the idea).

    The averages begin with the values at hand. They are updated inside `Optimizer.step`, on the device and in a captured step
    too, and follow neither a step whose loss was not finite nor one that overflowed. They move with the optimizer.

    Args:
        model: whose buffers, such as batch norm's running moments, are averaged as well.
        optimizer: whose parameters are.
        decay: from 0 to below 1.
    """

    def __init__(self, model: Module, optimizer: Optimizer, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"ExponentialMovingAverage: decay is {decay} but must be at least 0 and below 1")
        source = optimizer.arena
        self.model, self.optimizer, self.decay = model, optimizer, decay
        self.buffers = dict(model.named_buffers())
        for name, buffer in self.buffers.items():
            if buffer.dtype != source.dtype:
                raise TypeError(f"ExponentialMovingAverage: {name} is {buffer.dtype} but the parameters {source.dtype}")
        self.weights = Arena(source.backend, source.shapes, source.dtype, grad=False)
        self.statistics = Arena(source.backend, [b.shape for b in self.buffers.values()], source.dtype, grad=False)
        self.applying = False
        source.backend.copy(source.data, out=self.weights.data)
        for buffer, average in zip(self.buffers.values(), self.statistics.views, strict=True):
            source.backend.copy(source.backend.asarray(buffer.numpy()), out=average)
        optimizer.followers.append(self)

    def follow(self, clip: Array | None, held: Array | None) -> None:
        """Take the step that was just made into the averages: what `Optimizer.step` calls."""
        self._place()
        for average, value in self._pairs():
            self.weights.backend.average_update(average, value, self.decay, clip=clip, held=held)

    def recorded(self) -> list[Any]:
        """See `Optimizer.recorded`."""
        return [self.decay, id(self.weights), self.weights.backend.name]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model computes with the averages: ``with average.applied(): trainer.evaluate(loader)``."""
        self._exchange()
        self.applying = True
        try:
            yield
        finally:
            self.applying = False
            self._exchange()

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the averages on the host, by the model's names; the values of what the optimizer does not hold."""
        with self.applied():
            return self.model.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave; errors as for `Module.load_state_dict`."""
        before = self.model.state_dict()
        with self.applied():
            self.model.load_state_dict({name: state.get(name, value) for name, value in before.items()} | dict(state))

    def _place(self) -> None:
        """Follow the optimizer to its backend."""
        for arena in (self.weights, self.statistics):
            arena.to(self.optimizer.arena.backend)

    def _pairs(self) -> Iterator[tuple[Array, Array]]:
        yield self.weights.data, self.optimizer.arena.data
        yield from zip(self.statistics.views, (b.data for b in self.buffers.values()), strict=True)

    def _exchange(self) -> None:
        self._place()
        backend = self.weights.backend
        for average, value in self._pairs():
            kept = backend.copy(value)
            backend.copy(average, out=value)
            backend.copy(kept, out=average)
        self.optimizer.arena.version += 1
