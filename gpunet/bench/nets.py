"""The nets that are measured, their data, and the convolutions in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpunet import models, nn
from gpunet.autograd import no_grad
from gpunet.geometry import Geometry
from gpunet.nn.fusion import fused
from gpunet.random import seed


class Net(NamedTuple):
    """A net and what it is measured on."""

    build: Callable[..., nn.Sequential]
    """Makes the net for an input shape."""
    input_shape: tuple[int, int, int]
    """(H, W, C)."""
    batches: tuple[int, ...]
    """Batch sizes that are measured where the command names none."""
    rate: float = 0.001
    """Learning rate of the timed steps. It is small, because a net soon learns a few random labels by
    heart, and then rounding errors grow from step to step; faster in deep nets whose batch norms see
    few pixels."""


NETS = {
    "lenet": Net(models.lenet, (28, 28, 1), (128, 512)),
    "cnn": Net(models.cnn, (28, 28, 1), (128, 512)),
    "resnet9": Net(models.resnet9, (32, 32, 3), (512,), rate=1e-4),
    "vgg11": Net(models.vgg11, (32, 32, 3), (512,)),
    "mobilenet": Net(models.mobilenet, (32, 32, 3), (64,), rate=1e-6),
    "speedrun": Net(models.speedrun, (32, 32, 3), (2000,)),
}
CLASSES = 10


def input_shape_of(net: str, side: int | None = None) -> tuple[int, int, int]:
    """(H, W, C) of the net's images; H and W are `side`, if it is given."""
    h, w, c = NETS[net].input_shape
    return (h, w, c) if side is None else (side, side, c)


def make_model(net: str, side: int | None = None) -> nn.Sequential:
    """The net with the weights of seed 0, for images of `input_shape_of`."""
    seed(0)
    return NETS[net].build(input_shape_of(net, side))


def make_batch(net: str, batch: int, side: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Random images (batch, H, W, C) float32 and labels (batch,), equal for all contenders."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch, *input_shape_of(net, side))).astype(np.float32)
    return images, rng.integers(0, CLASSES, batch)


class Convolution(NamedTuple):
    """A convolution of a net."""

    x_shape: tuple[int, int, int]
    """(H, W, C), without the batch."""
    w_shape: tuple[int, int, int, int]
    stride: tuple[int, int] = (1, 1)
    padding: Any = "same"
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: bool = False
    """Whether the net fuses a ReLU into it."""
    pool: bool = False
    """Whether the net fuses a 2x2 max pool into it, after the ReLU."""
    inner: bool = True
    """Whether a step needs the gradient of its input, as of all but the first convolution."""

    def geometry(self, batch: int) -> Geometry:
        """The geometry for a batch of so many images."""
        return Geometry.conv(
            (batch, *self.x_shape), self.w_shape, stride=self.stride, padding=self.padding, dilation=self.dilation,
            groups=self.groups,
        )  # fmt: skip

    def __str__(self) -> str:
        (h, w, c), (kh, kw, _, o) = self.x_shape, self.w_shape
        return f"{h}x{w}x{c} to {o}, {kh}x{kw}"


def input_shapes(model: nn.Module, input_shape: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    """The input shape of each module, without the batch, by its id and in the order of the run."""
    shapes: dict[int, tuple[int, ...]] = {}

    def store_shape(module: nn.Module, inputs: tuple[Any, ...], _: Any) -> None:
        shapes[id(module)] = tuple(inputs[0].shape[1:])

    handles = [module.register_forward_hook(store_shape) for _, module in model.named_modules()]
    model.eval()
    with no_grad():
        model(np.zeros((1, *input_shape), np.float32))
    model.train()
    for handle in handles:
        handle.remove()
    return shapes


def convolutions(net: str) -> list[Convolution]:
    """The distinct convolutions of a net, in the order in which they run."""
    model = make_model(net)
    modules = {id(module): module for _, module in model.named_modules()}
    fused_options = {
        id(layer): options
        for module in modules.values()
        if isinstance(module, nn.Sequential) and module.fuse
        for layer, options in fused(module.layers)
    }
    found: list[Convolution] = []
    for key, x_shape in input_shapes(model, NETS[net].input_shape).items():
        layer = modules[key]
        if isinstance(layer, nn.Conv2d):
            options = {"activation": layer.activation, "pool": layer.pool, **fused_options[key]}
            h, w, c = x_shape
            kh, kw, channels, filters = layer.weight.shape
            found.append(
                Convolution(
                    (h, w, c),
                    (kh, kw, channels, filters),
                    *(layer.stride, layer.padding, layer.dilation, layer.groups),
                    activation=options["activation"] is not None,
                    pool=options["pool"] is not None,
                    inner=bool(found),
                )
            )
    return list(dict.fromkeys(found))
