"""Which neighbouring layers of a `Sequential` run as one operation: a small table.

A convolution before a batch norm in training leaves the moments of its result for it. The last layer
of a `Residual` adds the sum's other part, if it can.

On a GPU some operations of small layers also share a launch, with unchanged numbers: a dense layer
and the `cross_entropy` of its result, and the weight gradients of a backward pass's dense layers.
The table of these is `JOINED` in gpunet/backends/cuda/linear.py. `fuse=False` switches both off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from operator import attrgetter
from typing import Any, NamedTuple

from gpunet.backends.contract import FUSED_POOL
from gpunet.geometry import sides_of
from gpunet.nn.activation import ELU, HardSigmoid, HardTanh, LeakyReLU, ReLU, ReLU6, Sigmoid, Tanh
from gpunet.nn.layers import Conv2d, Linear, MaxPool2d
from gpunet.nn.module import Module
from gpunet.nn.norm import BatchNorm2d


class Fusion(NamedTuple):
    """A pair of layers of which the first can compute the second too, by an option of `forward`."""

    first: type[Module]
    second: type[Module]
    option: str
    """The argument of the first layer's `forward`; the layer must not have it set already."""
    value: Callable[[Any], Any]
    """Gives the argument for the second layer, or None if that layer cannot be fused."""
    before: tuple[str, ...] = ()
    """Options that act after this one in the fused operation, so that they must not be set already
    either."""


def _window(layer: MaxPool2d) -> Any:
    """The window of a pool that a convolution can compute, or None."""
    unpadded = layer.padding == 0 or sides_of("MaxPool2d", layer.padding) in ("valid", ((0, 0), (0, 0)))
    fits = layer.kernel_size == layer.stride == FUSED_POOL and unpadded and not layer.ceil_mode
    return FUSED_POOL if fits else None


_function = attrgetter("function")
"""Gives the activation of a layer."""
_ACTIVATIONS = (ReLU, LeakyReLU, Sigmoid, Tanh, ELU, ReLU6, HardTanh, HardSigmoid)
FUSIONS = (
    *(Fusion(Conv2d, kind, "activation", _function, before=("pool",)) for kind in _ACTIVATIONS),
    *(Fusion(first, kind, "activation", _function) for first, kind in product((Linear, BatchNorm2d), _ACTIVATIONS)),
    Fusion(Conv2d, MaxPool2d, "pool", _window),
)
_OF_KINDS = {(pair.first, pair.second): pair for pair in FUSIONS}


def fused(layers: Sequence[Module]) -> Iterator[tuple[Module, dict[str, Any]]]:
    """The layers that run, each with the options that stand for the layers fused into it.

    A layer of a subclass takes no part, because its `forward` may differ. Nor does a layer with a
    forward hook, because fusion would skip the values that the hook should see.
    """
    i = 0
    while i < len(layers):
        first, options = layers[i], dict[str, Any]()
        i += 1
        while i < len(layers) and (option := _taken(first, options, layers[i])):
            options.update(option)
            i += 1
        if i < len(layers) and _leaves_moments(first, layers[i]):
            options["before_norm"] = True
        yield first, options


def takes_residual(layer: Module, options: dict[str, Any]) -> bool:
    """Whether a layer that runs with these options, the last of a `Residual`, can add the sum's
    other part itself: nothing may come between it and the sum."""
    behind = [options.get(name, getattr(layer, name, None)) for name in ("activation", "pool")]
    return type(layer) in (Conv2d, BatchNorm2d) and not layer.hooked and behind == [None, None]


def _leaves_moments(first: Module, second: Module) -> bool:
    """Whether `first` is a convolution whose result goes straight into a batch norm in training."""
    return (
        type(first) is Conv2d
        and type(second) is BatchNorm2d
        and second.training
        and not (first.hooked or second.hooked)
    )


def _taken(first: Module, options: dict[str, Any], second: Module) -> dict[str, Any]:
    """The option with which `first` computes `second` too; empty if it cannot."""
    if first.hooked or second.hooked:
        return {}
    pair = _OF_KINDS.get((type(first), type(second)))
    if pair is None or (value := pair.value(second)) is None:
        return {}
    given = (name in options or getattr(first, name, None) is not None for name in (pair.option, *pair.before))
    return {} if any(given) else {pair.option: value}
