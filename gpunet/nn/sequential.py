"""`Sequential`, `Residual` and `Concat`: networks made of modules in a row or side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, overload

from gpunet import functional as F
from gpunet.autograd import Tensor
from gpunet.modes import unfused
from gpunet.nn.fusion import fused, takes_residual
from gpunet.nn.module import Module

__all__ = ["Concat", "Residual", "Sequential"]


class Sequential(Module):
    """Modules one after another, each on the result of the one before.

    The names of parameters begin with the position of their layer: "0.weight".

    Args:
        layers: the modules.
        fuse: whether neighbours run as one operation where a rule in `nn.fusion` says so, which
            saves passes over memory and gives the same numbers up to rounding; and whether the
            launches of small layers are joined on a GPU, which changes no number.
    """

    def __init__(self, *layers: Module, fuse: bool = True):
        self.layers = _checked("Sequential: layer", layers)
        self.fuse = fuse

    def named_parts(self) -> Iterator[tuple[str, Any]]:
        """(position, layer) of each layer, then (name, part) of what a subclass holds besides."""
        yield from ((str(i), layer) for i, layer in enumerate(self.layers))
        yield from ((name, value) for name, value in super().named_parts() if not name.startswith("layers."))

    def forward(self, x: Tensor) -> Tensor:
        """The last layer's result."""
        with self._fusing():
            for layer, options in self._steps():
                x = layer(x, **options)
            return x

    def _steps(self) -> list[tuple[Module, dict[str, Any]]]:
        """The layers that run, each with the options that stand for those fused into it."""
        return list(fused(self.layers)) if self.fuse else [(layer, {}) for layer in self.layers]

    def _fusing(self) -> AbstractContextManager[None]:
        """The context in which the layers run."""
        return nullcontext() if self.fuse else unfused()

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)

    @overload
    def __getitem__(self, i: int) -> Module: ...

    @overload
    def __getitem__(self, i: slice) -> Sequential: ...

    def __getitem__(self, i: int | slice) -> Module:
        """A layer; for a slice, a Sequential that shares these layers."""
        return Sequential(*self.layers[i], fuse=self.fuse) if isinstance(i, slice) else self.layers[i]


class Residual(Sequential):
    """x + layers(x), with the layers one after another (He et al. 2016, section 3.1).

    The layers keep the shape, unless a shortcut changes that of x as well. They are held as by
    `Sequential`, and so are their names. A `Conv2d` or a `BatchNorm2d` without activation that comes
    last adds x itself, which saves a pass over memory.

    Args:
        layers, fuse: as for `Sequential`.
        shortcut: computes what takes the place of x in the sum, such as a 1x1 convolution where
            channels or extents change (He et al. 2016, equation 2); its parameters are named
            "shortcut.…". None for x itself.
    """

    def __init__(self, *layers: Module, shortcut: Module | None = None, fuse: bool = True):
        super().__init__(*layers, fuse=fuse)
        if not isinstance(shortcut, Module | None):
            raise TypeError(f"Residual: shortcut is {type(shortcut).__name__} but takes a Module")
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """shortcut(x) + layers(x), which must have one shape."""
        with self._fusing():
            steps, y = self._steps(), x
            last = steps.pop() if self.fuse and steps and takes_residual(*steps[-1]) else None
            for layer, options in steps:
                y = layer(y, **options)
        kept = x if self.shortcut is None else self.shortcut(x)
        if last is not None:
            layer, options = last
            return layer(y, kept, **options)
        if y.shape != kept.shape:
            made = "" if self.shortcut is None else f" and the shortcut {kept.shape}"
            raise ValueError(f"Residual: the layers make {y.shape}{made} of x {x.shape}; the sum takes equal shapes")
        return kept + y


class Concat(Module):
    """Modules side by side on one input, with their results joined along the channels.

    Szegedy et al. 2015, figure 2, join branches like this. With `nn.Identity` as a branch the input
    itself is passed on, as in a dense block (Huang et al. 2017, equation 2).

    Args:
        branches: the modules; the names of parameters begin with their position: "0.weight".
    """

    def __init__(self, *branches: Module):
        if not branches:
            raise ValueError("Concat: takes at least one branch, got none")
        self.branches = _checked("Concat: branch", branches)

    def named_parts(self) -> Iterator[tuple[str, Any]]:
        """(position, branch) of each branch."""
        yield from ((str(i), branch) for i, branch in enumerate(self.branches))

    def forward(self, x: Tensor) -> Tensor:
        """x (…, C) -> (…, sum of the branches' channels)."""
        parts = [branch(x) for branch in self.branches]
        if len({part.shape[:-1] for part in parts}) > 1:
            made = ", ".join(str(part.shape) for part in parts)
            raise ValueError(f"Concat: the branches make {made} of x {x.shape}; they may differ in the channels alone")
        return F.concatenate(parts, axis=-1)


def _checked(what: str, modules: tuple[Any, ...]) -> list[Module]:
    """The modules as a list; a TypeError for the first that is none."""
    for i, module in enumerate(modules):
        if not isinstance(module, Module):
            raise TypeError(f"{what} {i} is {type(module).__name__} but takes a Module")
    return list(modules)
