"""`Sequential`: modules one after another; `Residual`, which adds them to their input; `Concat`, modules side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, overload

from gpunet import functional as F
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

    @overload
    def __getitem__(self, i: int) -> Module: ...

    @overload
    def __getitem__(self, i: slice) -> Sequential: ...

    def __getitem__(self, i: int | slice) -> Module:
        """A layer; or, of a slice, those layers as a Sequential, which shares them."""
        return Sequential(*self.layers[i], fuse=self.fuse) if isinstance(i, slice) else self.layers[i]


class Residual(Sequential):
    """x + layers(x): what the layers, one after another, add to their input (He et al. 2016, section 3.1).

    The layers keep the shape, unless a shortcut brings the input to theirs: they are Sequential's, and so are their names.

    Args:
        layers, fuse: as for `Sequential`.
        shortcut: takes the place of x in the sum, as a 1x1 convolution does where channels or extents change (He et al. 2016,
            equation 2); its parameters are "shortcut.…". None for x itself.
    """

    def __init__(self, *layers: Module, shortcut: Module | None = None, fuse: bool = True):
        super().__init__(*layers, fuse=fuse)
        if not isinstance(shortcut, Module | None):
            raise TypeError(f"Residual: shortcut is {type(shortcut).__name__} but takes a Module")
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """x -> shortcut(x) + layers(x), both of one shape."""
        y = super().forward(x)
        kept = x if self.shortcut is None else self.shortcut(x)
        if y.shape != kept.shape:
            made = "" if self.shortcut is None else f", the shortcut {kept.shape}"
            raise ValueError(f"Residual: the layers make {y.shape} of {x.shape}{made}, and only equal shapes add up")
        return kept + y


class Concat(Module):
    """Modules side by side on one input, their results behind one another along the channels (Szegedy et al. 2015, figure 2).

    Args:
        branches: the modules; `nn.Identity` passes the input itself on, as a dense block does (Huang et al. 2017, equation 2).
            Names are positions: "0.weight".
    """

    def __init__(self, *branches: Module):
        if not branches:
            raise ValueError("Concat: takes at least one branch, got none")
        for i, branch in enumerate(branches):
            if not isinstance(branch, Module):
                raise TypeError(f"Concat: branch {i} is {type(branch).__name__} but takes a Module")
        self.branches = list(branches)

    def children(self) -> Iterator[tuple[str, Any]]:
        """(position, branch)."""
        yield from ((str(i), branch) for i, branch in enumerate(self.branches))

    def forward(self, x: Tensor) -> Tensor:
        """x (…, C) -> (…, the sum of the branches' channels)."""
        parts = [branch(x) for branch in self.branches]
        if len({part.shape[:-1] for part in parts}) > 1:
            raise ValueError(
                f"Concat: the branches make {', '.join(str(part.shape) for part in parts)} of {x.shape}, and only equal "
                "extents stand side by side"
            )
        return F.concatenate(parts, axis=-1)
