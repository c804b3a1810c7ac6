"""Contenders do the same work in gpunet and in its rivals. Here is what they have in common, and
gpunet's runs of a net."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

import numpy as np

from gpunet import functional as F
from gpunet import optim
from gpunet.autograd import no_grad, tensor
from gpunet.backends import Backend, get_backend
from gpunet.backends.cuda.backend import CudaBackend
from gpunet.bench import NotMeasuredError
from gpunet.bench.memory import forget_peak, peak_megabytes, resident_megabytes
from gpunet.bench.nets import NETS, make_batch, make_model
from gpunet.bench.timing import CupyTimer, HostTimer, Timer, Work
from gpunet.errors import BackendError
from gpunet.modes import late_results, multiplying
from gpunet.precision import split_precision
from gpunet.version import __version__

MOMENTUM = 0.9
"""Momentum of the timed steps, at the rate of the net."""
EAGER_STEPS, REPLAYED_STEPS = 3, 3
"""Steps whose losses are compared before anything is timed: eager ones, then replays of a graph if
the step is captured."""


class Spec(NamedTuple):
    """Which contender a process runs."""

    kind: str
    """What is measured: "step", "inference", "loading", "conv", "layers" or "ops"."""
    name: str
    """"gpunet", "copy" or one of `rivals.RIVALS`."""
    backend: str
    """The name of gpunet's backend; a rival runs on the same device."""
    threads: int
    precision: str = "float32"
    """The precision of training steps and of convolutions."""


class Contender(Protocol):
    """One way of doing the work of a benchmark."""

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """Prepare a case and run it -> results to compare with those of the other contenders.

        Raises:
            NotMeasuredError: this contender cannot do the work.
        """

    def time(self, repeats: int) -> list[float]:
        """Run the last case at least `repeats` times -> the seconds of each run, as `Timer.seconds`
        gives them."""

    def describe(self) -> dict[str, str]:
        """Versions and settings, for the record."""


def backend_and_timer(spec: Spec) -> tuple[Backend, Timer]:
    """gpunet's backend of a spec, and the timer for it.

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


class NetRun(ABC):
    """What is done over and over with a net that starts from the weights of seed 0.

    Subclasses set `name`, `timer`, and `graph`, which says whether the work is captured and timed
    as a graph.
    """

    name: str
    timer: Timer
    graph: bool
    _work: Work | None = None

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """See `Contender.prepare`: the results are the losses of the first runs, and on the host the
        memory that they took."""
        self._work = None  # the memory of the last case is given back first
        self.timer.clear()
        idle = resident_megabytes()
        self.build(case["net"], case["batch"], case.get("side"))
        forget_peak()
        losses = [self._run_step(self.step) for _ in range(EAGER_STEPS)]
        self._work = work = self.timer.capture(self.step) if self.graph else self.step
        losses += [self._run_step(work) for _ in range(REPLAYED_STEPS)]
        peak = peak_megabytes() if isinstance(self.timer, HostTimer) else None
        notes = {} if peak is None or idle is None else {f"{self.name}, MB": max(0.0, peak - idle)}
        return {"losses": losses, "notes": notes}

    def time(self, repeats: int) -> list[float]:
        """See `Contender.time`."""
        assert self._work is not None, "prepare comes first"
        return self.timer.seconds(self._work, repeats)

    def _run_step(self, work: Work) -> float:
        """Run the work once -> its loss."""
        self.timer.run(work)
        return self.read_loss()

    @abstractmethod
    def build(self, net: str, batch: int, side: int | None) -> None:
        """Make the model, the optimizer and the batch of images of `input_shape_of`."""

    @abstractmethod
    def step(self) -> None:
        """Run the work once, without waiting for the device."""

    @abstractmethod
    def read_loss(self) -> float:
        """The loss of the last run."""


class GpunetStep(NetRun):
    """gpunet's training step on one backend, forward, loss, backward and update: one graph on CUDA,
    as the Trainer runs it, elsewhere one operation after another."""

    def __init__(self, spec: Spec):
        self.name = spec.name
        self.backend, self.timer = backend_and_timer(spec)
        self.graph = isinstance(self.timer, CupyTimer)
        self.precision = spec.precision
        self.dtype, self._matrix = split_precision("bench", spec.precision, self.backend)

    def build(self, net: str, batch: int, side: int | None) -> None:
        """See `NetRun.build`."""
        self.model = make_model(net, side).to(self.backend)
        self.optimizer = optim.SGD(self.model.parameters(), lr=NETS[net].rate, momentum=MOMENTUM)
        if self.dtype is not None:
            self.optimizer.compute_in(self.dtype)
        x, y = make_batch(net, batch, side)
        self.x, self.y = tensor(x, dtype=self.dtype, backend=self.backend), self.backend.asarray(y, np.int32)

    def step(self) -> None:
        """See `NetRun.step`."""
        self.optimizer.zero_grad()
        with multiplying(self._matrix):
            with late_results():
                self.loss = F.cross_entropy(self.model(self.x), self.y)
            self.optimizer.backward(self.loss)
            self.optimizer.step()

    def read_loss(self) -> float:
        """See `NetRun.read_loss`."""
        return self.loss.item()

    def describe(self) -> dict[str, str]:
        """See `Contender.describe`."""
        return {**versions(self.backend), "precision": self.precision}


class GpunetInference(GpunetStep):
    """gpunet's forward pass without gradients, in evaluation mode."""

    def build(self, net: str, batch: int, side: int | None) -> None:
        """See `NetRun.build`."""
        super().build(net, batch, side)
        self.model.eval()

    def step(self) -> None:
        """See `NetRun.step`."""
        with multiplying(self._matrix), no_grad():
            self.logits = self.model(self.x)

    def read_loss(self) -> float:
        """See `NetRun.read_loss`."""
        return F.cross_entropy(self.logits, self.y).item()


def versions(backend: Backend) -> dict[str, str]:
    """gpunet's version, and what the backend says of its device and its libraries."""
    return {"gpunet": __version__, "backend": backend.name, **backend.describe()}
