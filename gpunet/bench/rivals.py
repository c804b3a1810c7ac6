"""PyTorch as a rival: the same weights, data and precision, in the ways in which its users run it.

PyTorch is imported only in the process in which a rival runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gpunet.bench import NotMeasuredError, convolutions, whole_layers
from gpunet.bench.contenders import MOMENTUM, Contender, NetRun, Spec
from gpunet.bench.loading import TorchLoading
from gpunet.bench.nets import NETS, Convolution, input_shape_of, make_batch, make_model
from gpunet.bench.primitives import Primitive, Problem
from gpunet.bench.timing import HostTimer, TorchTimer
from gpunet.bench.translate import symmetric_padding, to_torch
from gpunet.bench.whole_layers import LAYERS
from gpunet.precision import STORED


@dataclass(frozen=True)
class Rival:
    """A way of running PyTorch. Without options it is PyTorch's default."""

    channels_last: bool = False
    """Store images and filters with the channels innermost."""
    benchmark: bool = False
    """Let cuDNN time its algorithms, and take the fastest."""
    compile: str | None = None
    """The mode in which torch.compile compiles the forward pass with the loss, and the backward
    pass; None for eager."""
    fused: bool = False
    """Update all parameters in one kernel, which a graph can capture."""
    graph: bool = False
    """Capture the whole step as one CUDA graph."""


RIVALS = {
    "torch-eager": Rival(),
    "torch-benchmark": Rival(benchmark=True),
    "torch-channels-last": Rival(channels_last=True, benchmark=True),
    "torch-channels-last-graph": Rival(channels_last=True, benchmark=True, fused=True, graph=True),
    "torch-compile": Rival(compile="default"),
    "torch-graph": Rival(benchmark=True, compile="default", fused=True, graph=True),
    "torch-compile-max": Rival(compile="max-autotune"),
}
"""The rivals in the order of measurement; those that take long to compile come last."""
CONV_RIVALS = ("torch-eager", "torch-benchmark", "torch-channels-last", "torch-compile")
"""The rivals that differ from each other for a single convolution."""
LAYER_RIVALS = ("torch-eager", "torch-benchmark", "torch-channels-last")
"""The rivals that differ from each other for a single layer."""


def allow_tf32(torch: Any, allowed: bool) -> None:
    """Switch TF32 on or off for products and convolutions of float32, by the flags of this PyTorch.

    It is on for gpunet's "tf32", and off for all other precisions: gpunet's "3xtf32" has float32's
    accuracy, so its rival multiplies in float32.

    From PyTorch 2.9 on the flag is `fp32_precision`. torch.compile still reads the old flags there,
    whose defaults are True for cuDNN and False for cuBLAS, and raises if old and new ones contradict
    each other (pytorch/pytorch#166387). So the old flags are set as well. They are set first,
    because setting one resets the new one.
    """
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old flags are deprecated
        cudnn.allow_tf32 = cuda.matmul.allow_tf32 = allowed
    if not hasattr(torch.backends, "fp32_precision"):
        return
    for part in (torch.backends, cuda.matmul, cudnn.conv):
        part.fp32_precision = "tf32" if allowed else "ieee"


class _Torch:
    """PyTorch, set up for a rival.

    Raises:
        NotMeasuredError: PyTorch is not installed, or there is no device for this rival.
    """

    def __init__(self, spec: Spec):
        self.rival = RIVALS[spec.name]
        self.device = spec.backend if spec.backend.startswith("cuda") else "cpu"
        on_gpu = self.device != "cpu"
        if not on_gpu and (self.rival.graph or self.rival.compile == "max-autotune"):
            raise NotMeasuredError("CUDA graphs and max-autotune need a GPU")
        if not on_gpu and self.rival == Rival(benchmark=True):
            raise NotMeasuredError("cuDNN needs a GPU; without it this is torch-eager")
        try:
            import torch
        except ImportError as error:
            raise NotMeasuredError(f"PyTorch cannot be imported ({error})") from error
        if on_gpu and not torch.cuda.is_available():
            raise NotMeasuredError(f"PyTorch {torch.__version__} finds no GPU")
        self.torch = torch
        if on_gpu:
            torch.cuda.set_device(self.device if ":" in self.device else "cuda:0")
        torch.set_num_threads(spec.threads)
        allow_tf32(torch, spec.precision == "tf32")
        self.stored = getattr(torch, spec.precision if spec.precision in STORED else "float32")
        torch.backends.cudnn.benchmark = self.rival.benchmark
        self.timer = TorchTimer() if on_gpu else HostTimer()

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as this rival runs it."""
        if self.rival.compile is None:
            return function
        made: Callable[..., Any] = self.torch.compile(function, mode=self.rival.compile)
        return made

    def images(self, x: np.ndarray) -> Any:
        """Images (N, H, W, C) as a tensor (N, C, H, W) in the rival's layout, on its device."""
        return self._laid_out(x.transpose(0, 3, 1, 2))

    def filters(self, w: np.ndarray) -> Any:
        """Filters (KH, KW, C // groups, O) as a tensor (O, C // groups, KH, KW) in the rival's
        layout, on its device."""
        return self._laid_out(w.transpose(3, 2, 0, 1))

    def vector(self, b: np.ndarray) -> Any:
        """A vector (O,) as a tensor on the rival's device."""
        return self.torch.tensor(b, device=self.device)

    def layout(self) -> Any:
        """The memory format in which the rival stores tensors of four axes."""
        return self.torch.channels_last if self.rival.channels_last else self.torch.contiguous_format

    def _laid_out(self, array: np.ndarray) -> Any:
        host = self.torch.from_numpy(np.ascontiguousarray(array))
        return host.to(self.device).contiguous(memory_format=self.layout())

    def describe(self) -> dict[str, str]:
        """See `Contender.describe`."""
        about = {"torch": self.torch.__version__, "threads": str(self.torch.get_num_threads())}
        if self.device != "cpu":
            about |= {
                "device": self.torch.cuda.get_device_name(),
                "cuda": str(self.torch.version.cuda),
                "cudnn": str(self.torch.backends.cudnn.version()),
            }
        return {**about, **{key: str(value) for key, value in vars(self.rival).items() if value}}


class TorchStep(NetRun):
    """A training step of PyTorch."""

    def __init__(self, spec: Spec):
        self.name = spec.name
        self._run = _Torch(spec)
        self.timer, self.graph = self._run.timer, self._run.rival.graph
        self.precision = spec.precision
        if self.precision == "float16" and self.graph:
            raise NotMeasuredError("PyTorch's GradScaler asks the host in each step, so that a graph cannot hold it")

    def describe(self) -> dict[str, str]:
        """See `Contender.describe`."""
        return {**self._run.describe(), "precision": self.precision}

    def build(self, net: str, batch: int, side: int | None) -> None:
        """See `NetRun.build`."""
        torch, rival = self._run.torch, self._run.rival
        try:
            model = to_torch(make_model(net, side), input_shape_of(net, side))
        except ValueError as error:
            raise NotMeasuredError(str(error)) from error
        self.model = model = model.to(self._run.device, memory_format=self._run.layout())
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=NETS[net].rate, momentum=MOMENTUM, fused=rival.fused or None
        )
        x, y = make_batch(net, batch, side)
        self.x, self.y = self._run.images(x), torch.from_numpy(y).to(self._run.device)
        device = self._run.device.partition(":")[0]
        stored = getattr(torch, self.precision) if self.precision in STORED else None

        def forward(x: Any) -> Any:
            with torch.autocast(device, dtype=stored, enabled=stored is not None):
                return model(x)

        def loss_of(x: Any, y: Any) -> Any:
            with torch.autocast(device, dtype=stored, enabled=stored is not None):
                return torch.nn.functional.cross_entropy(model(x), y)

        self._forward, self._loss_of = self._run.compiled(forward), self._run.compiled(loss_of)
        # PyTorch's gradients have 16 bits too. With its default scale of 65536 they overflow, and
        # the steps would be skipped.
        self._scaler = torch.amp.GradScaler(device, init_scale=1024.0, enabled=self.precision == "float16")

    def step(self) -> None:
        """See `NetRun.step`."""
        self._mark_begin()
        self.optimizer.zero_grad()
        self.loss = self._loss_of(self.x, self.y)
        self._scaler.scale(self.loss).backward()
        self._scaler.step(self.optimizer)
        self._scaler.update()

    def read_loss(self) -> float:
        """See `NetRun.read_loss`."""
        return float(self.loss.item())

    def _mark_begin(self) -> None:
        """torch.compile makes graphs of its own with "max-autotune", and must know where a run begins."""
        if self._run.rival.compile == "max-autotune":
            self._run.torch.compiler.cudagraph_mark_step_begin()


class TorchInference(TorchStep):
    """PyTorch's forward pass without gradients, in evaluation mode."""

    def build(self, net: str, batch: int, side: int | None) -> None:
        """See `NetRun.build`."""
        super().build(net, batch, side)
        self.model.eval()

    def step(self) -> None:
        """See `NetRun.step`."""
        self._mark_begin()
        with self._run.torch.no_grad():
            self.logits = self._forward(self.x)

    def read_loss(self) -> float:
        """See `NetRun.read_loss`."""
        return float(self._run.torch.nn.functional.cross_entropy(self.logits, self.y).item())


class TorchPrimitive(Primitive):
    """One operation of PyTorch. Arrays of four axes are images, except the filters w and dw."""

    def __init__(self, spec: Spec, problem: Callable[[dict[str, Any]], Problem]):
        super().__init__(problem)
        self._run = _Torch(spec)
        self.timer, self.describe = self._run.timer, self._run.describe

    def upload(self, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        """See `Primitive.upload`."""
        tensors = {}
        for name, a in inputs.items():
            make = self._run.filters if name == "w" else self._run.images if a.ndim == 4 else self._run.vector
            tensors[name] = make(a.astype(np.float32)).to(self._run.stored)  # NumPy's bfloat16 is not PyTorch's
        return tensors

    def poison(self, outputs: Sequence[Any]) -> None:
        """See `Primitive.poison`."""
        for y in outputs:
            y.detach().fill_(float("nan"))

    def on_host(self, name: str, output: Any) -> np.ndarray:
        """See `Primitive.on_host`."""
        order = (0,) if output.ndim == 1 else (2, 3, 1, 0) if name == "dw" else (0, 2, 3, 1)
        host: np.ndarray = output.detach().float().permute(order).cpu().numpy().copy()
        return host


class TorchConv(TorchPrimitive):
    """PyTorch's convolution, its gradients, and the fused pass as PyTorch's users write it."""

    def __init__(self, spec: Spec):
        super().__init__(spec, convolutions.problem)

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """See `Contender.prepare`."""
        if self._run.rival.compile is not None and case["pass"] != "fused":
            raise NotMeasuredError("torch.compile has nothing to fuse in a single convolution")
        return super().prepare(case)

    def runner(self, case: dict[str, Any], problem: Problem) -> Callable[[dict[str, Any]], Sequence[Any]]:
        """See `Primitive.runner`."""
        torch, layer = self._run.torch, convolutions.layer(case)
        geometry = layer.geometry(case["batch"])
        n, h, width, c = geometry.x_shape
        try:
            padding = symmetric_padding(layer, geometry)
        except ValueError as error:
            raise NotMeasuredError(str(error)) from error
        options = (layer.stride, padding, layer.dilation, False, (0, 0), layer.groups)
        empty = partial(torch.empty, device=self._run.device, dtype=self._run.stored)
        forward, backward = torch.ops.aten.convolution, torch.ops.aten.convolution_backward
        match case["pass"]:
            case "forward":
                return lambda a: [forward(a["x"], a["w"], None, *options)]
            case "input_grad":  # the operation reads only the shape of x, and below only that of w
                x = empty((n, c, h, width), memory_format=self._run.layout())
                return lambda a: [backward(a["dy"], x, a["w"], None, *options, (True, False, False))[0]]
            case "weight_grad":
                w = empty((layer.w_shape[3], layer.w_shape[2], *layer.w_shape[:2]))
                w = w.contiguous(memory_format=self._run.layout())
                return lambda a: [backward(a["dy"], a["x"], w, None, *options, (False, True, False))[1]]
        return self._fused(layer, padding)

    def _fused(self, layer: Convolution, padding: Any) -> Callable[[dict[str, Any]], Sequence[Any]]:
        torch = self._run.torch
        F = torch.nn.functional

        def convolve(x: Any, w: Any, b: Any) -> Any:
            y = F.conv2d(x, w, b, layer.stride, padding, layer.dilation, layer.groups)
            y = F.relu(y) if layer.activation else y
            return F.max_pool2d(y, 2) if layer.pool else y

        run = self._run.compiled(convolve)

        def both(a: dict[str, Any]) -> Sequence[Any]:
            wanted = [a["w"], a["b"], *([a["x"]] if layer.inner else [])]
            for tensor in wanted:
                tensor.requires_grad_()
            y = run(a["x"], a["w"], a["b"])
            return [y, *torch.autograd.grad(y, wanted, a["dy"])]

        return both


class TorchLayer(TorchPrimitive):
    """A layer of PyTorch, forward and backward."""

    def __init__(self, spec: Spec):
        super().__init__(spec, whole_layers.problem)

    def runner(self, case: dict[str, Any], problem: Problem) -> Callable[[dict[str, Any]], Sequence[Any]]:
        """See `Primitive.runner`."""
        torch, layer = self._run.torch, LAYERS[case["layer"]]

        def both(a: dict[str, Any]) -> Sequence[Any]:
            wanted = [a[name].requires_grad_() for name in ("x", *layer.parameters)]
            y = layer.torch(torch.nn.functional, *wanted)
            return [y, *torch.autograd.grad(y, wanted, a["dy"])]

        return both


BY_KIND: dict[str, Callable[[Spec], Contender]] = {
    "step": TorchStep, "inference": TorchInference, "conv": TorchConv, "layers": TorchLayer,
    "loading": TorchLoading,
}  # fmt: skip
"""PyTorch's side of each kind of benchmark."""
