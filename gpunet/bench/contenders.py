"""What a benchmark runs: the same training step, in gpunet and in its rivals, from the same weights on the same batch."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

import numpy as np

import gpunet as gp
from gpunet import functional as F
from gpunet import models, nn, optim

NETS: dict[str, tuple[Callable[..., nn.Sequential], tuple[int, int, int]]] = {
    "lenet": (models.lenet, (28, 28, 1)),
    "cnn": (models.cnn, (28, 28, 1)),
}
"""Name -> (builder, input shape)."""
RATE, MOMENTUM = 0.01, 0.9


class Contender(Protocol):
    """One way of training a net."""

    def step(self) -> float:
        """Run one whole training step, up to the host's knowing its loss; returns the loss."""

    def describe(self) -> dict[str, str]:
        """Versions and settings, for the record."""


def make_batch(net: str, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images (batch, H, W, C) float32 and labels (batch,): equal for every contender."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(batch, *NETS[net][1])).astype(np.float32), rng.integers(0, 10, batch)


def make_model(net: str) -> nn.Sequential:
    """The net with the weights of seed 0."""
    gp.seed(0)
    build, shape = NETS[net]
    return build(shape)


class Gpunet:
    """gpunet's eager step on one backend."""

    def __init__(self, net: str, batch: int, backend: str):
        self.backend = gp.get_backend(backend)
        self.model = make_model(net).to(self.backend)
        self.optimizer = optim.SGD(self.model.parameters(), lr=RATE, momentum=MOMENTUM)
        x, y = make_batch(net, batch)
        self.x, self.y = gp.tensor(x, backend=self.backend), self.backend.asarray(y, np.int32)

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = F.softmax_cross_entropy(self.model(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def describe(self) -> dict[str, str]:
        return {"gpunet": gp.__version__, "backend": self.backend.name, **self.backend.describe()}


class Torch:
    """PyTorch's eager step with its defaults (NCHW), on the CPU."""

    def __init__(self, net: str, batch: int, threads: int):
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        self.model = to_torch(make_model(net), NETS[net][1])
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=RATE, momentum=MOMENTUM)
        x, y = make_batch(net, batch)
        self.x, self.y = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), torch.from_numpy(y)

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = self.torch.nn.functional.cross_entropy(self.model(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def describe(self) -> dict[str, str]:
        return {"torch": self.torch.__version__, "threads": str(self.torch.get_num_threads())}


def to_torch(model: nn.Sequential, input_shape: tuple[int, int, int]) -> Any:
    """The same net with the same weights in PyTorch: NCHW, so filters and the dense layer after flattening are reordered."""
    import torch

    layers: list[Any] = []
    made: Any
    shapes = [row.output_shape for row in model.summary(input_shape).rows]
    shape: tuple[int, ...] = input_shape
    flattened: tuple[int, ...] | None = None
    for layer, after in zip(model, shapes, strict=True):
        match layer:
            case nn.Conv2d():
                kh, kw, c, o = layer.weight.shape
                if layer.padding not in ("same", "valid") or layer.stride != (1, 1):
                    raise ValueError(f"to_torch: {layer!r} is not translated")
                around = (kh // 2, kw // 2) if layer.padding == "same" else (0, 0)
                made = torch.nn.Conv2d(c, o, (kh, kw), padding=around, bias=layer.bias is not None)
                _copy(made.weight, layer.weight.numpy().transpose(3, 2, 0, 1))
                _copy_bias(made, layer)
                layers.append(made)
            case nn.Linear():
                w = layer.weight.numpy()
                if flattened is not None:  # rows (h, w, c) -> (c, h, w)
                    w = w.reshape(*flattened, -1).transpose(2, 0, 1, 3).reshape(len(w), -1)
                    flattened = None
                made = torch.nn.Linear(layer.weight.shape[0], layer.weight.shape[1], bias=layer.bias is not None)
                _copy(made.weight, w.T)
                _copy_bias(made, layer)
                layers.append(made)
            case nn.MaxPool2d():
                layers.append(torch.nn.MaxPool2d(layer.window))
            case nn.Flatten():
                layers.append(torch.nn.Flatten())
                flattened = shape
            case nn.ReLU():
                layers.append(torch.nn.ReLU())
            case _:
                raise ValueError(f"to_torch: {layer!r} is not translated")
        if getattr(layer, "activation", None) is not None:
            layers.append(torch.nn.ReLU())
        shape = after
    return torch.nn.Sequential(*layers)


def _copy_bias(made: Any, layer: nn.Conv2d | nn.Linear) -> None:
    if layer.bias is not None:
        _copy(made.bias, layer.bias.numpy())


def _copy(target: Any, values: np.ndarray) -> None:
    import torch

    with torch.no_grad():
        target.copy_(torch.from_numpy(np.ascontiguousarray(values)))


def make(name: str, net: str, batch: int, backend: str, threads: int) -> Contender:
    """The contender of a name: "gpunet" or "torch"."""
    return Torch(net, batch, threads) if name == "torch" else Gpunet(net, batch, backend)


def timed_steps(contender: Contender, count: int) -> list[float]:
    """Seconds of each of `count` steps."""
    times = []
    for _ in range(count):
        start = perf_counter()
        contender.step()
        times.append(perf_counter() - start)
    return times
