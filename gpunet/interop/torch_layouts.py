"""How PyTorch lays out the arrays of each layer.

PyTorch keeps channels before pixels, gpunet behind them, so every array of more than one axis has
its axes in another order. A `Layout` says which, and serves both directions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpunet import nn
from gpunet.nn import Module

COUNT = "num_batches_tracked"
"""A buffer of each of PyTorch's batch norms; here only of those whose momentum is None."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The order of PyTorch's elements in an array of gpunet's.

    Attributes:
        split: PyTorch's shape, with an axis that joins several of them split.
        axes: gpunet's order of these axes.
        torch: PyTorch's shape.
        own: gpunet's shape.
    """

    split: Shape
    axes: Shape
    torch: Shape
    own: Shape

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        """PyTorch's array -> gpunet's."""
        return np.asarray(array.reshape(self.split).transpose(self.axes).reshape(self.own), order="C")

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """gpunet's array -> PyTorch's."""
        turned = array.reshape([self.split[axis] for axis in self.axes])
        return np.asarray(turned.transpose(np.argsort(self.axes)).reshape(self.torch), order="C")


def _moved(own: Shape, axes: Shape) -> Layout:
    """For an array whose axes stand in another order: axis i here is PyTorch's axis `axes[i]`."""
    torch = tuple(own[axes.index(i)] for i in range(len(own)))
    return Layout(torch, axes, torch, own)


def _vector(n: int, channels: int) -> Layout:
    """For one number per feature; `channels` of what was flattened into the features, or 1."""
    return Layout((channels, n // channels), (1, 0), (n,), (n,))


def _dense(inputs: int, outputs: int, channels: int) -> Layout:
    """For a dense weight; `channels` of what was flattened into its inputs, or 1."""
    return Layout((outputs, channels, inputs // channels), (2, 1, 0), (outputs, inputs), (inputs, outputs))


FILTERS = (2, 3, 1, 0)
"""(KH, KW, C, O) of PyTorch's (O, C, KH, KW); with a transposed convolution's O and C exchanged."""


def parts(model: Module) -> Iterator[tuple[str, Module, str, Any]]:
    """(name of the module, module, name of the part in it, part) of each parameter and buffer."""
    seen = set()
    for name, module in model.named_modules():
        for part, value in module.named_parts():
            if isinstance(value, nn.Buffer | nn.Parameter) and id(value) not in seen:
                seen.add(id(value))
                yield name, module, part, value


def joined(module: str, part: str) -> str:
    """The whole name of a part of a module; either may be empty."""
    return f"{module}.{part}" if module and part else module or part


def layouts(
    operation: str, model: Module, channels: Mapping[str, int], ignored: Collection[str] = ()
) -> dict[str, Layout]:
    """The layout of each parameter and buffer by name.

    Args:
        operation: begins errors.
        channels: those that were flattened into the inputs of a layer, by the layer's name; layers
            that are not named stand behind no flatten.
        ignored: entries that need no layout.
    Raises:
        ValueError: entries that have no counterpart in PyTorch; the message names all of them.
    """
    found, faults = dict[str, Layout](), list[str]()
    for name, module, part, value in parts(model):
        own = joined(name, part)
        layout = _layout(module, part, value.shape, channels.get(name, 1))
        if layout is not None:
            found[own] = layout
        elif own not in ignored:
            faults.append(f"{own}, of a {type(module).__name__}")
    if faults:
        raise ValueError(f"{operation}: PyTorch has no counterpart of {'; '.join(faults)}")
    return found


def _layout(module: Module, part: str, shape: Shape, channels: int) -> Layout | None:
    """The layout of one array, or None if PyTorch has no such layer."""
    if isinstance(module, nn.LocallyConnected2d):
        return None
    if len(shape) == 0:
        return Layout((), (), (), ())
    if len(shape) == 1:
        # A dense layer's bias belongs to its outputs, which are in one order.
        return _vector(shape[0], 1 if isinstance(module, nn.Linear) else channels)
    if part == "weight" and isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return _moved(shape, FILTERS)
    if part == "weight" and isinstance(module, nn.Linear):
        return _dense(shape[0], shape[1], channels)
    if isinstance(module, nn.LayerNorm) and len(shape) == 3:
        return _moved(shape, (1, 2, 0))  # (H, W, C) of (C, H, W)
    return None
