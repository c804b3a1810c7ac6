"""Which layers stand behind a flatten, and how many channels were flattened.

PyTorch flattens (C, H, W), gpunet (H, W, C), so the inputs of a layer behind it are in another
order. Which layers these are is read from the model as far as it is made of `Sequential`s; for
others a run tells. Nothing is guessed: a layer that neither tells of is named in an error.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np

from gpunet import nn
from gpunet.autograd import Tensor, tensor
from gpunet.modes import mode
from gpunet.nn import Module
from gpunet.nn.activation import ActivationLayer
from gpunet.nn.module import in_eval_mode
from gpunet.nn.origin import origin

UNKNOWN = -1
"""Stands for a number of channels that is not known."""
NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.PReLU)
"""Layers with a number per feature."""
UNCHANGED = (ActivationLayer, nn.Dropout, nn.Identity, nn.Softmax, nn.LogSoftmax)
POOLS = (
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.GlobalAvgPool2d, nn.GlobalMaxPool2d,
    nn.Upsample2d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d,
)  # fmt: skip
"""Layers that take images and keep their channels."""
ELEMENTWISE = {
    "activation", "input_activation", "prelu", "dropout", "batch_norm", "group_norm", "unary", "cast", "clip",
    "softmax", "add", "subtract", "multiply", "divide", "maximum", "minimum", "power",
}  # fmt: skip
"""Operations that keep the order of features."""
FORGETTING = {"linear", "matmul", "sum", "max", "var", "conv2d"}
"""Operations whose results are in one order in both frameworks."""


@dataclass(frozen=True)
class Flow:
    """What is known of the values between two layers.

    Attributes:
        flat: whether they were flattened from images.
        channels: of the images; 1 where the order is the same in both frameworks.
    """

    flat: bool = False
    channels: int = UNKNOWN
    single: bool = False
    """Whether the images have one pixel, so that a flatten changes no order."""
    known: bool = True
    """Whether it is known if they were flattened."""


NOTHING_KNOWN = Flow(known=False)
FEATURES = Flow(channels=1)
"""Values that were not flattened, or in an order that both frameworks share."""


@dataclass
class Found:
    """Channels behind a flatten, by the layer's name; `UNKNOWN` where the model does not tell."""

    channels: dict[str, int] = field(default_factory=dict)

    def note(self, name: str, channels: int) -> None:
        """A layer's channels; contradictions make them unknown."""
        before = self.channels.get(name, channels)
        self.channels[name] = channels if before == channels else UNKNOWN


def flattened_channels(
    operation: str,
    model: Module,
    flattened: Mapping[str, Any] | None,
    input_shape: Sequence[int] | None,
    ignored: Collection[str] = (),
) -> dict[str, int]:
    """Channels that were flattened into each layer's inputs, by its name; 1 where none were.

    Args:
        operation: begins errors.
        flattened: channels of layers that are given by name.
        input_shape: (H, W, C) of images for a run, where the model's structure does not tell; that
            of a network of `gpunet.models` is known.
        ignored: entries of the model, such as "head.weight", of whose layers it need not be known.
    Raises:
        ValueError: a layer of which neither tells, or `flattened` names no layer.
    """
    modules = dict(model.named_modules())
    given = {name: _given(operation, modules, name, value) for name, value in (flattened or {}).items()}
    found = Found()

    def unknown() -> list[str]:
        return [
            name
            for name, c in {**found.channels, **given}.items()
            if c == UNKNOWN and isinstance(modules[name], nn.Linear) and _inside(name, "weight") not in ignored
        ]

    if input_shape is None:
        _trace(model, "", FEATURES, found)
    if input_shape is None and unknown():
        input_shape = origin(model).get("arguments", {}).get("input_shape")  # as networks of gpunet.models have it
    if input_shape is not None:
        _run(operation, model, input_shape, found)
    channels = {**found.channels, **given}
    for name, c in channels.items():
        if c > 0 and (size := _inputs(modules[name])) % c:
            raise ValueError(f"{operation}: flattened gives {name} {c} channels, which do not divide its {size} inputs")
    if untold := unknown():
        raise ValueError(
            f"{operation}: whether {', '.join(untold)} stands behind a flatten is not told by the model: give "
            f"input_shape=(H, W, C) for a run, or flattened={{{untold[0]!r}: (C, H, W)}}, or None there for no flatten"
        )
    return {name: 1 if c == UNKNOWN else c for name, c in channels.items()}


def _given(operation: str, modules: Mapping[str, Module], name: str, value: Any) -> int:
    """Channels that `flattened` gives a layer, as C, as (C, H, W), or as None for no flatten."""
    if not isinstance(modules.get(name), (nn.Linear, *NORMS)):
        raise ValueError(f"{operation}: flattened names {name!r}, which is no dense layer and no norm of the model")
    if value is None:
        return 1
    extents = tuple(value) if isinstance(value, tuple | list) else (value,)
    if len(extents) not in (1, 3) or not all(isinstance(n, int | np.integer) and n > 0 for n in extents):
        raise ValueError(f"{operation}: flattened gives {name} {value!r} but takes C, (C, H, W) or None")
    if len(extents) == 3 and prod(extents) != _inputs(modules[name]):
        raise ValueError(
            f"{operation}: flattened gives {name} {extents} but it takes {_inputs(modules[name])} features"
        )
    return int(extents[0])


def _inputs(module: Any) -> int:
    """How many features a layer takes."""
    return module.weight.shape[0] if isinstance(module, nn.Linear) or module.weight is not None else _size(module)


# ---- by the structure


def _trace(module: Module, name: str, flow: Flow, found: Found) -> Flow:
    """Follow values through a module, and note what its dense layers and norms take."""
    kind = type(module)
    if kind in (nn.Sequential, nn.Residual):
        after = flow
        for part, inner in module.named_parts():
            if isinstance(inner, Module) and part != "shortcut":
                after = _trace(inner, _inside(name, part), after, found)
        if isinstance(shortcut := getattr(module, "shortcut", None), Module):
            _trace(shortcut, _inside(name, "shortcut"), flow, found)
        return after
    if kind is nn.Concat:
        ends = [_trace(inner, _inside(name, part), flow, found) for part, inner in module.named_parts()]
        if all(end is FEATURES for end in ends):
            return FEATURES
        plain = FEATURES not in ends and all(end.known and not end.flat and end.channels > 0 for end in ends)
        return replace(flow, channels=sum(end.channels for end in ends), single=False) if plain else NOTHING_KNOWN
    if isinstance(module, nn.Linear):
        found.note(name, _behind(flow))
        return FEATURES
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.LocallyConnected2d):
        return Flow(channels=_outputs(module))
    if isinstance(module, NORMS):
        found.note(name, _behind(flow))
        sized = isinstance(module, nn.BatchNorm2d | nn.GroupNorm) and flow.known and not flow.flat
        return replace(flow, channels=_size(module)) if sized else flow
    if isinstance(module, UNCHANGED):
        return flow
    return _pooled(module, name, flow, found)


def _pooled(module: Module, name: str, flow: Flow, found: Found) -> Flow:
    """The rest of `_trace`: layers for images, flattens, and modules that are not known."""
    if type(module) in POOLS:
        single = getattr(module, "output_size", None) in (1, (1, 1))
        return Flow(channels=flow.channels if flow.known and flow is not FEATURES else UNKNOWN, single=single)
    if type(module) is nn.Flatten:
        if not flow.known or flow.flat:
            return flow
        return Flow(flat=True, channels=1 if flow.single else UNKNOWN if flow is FEATURES else flow.channels)
    for part, inner in module.named_parts():
        if isinstance(inner, Module):
            _trace(inner, _inside(name, part), NOTHING_KNOWN, found)
    return NOTHING_KNOWN


def _behind(flow: Flow) -> int:
    """The channels for a layer that takes these values."""
    if not flow.known:
        return UNKNOWN
    return flow.channels if flow.flat else 1


def _inside(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def _outputs(module: Any) -> int:
    """The number of filters of a convolution."""
    transposed = isinstance(module, nn.ConvTranspose2d)
    return module.weight.shape[2] * module.groups if transposed else module.weight.shape[-1]


def _size(module: Any) -> int:
    """The number of channels of a norm, of which a layer norm tells the last axis."""
    if isinstance(module, nn.BatchNorm2d):
        return module.running_mean.size
    return module.num_channels if isinstance(module, nn.GroupNorm) else module.normalized_shape[-1]


# ---- by a run


def _run(operation: str, model: Module, input_shape: Sequence[int], found: Found) -> None:
    """Run the model on an empty image, and note what its dense layers and norms took."""
    if len(input_shape) != 3:
        raise ValueError(f"{operation}: input_shape is {tuple(input_shape)} but takes (H, W, C)")
    needed: list[Any] = [
        p for p in inspect.signature(model.forward).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]  # fmt: skip
    backend, dtype = model._place()
    empty = np.zeros((1, *input_shape), np.float32)
    images = [tensor(empty, dtype=dtype, backend=backend, requires_grad=True) for _ in needed or [None]]
    seen: dict[str, list[Tensor]] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, *NORMS)):
            found.channels[name] = UNKNOWN
            keep = partial(_keep_input, seen.setdefault(name, []))
            handles.append(module.register_forward_hook(keep))
    records, mode.records = mode.records, True  # also inside of no_grad
    try:
        with in_eval_mode(model):
            result = model(*images)
    finally:
        mode.records = records
        for handle in handles:
            handle.remove()
    for name, taken in seen.items():
        ways = {_channels(x) for x in taken}  # empty for a layer that did not run
        found.channels[name] = ways.pop() if len(ways) == 1 else UNKNOWN
    _refuse_unflattened(operation, result)


def _keep_input(taken: list[Tensor], module: Module, inputs: tuple[Any, ...], result: Any) -> None:
    """A forward hook that keeps what the module took."""
    taken += inputs[:1]


def _recorded(result: Any) -> Iterator[Tensor]:
    """Every tensor that an operation made on the way to a result: tensors, also in lists and dicts."""
    waiting, seen = [result], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, Tensor) and value.creator is not None and id(value) not in seen:
            seen.add(id(value))
            yield value
            waiting += value.creator.inputs


def _refuse_unflattened(operation: str, result: Any) -> None:
    """ValueError where features become images of more than one pixel, as in a decoder."""
    for made in _recorded(result):
        function: Any = made.creator
        if function.name == "reshape" and made.ndim == 4 and function.inputs[0].ndim == 2 and prod(made.shape[1:3]) > 1:
            shape = made.shape[1:]
            raise ValueError(
                f"{operation}: features become images {shape}, in another order than PyTorch's: convert by hand"
            )


def _channels(x: Tensor) -> int:
    """Channels of the images that were flattened into x; 1 if none were, `UNKNOWN` if unclear."""
    if x.ndim != 2:
        return 1
    if x.creator is None:  # the images have four axes, so this was detached from them
        return UNKNOWN
    function: Any = x.creator
    if function.name in FORGETTING:
        return 1
    before = [t for t in function.inputs if t is not None]
    if function.name == "reshape":
        n, *extents = before[0].shape
        if before[0].ndim == 2:
            return _channels(before[0])
        if before[0].ndim != 4 or n != x.shape[0]:
            return UNKNOWN
        return 1 if prod(extents[:2]) == 1 else extents[2]
    if function.name in ELEMENTWISE:
        ways = {_channels(t) for t in before if t.shape == x.shape}
        return ways.pop() if len(ways) == 1 else UNKNOWN
    ways = {_channels(t) for t in before} if function.name == "concatenate" else {UNKNOWN}
    return 1 if ways == {1} else UNKNOWN
