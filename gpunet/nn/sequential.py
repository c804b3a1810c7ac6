"""`Sequential`: modules one after another, and `Residual`, which adds them to their input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpunet.autograd import Tensor
from gpunet.nn.fusion import fused
from gpunet.nn.module import Module


class Sequential(Module):
    """Modules one after another; its names are their positions: "0.weight".

    Args:
        layers: the modules.
        fuse: whether neighbours run as one operation where a rule in `nn.fusion` says so: fewer passes over memory, and
            the same numbers up to rounding.
    """

    def __init__(self, *layers: Module, fuse: bool = True):
        for i, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(f"Sequential: layer {i} is {type(layer).__name__} but takes a Module")
        self.layers = list(layers)
        self.fuse = fuse

    def children(self) -> Iterator[tuple[str, Any]]:
        """(position, layer), then what a subclass holds beside them."""
        yield from ((str(i), layer) for i, layer in enumerate(self.layers))
        yield from ((name, value) for name, value in super().children() if not name.startswith("layers."))

    def forward(self, x: Tensor) -> Tensor:
        """Each layer on the result of the one before."""
        for layer, options in fused(self.layers) if self.fuse else ((layer, {}) for layer in self.layers):
            x = layer(x, **options)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)

    def __getitem__(self, i: int) -> Module:
        return self.layers[i]


class Residual(Sequential):
    """x + layers(x): what the layers, one after another, add to their input (He et al. 2016, section 3.1).

    The layers keep the shape: they are Sequential's, and so are their names.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x -> x + layers(x), of x's shape."""
        y = super().forward(x)
        if y.shape != x.shape:
            raise ValueError(f"Residual: the layers make {y.shape} of {x.shape}, and only equal shapes add up")
        return x + y
