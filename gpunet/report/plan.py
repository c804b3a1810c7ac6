"""`plan`: a table of the kernels that one step of a network launches, with bytes and FLOPs."""

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
from gpunet.backends.contract import Activation
from gpunet.backends.cuda.backend import CudaBackend, dry_backend, recording_backend
from gpunet.cuda.prediction import gpus
from gpunet.cuda.prediction import model as model_of_time
from gpunet.cuda.prediction.model import Prediction, Turn
from gpunet.cuda.recording import Allocation, Launch, Recording
from gpunet.errors import BackendError
from gpunet.geometry import positive_int
from gpunet.modes import late_results, multiplying
from gpunet.nn.module import Buffer, Module
from gpunet.precision import split_precision
from gpunet.report.summary import check_input_shape, in_bytes, kind_of
from gpunet.tables import Table

Loss = Callable[[Any, Any], Tensor]
MakeOptimizer = Callable[[list[Parameter]], Any]


class Place(NamedTuple):
    """Where in a step a launch or an allocation belongs: the `label` of each in a plan."""

    phase: str
    """"forward", which includes the loss; "backward" or "update"."""
    layer: str
    """Name and kind of the innermost layer, with what is fused into it; several where they share a
    launch; empty outside the model."""
    operation: str
    """The operation of `gpunet.functional`, or the optimizer in an update."""


@dataclass(frozen=True)
class Plan:
    """What one step asks of a device; prints as a table."""

    launches: tuple[Launch, ...]
    """The launches in their order; the `label` of each is a `Place`."""
    allocations: tuple[Allocation, ...]
    """The arrays made in the step: not the model, the optimizer's state and the batch."""
    input_shape: tuple[int, ...]
    batch_size: int
    backend: str
    gpu: str = ""
    """The GPU that the launches are predicted for; empty if they are not."""
    predictions: tuple[Prediction, ...] = ()
    """What is predicted of each launch; none without a GPU."""

    @property
    def microseconds(self) -> float:
        """Predicted time of all launches as one CUDA graph; 0 without a prediction."""
        return sum(prediction.microseconds for prediction in self.predictions)

    @property
    def read(self) -> int:
        """Bytes of the arrays that the launches read; each launch counts an array once, whole."""
        return sum(launch.read for launch in self.launches)

    @property
    def written(self) -> int:
        """Bytes of the arrays that the launches write; each launch counts an array once, whole."""
        return sum(launch.written for launch in self.launches)

    @property
    def flops(self) -> int:
        """FLOPs of convolutions, matrix products and their gradients; a multiply-add is two."""
        return sum(launch.flops for launch in self.launches)

    @property
    def allocated(self) -> int:
        """Bytes of all allocations; the step itself frees most of them again."""
        return sum(allocation.bytes for allocation in self.allocations)

    def table(self) -> Table:
        """A row for each launch, and the sums."""
        head: tuple[str, ...] = ("pass", "layer or operation", "kernel", "grid", "read", "written", "FLOPs")
        rows: list[tuple[str, ...]] = []
        for launch in self.launches:
            phase, layer, operation = launch.label
            grid = "x".join(map(str, launch.grid))
            amounts = in_bytes(launch.read), in_bytes(launch.written), f"{launch.flops:,}" if launch.flops else ""
            rows.append((phase, layer or operation, launch.kernel, grid, *amounts))
        totals: tuple[str, ...] = ("total", "", f"{len(self.launches)} launches", "")
        totals += in_bytes(self.read), in_bytes(self.written), f"{self.flops:,}"
        right = [False, False, False, True, True, True, True]
        note = (
            f"a step of {self.batch_size} inputs {'x'.join(map(str, self.input_shape))} on {self.backend}, with "
            f"{len(self.allocations)} allocations of {in_bytes(self.allocated)}; each launch counts an array once, and FLOPs "
            "are those of products"
        )
        if self.gpu:
            head, right = head + PREDICTED[-5:], [*right, True, True, True, True, False]
            rows = [(*row, *predicted_cells(p)[-5:]) for row, p in zip(rows, self.predictions, strict=True)]
            totals += "", "", f"{self.microseconds:.1f}", "", ""
            note += f"; times on an {self.gpu} are predicted, not measured"
        return Table(head, rows, totals, right, note)

    def __str__(self) -> str:
        return str(self.table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


PREDICTED = ("tile", "split", "blocks", "waves", "turns", "predicted us", "of the peak", "bound")
"""The columns of :func:`predicted_cells`."""


def predicted_cells(prediction: Prediction) -> tuple[str, ...]:
    """What is predicted of a launch, as cells of a table under the heads `PREDICTED`."""
    p = prediction
    split, turns = (str(n) if p.turns else "" for n in (p.splits, p.turns))
    return p.tile, split, str(p.blocks), f"{p.waves:.2f}", turns, f"{p.microseconds:.1f}", peak_cell(p), p.bound


def peak_cell(prediction: Prediction | Turn) -> str:
    """The share of the peak of a precision, as in "41% of tf32"; empty without a product."""
    return f"{prediction.share:.0%} of {prediction.precision}" if prediction.share else ""


def plan(
    model: Module,
    input_shape: tuple[int, ...],
    *,
    batch_size: int = 32,
    training: bool = True,
    loss: Loss = F.cross_entropy,
    optimizer: MakeOptimizer | None = None,
    backend: str | Backend | None = None,
    precision: str = "float32",
    gpu: str | None = None,
) -> Plan:
    """Run one step on random inputs, and list the kernels that it launches.

    The emulated device launches what a GPU launches, but takes seconds for a small network. With
    `gpu`, nothing is run: the launches are recorded on arrays without memory, and the time of each
    is predicted from its machine code.

    Args:
        model: the network; it stays as it is, for the step runs on a copy.
        input_shape: shape of one input without the batch axis, such as (28, 28, 1).
        batch_size: number of inputs.
        training: whether the step is forward pass, loss and backward pass, in training mode; if
            not, it is the forward pass alone, in inference mode.
        loss: called as ``loss(model(x), labels)``, with integer labels of shape (N, …), all 0, for
            an output of shape (N, …, K).
        optimizer: makes the optimizer of the copy, for the step to end in an update: ``lambda
            parameters: optim.SGD(parameters, lr=0.1)``.
        backend: "cuda" or "emulated"; if None, the model's own if it is one of these, else the
            first of them that works here.
        precision: as for the Trainer. With an optimizer the plan is that of a later step, whose
            parameters the update before has rounded; without one, each operation rounds its own.
        gpu: the GPU for which times are predicted, such as "H200"; `backend` must be None then. It
            takes NVRTC and the disassembler, and no GPU.
    Raises:
        BackendError: the backend launches no kernels, or no backend that does works here, or what a
            prediction takes is not installed.
        TypeError, ValueError: the input shape, batch size, precision or GPU is not a valid one.
    """
    check_input_shape("plan", input_shape)
    batch_size = positive_int("plan", "batch_size", batch_size)
    device = _device(model, backend) if gpu is None else _dry_device(gpu, backend)
    recorded, recording = recording_backend(device)
    twin = _copied(model, recorded).train(training)
    made = None if optimizer is None or not training else optimizer(twin.parameters())
    stored, matrix = split_precision("plan", precision, device)
    if stored is not None and made is not None:
        made.compute_in(stored)
        made.arena.refresh()
    dtype = np.dtype(stored or next((p.dtype for p in twin.parameters()), np.float32))
    shape = batch_size, *input_shape
    inputs = (
        device.asarray(np.random.default_rng(0).normal(size=shape), dtype)
        if gpu is None
        else device.empty(shape, dtype)
    )
    x = tensor(inputs, dtype=dtype, backend=recorded)
    labeller = _Labeller(recording, twin)
    recording.clear()
    with random.undisturbed(), watching(labeller.watch), multiplying(matrix):
        if training:
            _train(twin, x, loss, made, device, labeller)
        else:
            with no_grad():
                twin(x)
    made_of = tuple(recording.launches), tuple(recording.allocations), tuple(input_shape), batch_size, device.name
    if gpu is None:
        return Plan(*made_of)
    found = gpus.find_gpu("plan", gpu)
    return Plan(*made_of, found.name, model_of_time.predict(recording.launches, found))


def _train(model: Module, x: Tensor, loss: Loss, optimizer: Any, device: Backend, labeller: _Labeller) -> None:
    """Run one training step; `device`, which records nothing, makes the labels of the batch."""
    with late_results():
        y = model(x)
        labels = device.asarray(np.zeros(y.shape[:-1], np.int32)) if isinstance(y, Tensor) else None
        value = loss(y, labels)
    labeller.mark("backward", "", "loss")
    if optimizer is None:
        value.backward()
    else:
        optimizer.backward(value)
        labeller.mark("update", "", type(optimizer).__name__)
        optimizer.step()


class _Labeller:
    """Labels what a recording gets with the place in the step where it belongs.

    Args:
        recording: the recording to label.
        model: the model whose step it is. The `forward` of each module is replaced by one that says
            when the module runs; forward hooks would keep neighbours from being fused.
    """

    def __init__(self, recording: Recording, model: Module):
        self._recording = recording
        self._running: list[str] = []  # labels of the modules that run now, outermost first
        self._layer_of: WeakKeyDictionary[Function, str] = WeakKeyDictionary()
        for name, module in model.named_modules():
            vars(module)["forward"] = self._labelled(f"{name} {kind_of(module)}".strip(), module.forward)

    def mark(self, phase: str, layer: str, operation: str) -> None:
        """Give what the recording gets from now on this place."""
        self._recording.label = Place(phase, layer, operation)

    def watch(self, function: Function, direction: str) -> None:
        """Mark an operation that is about to run; its gradient belongs to the same layer.

        Operations that share a launch belong to all of their layers.
        """
        if direction == "forward" and function not in self._layer_of:
            self._layer_of[function] = self._running[-1] if self._running else ""
        layer, place = self._layer_of[function], self._recording.label
        if direction == "beside":
            layers = (name for name in (place.layer, layer) if name)
            self.mark(place.phase, ", ".join(layers), place.operation)
        else:
            self.mark(direction, layer, function.name)

    def _labelled(self, label: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        """`forward`, with the module's label and what is fused into it on `_running` meanwhile."""

        def labelled(*inputs: Any, **options: Any) -> Any:
            taken = ((name, value) for name, value in options.items() if value is not True)  # a flag takes no layer in
            fused = (value.name if isinstance(value, Activation) else name for name, value in taken)
            self._running.append(" + ".join((label, *fused)))
            try:
                return forward(*inputs, **options)
            finally:
                self._running.pop()

        return labelled


def _copied(model: Module, backend: Backend) -> Module:
    """A copy of the model on another backend, which shares nothing with it that a step changes."""
    memo: dict[int, Any] = {}
    for _, parameter in model.named_parameters():
        data = backend.asarray(parameter.numpy(), parameter.dtype)
        memo[id(parameter)] = Parameter(data, backend, parameter.requires_grad, parameter.matrix)
    for _, buffer in model.named_buffers():
        memo[id(buffer)] = copied = Buffer(buffer.numpy(), buffer.dtype)
        copied.move(backend)
    return deepcopy(model, memo)


def _device(model: Module, asked: str | Backend | None) -> CudaBackend:
    """The backend to plan for: the one asked for, the model's own, or the first that works here."""
    if asked is not None:
        chosen = get_backend(asked)
    else:
        own = next((value.backend for _, value in [*model.named_parameters(), *model.named_buffers()]), None)
        chosen = own if isinstance(own, CudaBackend) else _first_device()
    if not isinstance(chosen, CudaBackend):
        raise BackendError(f"plan: backend is {chosen.name}, which launches no kernels; use cuda or emulated")
    return chosen


def _dry_device(gpu: str, backend: str | Backend | None) -> CudaBackend:
    """The backend that runs nothing, in the place of a GPU."""
    found = gpus.find_gpu("plan", gpu)
    if backend is not None:
        raise ValueError(f"plan: takes backend or gpu, got {backend!r} and {gpu!r}; a prediction runs on none")
    if why := model_of_time.why_unavailable():
        raise BackendError(f"plan: gpu is {gpu!r}, but nothing can be predicted here: {why}")
    return dry_backend(found.name, found.description)


def _first_device() -> Backend:
    """The GPU, or else the emulated device; a BackendError that says why neither works."""
    reasons = []
    for name in ("cuda", "emulated"):
        why = why_unavailable(name)
        if not why:
            return get_backend(name)
        reasons.append(f"{name}: {why}")
    raise BackendError(f"plan: takes a backend that launches kernels, and none works here ({'; '.join(reasons)})")
