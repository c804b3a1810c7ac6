"""A table of the kernels that one step of a network launches: for what, on how many bytes, with how many operations.

The step is run, on a copy of the model, through a backend that writes down what it is asked for. An update belongs to the
modules above this one, so it comes as an argument: ``optimizer=lambda parameters: optim.SGD(parameters, lr=0.1)``.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from gpunet import functional as F
from gpunet import random
from gpunet.autograd import Function, Parameter, Tensor, no_grad, tensor, watching
from gpunet.backends import Backend, get_backend, why_unavailable
from gpunet.backends.contract.activation import Activation
from gpunet.backends.cuda.backend import CudaBackend, recording_backend
from gpunet.cuda.recording import Allocation, Launch, Recording
from gpunet.errors import BackendError
from gpunet.geometry import positive_int
from gpunet.nn.module import Buffer, Module
from gpunet.precision import stored_dtype
from gpunet.report.summary import check_input_shape, kind_of
from gpunet.report.table import draw_table, in_bytes

Loss = Callable[[Any, Any], Tensor]
MakeOptimizer = Callable[[list[Parameter]], Any]


class Place(NamedTuple):
    """Where in a step something was asked for: the `label` of a plan's launches and allocations."""

    phase: str
    """"forward" (the loss too), "backward" or "update"."""
    layer: str
    """Name and kind of the innermost layer, with what it has taken in; empty outside of the model."""
    operation: str
    """Of `gpunet.functional`, whose gradient it is in the backward pass; in an update the optimizer."""


@dataclass(frozen=True)
class Plan:
    """What one step asks of a device; prints as a table."""

    launches: tuple[Launch, ...]
    """In their order; the `label` of each is a `Place`."""
    allocations: tuple[Allocation, ...]
    """Arrays made in the step: not the model, the optimizer's state and the batch."""
    input_shape: tuple[int, ...]
    batch_size: int
    backend: str

    @property
    def read(self) -> int:
        """Bytes of the arrays that the launches read; an array counts once for each of them, whole."""
        return sum(launch.read for launch in self.launches)

    @property
    def written(self) -> int:
        """Bytes of the arrays that the launches write, likewise."""
        return sum(launch.written for launch in self.launches)

    @property
    def flops(self) -> int:
        """Of convolutions and matrix products, with their gradients; a multiply-add counts two."""
        return sum(launch.flops for launch in self.launches)

    @property
    def allocated(self) -> int:
        """Bytes of all allocations; most are given back within the step."""
        return sum(allocation.bytes for allocation in self.allocations)

    def __str__(self) -> str:
        table = [("pass", "layer or operation", "kernel", "grid", "read", "written", "FLOPs")]
        for launch in self.launches:
            phase, layer, operation = launch.label
            grid = "x".join(map(str, launch.grid))
            amounts = in_bytes(launch.read), in_bytes(launch.written), f"{launch.flops:,}" if launch.flops else ""
            table.append((phase, layer or operation, launch.kernel, grid, *amounts))
        totals = in_bytes(self.read), in_bytes(self.written), f"{self.flops:,}"
        table.append(("total", "", f"{len(self.launches)} launches", "", *totals))
        drawn = draw_table(table, (False, False, False, True, True, True, True))
        return (
            f"{drawn}\na step of {self.batch_size} inputs {'x'.join(map(str, self.input_shape))} on {self.backend}, with "
            f"{len(self.allocations)} allocations of {in_bytes(self.allocated)}; an array counts once a launch, and FLOPs are "
            "those of products"
        )

    __repr__ = __str__


def make_plan(
    model: Module,
    input_shape: tuple[int, ...],
    *,
    batch_size: int = 32,
    training: bool = True,
    loss: Loss = F.cross_entropy,
    optimizer: MakeOptimizer | None = None,
    backend: str | Backend | None = None,
    precision: str = "float32",
) -> Plan:
    """Run one step on random inputs of (batch_size, *input_shape), and note what it launches. The model stays as it is.

    The emulated device takes seconds for a small network; the launches, unlike the time, are the GPU's.

    Args:
        training: forward pass, loss and backward pass, in training mode; else the forward pass alone, in inference mode.
        loss: ``loss(model(x), labels)``, with integer labels, all 0, of shape (N, …) for an output (N, …, K).
        optimizer: makes the optimizer of the parameters that it is given, for an update at the end of the step.
        backend: "cuda" or "emulated"; if None the model's, if it is one of them, else the first that answers.
        precision: as for the Trainer. With an optimizer the parameters have been rounded before, by the update of the step
            before; without one, each operation rounds its own.
    Raises:
        BackendError: a backend that launches no kernels, or none here that does.
    """
    check_input_shape("plan", input_shape)
    batch_size = positive_int("plan", "batch_size", batch_size)
    device = _device(model, backend)
    recorded, recording = recording_backend(device)
    copied = _copied(model, recorded).train(training)
    made = None if optimizer is None or not training else optimizer(copied.parameters())
    stored = stored_dtype("plan", precision, device)
    if stored is not None and made is not None:
        made.compute_in(stored)
        made.arena.refresh()
    dtype = np.dtype(stored or next((p.dtype for p in copied.parameters()), np.float32))
    inputs = np.random.default_rng(0).normal(size=(batch_size, *input_shape))
    x = tensor(device.asarray(inputs, dtype), dtype=dtype, backend=recorded)
    follower = _Follower(recording, copied)
    recording.clear()
    with random.undisturbed(), watching(follower.watch):
        if training:
            _train(copied, x, loss, made, device, follower)
        else:
            with no_grad():
                copied(x)
    return Plan(tuple(recording.launches), tuple(recording.allocations), tuple(input_shape), batch_size, device.name)


def _train(model: Module, x: Tensor, loss: Loss, optimizer: Any, device: Backend, follower: _Follower) -> None:
    """One training step; the labels are made by a device that records nothing, for they belong to the batch."""
    y = model(x)
    labels = device.asarray(np.zeros(y.shape[:-1], np.int32)) if isinstance(y, Tensor) else None
    value = loss(y, labels)
    follower.at("backward", "", "loss")
    if optimizer is None:
        value.backward()
    else:
        optimizer.backward(value)
        follower.at("update", "", type(optimizer).__name__)
        optimizer.step()


class _Follower:
    """Labels a recording with the places of a step.

    Args:
        recording: what to label.
        model: its modules are changed to say when they run; a forward hook, which would keep them from being fused, is not
            needed for that.
    """

    def __init__(self, recording: Recording, model: Module):
        self._recording = recording
        self._running: list[str] = []
        self._layer_of: WeakKeyDictionary[Function, str] = WeakKeyDictionary()
        for name, module in model.named_modules():
            vars(module)["forward"] = self._followed(f"{name} {kind_of(module)}".strip(), module.forward)

    def at(self, phase: str, layer: str, operation: str) -> None:
        """What comes next belongs here."""
        self._recording.label = Place(phase, layer, operation)

    def watch(self, function: Function, direction: str) -> None:
        """An operation is about to run; its gradient belongs to the layer that applied it."""
        if direction == "forward":
            self._layer_of[function] = self._running[-1] if self._running else ""
        self.at(direction, self._layer_of[function], function.name)

    def _followed(self, label: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def followed(*inputs: Any, **options: Any) -> Any:
            taken = (value.name if isinstance(value, Activation) else name for name, value in options.items())
            self._running.append(" + ".join((label, *taken)))
            try:
                return forward(*inputs, **options)
            finally:
                self._running.pop()

        return followed


def _copied(model: Module, backend: Backend) -> Module:
    """The model on another backend, sharing with this one nothing that a step changes."""
    memo: dict[int, Any] = {}
    for _, parameter in model.named_parameters():
        data = backend.asarray(parameter.numpy(), parameter.dtype)
        memo[id(parameter)] = Parameter(data, backend, parameter.requires_grad, parameter.matrix)
    for _, buffer in model.named_buffers():
        memo[id(buffer)] = copied = Buffer(buffer.numpy(), buffer.dtype)
        copied.move(backend)
    return deepcopy(model, memo)


def _device(model: Module, asked: str | Backend | None) -> CudaBackend:
    if asked is not None:
        chosen = get_backend(asked)
    else:
        own = next((value.backend for _, value in [*model.named_parameters(), *model.named_buffers()]), None)
        chosen = own if isinstance(own, CudaBackend) else _first_device()
    if not isinstance(chosen, CudaBackend):
        raise BackendError(f"plan: backend is {chosen.name}, which launches no kernels; it takes cuda or emulated")
    return chosen


def _first_device() -> Backend:
    reasons = []
    for name in ("cuda", "emulated"):
        why = why_unavailable(name)
        if not why:
            return get_backend(name)
        reasons.append(f"{name}: {why}")
    raise BackendError(f"plan: takes a backend that launches kernels, and none answers here ({'; '.join(reasons)})")
