"""The inputs of a graph: the device arrays whose contents differ from replay to replay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from gpunet.autograd import Tensor
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.backend import Backend
from gpunet.cuda.capture import Feed, Recorder, row
from gpunet.train.batches import DeviceBatch

INT32 = np.iinfo(np.int32)


class BatchInputs(Protocol):
    """Where the steps of a graph find their batches."""

    def fill(self, batches: Sequence[Any]) -> None:
        """Take these batches in the next replay, one for each step."""

    def capture(self, i: int, clock: Array) -> tuple[Any, ...]:
        """Return the arrays of step i, during the capture; `clock` holds its (step, epoch)."""

    def labels(self, i: int) -> Any:
        """Return the labels that step i took in the last replay."""


class CopiedBatches(BatchInputs):
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
                    raise ValueError(
                        f"Trainer: array {j} of a batch holds {part.min()} to {part.max()}, beyond 32 bits"
                    )
                feed.host[i] = part
                filled = True
            if filled:
                feed.send()

    def capture(self, i: int, clock: Array) -> tuple[Any, ...]:
        """Row i of each array."""
        return tuple(row(feed.device, i) for feed in self.feeds)

    def labels(self, i: int) -> Any:
        """Row i of the second array."""
        return row(self.feeds[1].device, i)


class MadeBatches(BatchInputs):
    """Batches that kernels of the graph make, at the place that the clock tells.

    Args:
        batches: the first ones, one for each step, all of one key.
        dtype: what the model computes in.
    """

    def __init__(self, batches: Sequence[DeviceBatch], dtype: np.dtype) -> None:
        self._batches, self._dtype = list(batches), dtype
        self._made: list[tuple[Any, ...]] = []

    def fill(self, batches: Sequence[Any]) -> None:
        """Nothing is copied: batches of one key differ in their place alone."""

    def capture(self, i: int, clock: Array) -> tuple[Any, ...]:
        """Launch the kernels that make the batch of step i."""
        self._made.append(self._batches[i].make(clock, self._dtype))
        return self._made[i]

    def labels(self, i: int) -> Any:
        """The second array that was made for step i."""
        return self._made[i][1]


class GraphInputs:
    """All inputs of a graph.

    Args:
        recorder, backend: of the model.
        batches: the first ones, one for each step, all of one signature.
        hyper_shape: (updates, M, K), for M runs of segments with K hyper-parameters each.
        dtype: what the model computes in.
    Attributes:
        batches: where the steps find their batches.
        clock: (steps, 2) uint64, the step and the epoch, which random numbers are drawn from.
        hyper: (updates, M, K) float64, the hyper-parameters of each update.
    """

    def __init__(
        self,
        recorder: Recorder,
        backend: Backend,
        batches: Sequence[Any],
        hyper_shape: tuple[int, ...],
        dtype: np.dtype,
    ) -> None:
        self.batches: BatchInputs = (
            MadeBatches(batches, dtype)
            if isinstance(batches[0], DeviceBatch)
            else CopiedBatches(recorder, backend, batches, dtype)
        )
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
