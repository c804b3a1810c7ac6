"""What a benchmark runs: the same work, in gpunet and in its rivals, each in a process of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

import numpy as np

from gpunet import functional as F
from gpunet import optim
from gpunet.autograd import tensor
from gpunet.backends import Backend, get_backend
from gpunet.backends.cuda.backend import CudaBackend
from gpunet.bench import NotMeasuredError
from gpunet.bench.nets import make_batch, make_model
from gpunet.bench.timing import CupyTimer, HostTimer, Timer, Work
from gpunet.errors import BackendError
from gpunet.precision import stored_dtype
from gpunet.version import __version__

RATE, MOMENTUM = 0.001, 0.9
"""So small that rounding does not grow within the compared steps: random labels are soon known by heart."""
EAGER_STEPS, REPLAYED_STEPS = 3, 3
"""Steps whose losses are compared before anything is timed: before a step is captured, where it is, and after."""


class Spec(NamedTuple):
    """Which contender a process runs."""

    kind: str
    """What it measures: "step", "conv", "layers" or "ops"."""
    name: str
    """"gpunet", "copy" or one of `rivals.RIVALS`."""
    backend: str
    """gpunet's; a rival runs on the same device."""
    threads: int
    precision: str = "ieee"
    """Of training steps."""


class Contender(Protocol):
    """One way of doing a benchmark's work."""

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """Make a case ready, and run it -> what came out, to be compared.

        Raises:
            NotMeasuredError: it cannot.
        """

    def time(self, repeats: int) -> list[float]:
        """Seconds of each of so many runs of the last case, or of more, as `Timer.seconds` gives them."""

    def describe(self) -> dict[str, str]:
        """Versions and settings, for the record."""


def placed(spec: Spec) -> tuple[Backend, Timer]:
    """gpunet's backend, and the timer for it.

    Raises:
        NotMeasuredError: the backend cannot be used here.
    """
    try:
        backend = get_backend(spec.backend)
    except BackendError as error:
        raise NotMeasuredError(str(error)) from error
    if isinstance(backend, CudaBackend) and backend.name.startswith("cuda"):
        return backend, CupyTimer(backend)
    return backend, HostTimer(backend.synchronize)


class TrainingStep(ABC):
    """A whole training step of a net: forward pass, loss, backward pass and update, from the weights of seed 0.

    Subclasses set `timer` and `graph`: whether the step is timed as a graph.
    """

    timer: Timer
    graph: bool
    _work: Work | None = None

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """See `Contender.prepare`: the losses of the first steps."""
        self._work = None  # the last case's memory goes first
        self.timer.clear()
        self.build(case["net"], case["batch"])
        losses = [self._stepped(self.step) for _ in range(EAGER_STEPS)]
        self._work = work = self.timer.capture(self.step) if self.graph else self.step
        return {"losses": losses + [self._stepped(work) for _ in range(REPLAYED_STEPS)]}

    def time(self, repeats: int) -> list[float]:
        """See `Contender.time`."""
        assert self._work is not None, "prepare comes first"
        return self.timer.seconds(self._work, repeats)

    def _stepped(self, work: Work) -> float:
        self.timer.run(work)
        return self.read_loss()

    @abstractmethod
    def build(self, net: str, batch: int) -> None:
        """Make the model, the optimizer and the batch."""

    @abstractmethod
    def step(self) -> None:
        """Run one step; the host need not wait for it."""

    @abstractmethod
    def read_loss(self) -> float:
        """The loss of the last step."""


class GpunetStep(TrainingStep):
    """gpunet's step on one backend: on CUDA as one graph, as the Trainer runs it, elsewhere operation by operation."""

    def __init__(self, spec: Spec):
        self.backend, self.timer = placed(spec)
        self.graph = isinstance(self.timer, CupyTimer)
        self.precision, self.dtype = spec.precision, stored_dtype("bench", spec.precision, self.backend)

    def build(self, net: str, batch: int) -> None:
        """See `TrainingStep.build`."""
        self.model = make_model(net).to(self.backend)
        self.optimizer = optim.SGD(self.model.parameters(), lr=RATE, momentum=MOMENTUM)
        if self.dtype is not None:
            self.optimizer.compute_in(self.dtype)
        x, y = make_batch(net, batch)
        self.x, self.y = tensor(x, dtype=self.dtype, backend=self.backend), self.backend.asarray(y, np.int32)

    def step(self) -> None:
        """See `TrainingStep.step`."""
        self.optimizer.zero_grad()
        self.loss = F.cross_entropy(self.model(self.x), self.y)
        self.optimizer.backward(self.loss)
        self.optimizer.step()

    def read_loss(self) -> float:
        """See `TrainingStep.read_loss`."""
        return self.loss.item()

    def describe(self) -> dict[str, str]:
        """See `Contender.describe`."""
        return {**described(self.backend), "precision": self.precision}


def described(backend: Backend) -> dict[str, str]:
    """gpunet's version, and the backend's."""
    return {"gpunet": __version__, "backend": backend.name, **backend.describe()}
