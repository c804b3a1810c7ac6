"""The inputs of a graph: the device arrays whose contents differ from replay to replay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpunet.autograd import Tensor
from gpunet.backends.contract import Array, Backend
from gpunet.cuda.capture import Feed, Recorder, row
from gpunet.train.batches import DeviceBatch
from gpunet.train.eager import EagerStep

INT32 = np.iinfo(np.int32)


class CopiedBatches:
    """Batches that are copied to arrays on the device before each replay.

    Args:
        recorder, backend: of the model.
        batches: the first ones, one for each step, all of one signature.
        dtype: of the device arrays for host arrays of floats. Integers become int32, which is what
            operations take on the device.
    """

    def __init__(self, recorder: Recorder, backend: Backend, batches: Sequence[Any], dtype: np.dtype) -> None:
        self._backend = backend
        self.feeds: list[Feed] = []
        for part in batches[0]:
            stored = part.dtype
            if not isinstance(part, Tensor) and not backend.owns(part):
                stored = {"f": dtype, "i": np.int32, "u": np.int32}.get(part.dtype.kind, part.dtype)
            self.feeds.append(recorder.feed((len(batches), *part.shape), stored))

    def fill(self, batches: Sequence[Any]) -> None:
        """Copy the batches to the device.

        Raises:
            ValueError: integers beyond 32 bits.
        """
        for j, feed in enumerate(self.feeds):
            filled = False
            for i, batch in enumerate(batches):
                part = batch[j].data if isinstance(batch[j], Tensor) else batch[j]
                if self._backend.owns(part):
                    self._backend.copy(part, out=row(feed.device, i))
                    continue
                wide = part.dtype.kind in "iu" and part.dtype.itemsize >= 4 and part.size
                if wide and not INT32.min <= part.min() <= part.max() <= INT32.max:
                    raise ValueError(f"Trainer: array {j} of a batch holds {part.min()} to {part.max()}, beyond int32")
                feed.host[i] = part
                filled = True
            if filled:
                feed.send()

    def arrays(self, i: int, clock: Array) -> tuple[Any, ...]:
        """The arrays of step i, during the capture: row i of each device array."""
        return tuple(row(feed.device, i) for feed in self.feeds)

    def labels(self, i: int) -> Any:
        """The labels that step i took in the last replay."""
        return row(self.feeds[1].device, i)


class MadeBatches:
    """Batches that kernels of the graph make, at the place that the clock tells.

    Args:
        batches: the first ones, one for each step, all of one key.
        dtype: what the model computes in.
    """

    def __init__(self, batches: Sequence[DeviceBatch], dtype: np.dtype) -> None:
        self._batches, self._dtype = list(batches), dtype
        self._made: list[tuple[Any, ...]] = []

    def fill(self, batches: Sequence[Any]) -> None:
        """Copy nothing: batches of one key differ in their place alone, which the clock tells."""

    def arrays(self, i: int, clock: Array) -> tuple[Any, ...]:
        """The arrays of step i, during the capture; `clock` holds its (step, epoch)."""
        self._made.append(self._batches[i].make(clock, self._dtype))
        return self._made[i]

    def labels(self, i: int) -> Any:
        """The labels that step i took in the last replay."""
        return self._made[i][1]


class GraphInputs:
    """All inputs of a graph.

    Args:
        recorder: of the model's backend.
        eager: the step that is captured.
        batches: the first ones, one for each step, all of one signature.
        hyper_shape: (updates, M, K), for M ranges of the arena with K hyper-parameters each.
    Attributes:
        batches: where the steps find their batches.
        clock: (steps, 2) uint64, the step and the epoch, which random numbers are drawn from.
        hyper: (updates, M, K) float64, the hyper-parameters of each update.
    """

    def __init__(
        self, recorder: Recorder, eager: EagerStep, batches: Sequence[Any], hyper_shape: tuple[int, ...]
    ) -> None:
        self.batches: CopiedBatches | MadeBatches
        if isinstance(batches[0], DeviceBatch):
            self.batches = MadeBatches(batches, eager.dtype)
        else:
            self.batches = CopiedBatches(recorder, eager.optimizer.arena.backend, batches, eager.dtype)
        self.clock = recorder.feed((len(batches), 2), np.uint64)
        self.hyper = recorder.feed(hyper_shape, np.float64)

    def fill(self, batches: Sequence[Any], epoch: int, step: int) -> None:
        """Take these batches in the next replay; the first is step `step` of the epoch."""
        self.batches.fill(batches)
        self.clock.host[:, 0] = np.arange(step, step + len(batches))
        self.clock.host[:, 1] = epoch

    def send(self) -> None:
        """Copy the clock and the hyper-parameters to the device."""
        self.clock.send()
        self.hyper.send()
