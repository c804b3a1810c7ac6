"""Translates a net of gpunet into a PyTorch module with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpunet import nn
from gpunet.backends.contract import Activation, InputActivation
from gpunet.bench.nets import input_shapes
from gpunet.geometry import Geometry, Pair
from gpunet.models.fast_cifar import Scaled
from gpunet.nn.activation import ActivationLayer


def to_torch(model: nn.Module, input_shape: tuple[int, ...]) -> Any:
    """The same net with the same weights in PyTorch.

    PyTorch's images are NCHW, so the filters and the rows of the dense layer after flattening are
    reordered.

    Args:
        model: a `Sequential` or `Residual`, nested or not, of layers that `_Translation` knows.
        input_shape: (H, W, C) of an image.
    Returns:
        A torch.nn.Module, in training mode, on the CPU.
    Raises:
        ValueError: a layer has no translation.
    """
    return _Translation(input_shapes(model, input_shape)).translate(model)


class _Translation:
    """One translation of a net.

    Args:
        shapes: the input shape of each module, without the batch, by the module's id.
    """

    def __init__(self, shapes: dict[int, tuple[int, ...]]):
        self.shapes = shapes
        self.flattened: tuple[int, ...] | None = None
        """(H, W, C) that the last `Flatten` flattened, until a dense layer has reordered its rows
        by it."""

    def translate(self, layer: nn.Module) -> Any:
        """The PyTorch module of a layer with all layers inside it."""
        import torch

        match layer:
            case nn.Residual(shortcut=None):
                return _combined(self.sequence(layer), lambda x, y: x + y)
            case Scaled():
                return _combined(self.sequence(layer), lambda _, y: layer.factor * y)
            case nn.Sequential() if type(layer) is nn.Sequential:
                return self.sequence(layer)
            case nn.BatchNorm2d():
                return self.batch_norm(layer)
            case ActivationLayer():
                return _activation(layer.function)
            case nn.PReLU():
                sloped = torch.nn.PReLU(layer.weight.size)
                copy(sloped.weight, layer.weight.numpy())
                return sloped
            case nn.GroupNorm():
                made = torch.nn.GroupNorm(layer.num_groups, layer.num_channels, layer.eps, layer.weight is not None)
                return _with_parameters(made, layer, None if layer.weight is None else layer.weight.numpy())
            case nn.Conv2d():
                return self.conv(layer)
            case nn.Linear():
                return self.linear(layer)
            case nn.MaxPool2d():
                window = Geometry.pool(
                    (1, *self.shapes[id(layer)]), layer.kernel_size, stride=layer.stride, padding=layer.padding
                )
                return torch.nn.MaxPool2d(
                    layer.kernel_size, stride=layer.stride, padding=symmetric_padding(layer, window)
                )
            case nn.GlobalAvgPool2d():
                return torch.nn.AdaptiveAvgPool2d(1)
            case nn.Flatten():
                shape = self.shapes[id(layer)]
                self.flattened = shape if len(shape) == 3 else None
                return torch.nn.Flatten()
            case _:
                raise ValueError(f"to_torch: {layer!r} is not translated")

    def sequence(self, layers: nn.Sequential) -> Any:
        """The layers of a `Sequential`, one after another."""
        import torch

        return torch.nn.Sequential(*map(self.translate, layers))

    def batch_norm(self, layer: nn.BatchNorm2d) -> Any:
        """Batch norm with its running moments and its activation."""
        import torch

        kind = torch.nn.BatchNorm2d if len(self.shapes[id(layer)]) == 3 else torch.nn.BatchNorm1d
        made = kind(layer.running_mean.size, eps=layer.eps, momentum=layer.momentum, affine=layer.weight is not None)
        copy(made.running_mean, layer.running_mean.numpy())
        copy(made.running_var, layer.running_var.numpy())
        return _with_parameters(made, layer, None if layer.weight is None else layer.weight.numpy())

    def conv(self, layer: nn.Conv2d) -> Any:
        """The convolution with its activation and its max pool."""
        import torch

        kh, kw, channels, filters = layer.weight.shape
        geometry = Geometry.conv(
            (1, *self.shapes[id(layer)]), layer.weight.shape, stride=layer.stride, padding=layer.padding,
            dilation=layer.dilation, groups=layer.groups,
        )  # fmt: skip
        made = torch.nn.Conv2d(
            channels * layer.groups, filters, (kh, kw), stride=layer.stride, padding=symmetric_padding(layer, geometry),
            dilation=layer.dilation, groups=layer.groups, bias=layer.bias is not None,
        )  # fmt: skip
        activated = _with_parameters(made, layer, layer.weight.numpy().transpose(3, 2, 0, 1))
        return activated if layer.pool is None else torch.nn.Sequential(activated, torch.nn.MaxPool2d(layer.pool))

    def linear(self, layer: nn.Linear) -> Any:
        """The dense layer with its activation."""
        import torch

        w = layer.weight.numpy()
        if self.flattened is not None:  # rows are in the order (h, w, c) here, (c, h, w) in PyTorch
            w = w.reshape(*self.flattened, -1).transpose(2, 0, 1, 3).reshape(len(w), -1)
            self.flattened = None
        made = torch.nn.Linear(len(w), w.shape[1], bias=layer.bias is not None)
        return _with_parameters(made, layer, w.T)


def _with_parameters(
    made: Any, layer: nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.GroupNorm, weight: np.ndarray | None
) -> Any:
    """The module `made` with the weight (in PyTorch's layout) and the bias of `layer`, followed by
    the layer's activation."""
    import torch

    for target, source, values in (
        (made.weight, layer.weight, weight),
        (made.bias, layer.bias, None if layer.bias is None else layer.bias.numpy()),
    ):
        if source is not None and values is not None:
            copy(target, values)
            target.requires_grad_(source.requires_grad)
    activation = getattr(layer, "activation", None)
    return made if activation is None else torch.nn.Sequential(made, _activation(activation))


def _combined(inner: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """A module that computes combine(x, inner(x))."""
    import torch

    class Combined(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Any) -> Any:
            return combine(x, self.inner(x))

    return Combined()


def _activation(activation: Activation | InputActivation) -> Any:
    from torch import nn as torch_nn

    match activation:
        case Activation("leaky_relu"):
            return torch_nn.LeakyReLU(activation.negative_slope)
        case Activation("elu"):
            return torch_nn.ELU(activation.alpha)
        case Activation("hard_tanh"):
            return torch_nn.Hardtanh(activation.min_val, activation.max_val)
        case InputActivation("softplus"):
            return torch_nn.Softplus(activation.beta)
        case _:
            return getattr(torch_nn, _TORCH[activation.name])()


_TORCH = {
    "relu": "ReLU", "sigmoid": "Sigmoid", "tanh": "Tanh", "relu6": "ReLU6", "hard_sigmoid": "Hardsigmoid", "gelu": "GELU",
    "silu": "SiLU", "hard_swish": "Hardswish",
}  # fmt: skip
"""PyTorch's layers that have no arguments, by gpunet's names for the activations."""


def symmetric_padding(layer: object, geometry: Geometry) -> Pair:
    """The padding as PyTorch takes it: (vertical, horizontal) pixels, the same before and after.

    Raises:
        ValueError: the padding differs between opposite sides, which PyTorch's layers cannot
            compute.
    """
    (top, bottom), (left, right) = geometry.padding
    if (top, left) != (bottom, right):
        raise ValueError(f"to_torch: {layer!r} is not translated: its padding {geometry.padding} differs between sides")
    return top, left


def copy(target: Any, values: np.ndarray) -> None:
    """Copy values into a PyTorch tensor."""
    import torch

    with torch.no_grad():
        target.copy_(torch.from_numpy(np.ascontiguousarray(values)))
