"""Which neighbours in a `Sequential` run as one operation: a table of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.conv import FUSED_POOL
from gpunet.geometry import sides_of
from gpunet.nn.activation import ELU, ActivationLayer, HardSigmoid, HardTanh, LeakyReLU, ReLU, ReLU6, Sigmoid, Tanh
from gpunet.nn.layers import Conv2d, Linear, MaxPool2d
from gpunet.nn.module import Module
from gpunet.nn.norm import BatchNorm2d


class Rule(NamedTuple):
    """A layer can take in the one behind it, as an option of its forward pass."""

    first: type[Module]
    second: type[Module]
    option: str
    """Argument of the first layer's `forward`, which must not have been given before, nor be set in the layer."""
    value: Callable[[Any], Any]
    """The argument, of the second layer; None where it is not one that can be taken in."""
    before: tuple[str, ...] = ()
    """Options that come later in the fused operation, so that they must not have been given before either."""


def _window(layer: MaxPool2d) -> Any:
    unpadded = sides_of("MaxPool2d", layer.padding) in ("valid", ((0, 0), (0, 0)))
    fits = layer.kernel_size == layer.stride == FUSED_POOL and unpadded and not layer.ceil_mode
    return FUSED_POOL if fits else None


def _function(layer: ActivationLayer) -> Activation:
    assert isinstance(layer.function, Activation)
    return layer.function


_ACTIVATIONS = (ReLU, LeakyReLU, Sigmoid, Tanh, ELU, ReLU6, HardTanh, HardSigmoid)
RULES = (
    *(Rule(Conv2d, kind, "activation", _function, before=("pool",)) for kind in _ACTIVATIONS),
    *(Rule(first, kind, "activation", _function) for first, kind in product((Linear, BatchNorm2d), _ACTIVATIONS)),
    Rule(Conv2d, MaxPool2d, "pool", _window),
)


def fused(layers: Sequence[Module]) -> Iterator[tuple[Module, dict[str, Any]]]:
    """The layers that run, each with the options that stand for those behind it.

    A layer of a subclass is not taken in and takes in nothing, for its `forward` may differ; nor is one with a forward
    hook, which wants to see what this would skip.
    """
    i = 0
    while i < len(layers):
        first, options = layers[i], dict[str, Any]()
        i += 1
        while i < len(layers) and (option := _taken(first, options, layers[i])):
            options.update(option)
            i += 1
        yield first, options


def _taken(first: Module, options: dict[str, Any], second: Module) -> dict[str, Any]:
    """The option under which `first` takes in `second`; empty if it does not."""
    if first.hooked or second.hooked:
        return {}
    for rule in RULES:
        if type(first) is rule.first and type(second) is rule.second:
            given = (name in options or getattr(first, name, None) is not None for name in (rule.option, *rule.before))
            if not any(given) and (value := rule.value(second)) is not None:
                return {rule.option: value}
    return {}
