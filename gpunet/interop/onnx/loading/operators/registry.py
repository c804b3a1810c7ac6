"""The table of the operators: what an ONNX node runs, and which attributes it may have.

An operator is a function. Its positional parameters are the node's inputs, as `Value`s, or None
where an optional one is missing; `Host` marks those that it reads on the host. Its keyword-only
parameters are the node's attributes, by their names in ONNX, with their defaults. A node with an
attribute that the function does not have is refused when the file is read. Three keywords are no
attributes: `opset`, the version of ONNX's operators that the file was written for; `training`,
whether the model is in training mode; and `outputs`, the number of outputs that the node has.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpunet.interop.onnx.loading.values import Order

RESERVED = ("opset", "training", "outputs")
FILTERS: Order = (2, 3, 1, 0)
"""Filters (O, C // groups, KH, KW), stored as gpunet's (KH, KW, C // groups, O)."""

KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("an integer", lambda value: isinstance(value, int)),
    "float": ("a number", lambda value: isinstance(value, int | float)),
    "str": ("text", lambda value: isinstance(value, str)),
    "np.ndarray": ("an array", lambda value: isinstance(value, np.ndarray)),
    "Sequence[int]": ("integers", lambda value: isinstance(value, tuple) and all(isinstance(v, int) for v in value)),
    "Sequence[float]": (
        "numbers",
        lambda value: isinstance(value, tuple) and all(isinstance(v, int | float) for v in value),
    ),
}
"""Annotations of attributes: what errors call them, and whether a value is of the kind."""

Layout = Order | None | Callable[[Mapping[str, Any]], Order | None]
"""The order in which a parameter is stored, None for ONNX's; or a function of the attributes."""


@dataclass(frozen=True)
class Operator:
    """One operator of ONNX."""

    name: str
    function: Callable[..., Any]
    parameters: Mapping[str, Layout] = field(default_factory=dict)
    """Inputs that are trained where the file holds their values, and how these are stored."""
    inputs: tuple[str, ...] = ()
    on_host: tuple[bool, ...] = ()
    """Whether the operator reads each of these inputs on the host."""
    needed: int = 0
    """The first inputs, which a node must have."""
    numbers: bool = False
    """Whether a constant of one element stays a number, which broadcasts with tensors."""
    variadic: bool = False
    """Whether the operator takes any number of inputs."""
    attributes: Mapping[str, bool] = field(default_factory=dict)
    """Names of attributes, and whether a node must have them."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """Their kinds, each one of `KINDS`."""
    reserved: tuple[str, ...] = ()

    def reads(self, place: int) -> bool:
        """Whether the host reads the input at this place."""
        return not self.variadic and self.on_host[place]

    def check(self, label: str, options: Mapping[str, Any], inputs: Sequence[str]) -> list[str]:
        """What is wrong with a node that has these attributes and inputs, "" for those that are missing."""
        faults = [
            f"{label}: attribute {name} is {value!r}, but gpunet's {self.name} has no such attribute"
            for name, value in options.items()
            if name not in self.attributes
        ]
        faults += [
            f"{label}: attribute {name} is {options[name]!r} but takes {KINDS[kind][0]}"
            for name, kind in self.kinds.items()
            if name in options and not KINDS[kind][1](options[name])
        ]
        missing = [name for name, needed in self.attributes.items() if needed and name not in options]
        faults += [f"{label}: attribute {name} is missing" for name in missing]
        if len(inputs) > len(self.inputs) and not self.variadic:
            faults.append(f"{label}: {len(inputs)} inputs, but gpunet's {self.name} takes at most {len(self.inputs)}")
        there = [bool(name) for name in inputs] or [False]
        if (self.variadic and not all(there)) or sum(there[: self.needed]) < self.needed:
            faults.append(f"{label}: an input is missing that {self.name} needs")
        return faults


OPERATORS: dict[str, Operator] = {}
"""By name; all are of ONNX's own domain."""


def operator(
    *names: str, parameters: Mapping[str, Layout] | None = None, numbers: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function under these names."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        given = inspect.signature(function).parameters.values()
        taken = [p for p in given if p.kind is p.POSITIONAL_OR_KEYWORD]
        keywords = {p.name: p for p in given if p.kind is p.KEYWORD_ONLY}
        attributes = {name: p for name, p in keywords.items() if name not in RESERVED}
        for name in names:
            assert name not in OPERATORS, name
            OPERATORS[name] = Operator(
                name,
                function,
                parameters or {},
                tuple(p.name for p in taken),
                tuple("Host" in str(p.annotation) for p in taken),
                sum(p.default is p.empty for p in taken),
                numbers,
                any(p.kind is p.VAR_POSITIONAL for p in given),
                {name: p.default is p.empty for name, p in attributes.items()},
                {name: str(p.annotation).removesuffix(" | None") for name, p in attributes.items()},
                tuple(name for name in keywords if name in RESERVED),
            )
        return function

    return enter


def choice(attribute: str, value: Any, *takes: Any) -> Any:
    """The value of an attribute, or a ValueError that says what it may be."""
    if value not in takes:
        raise ValueError(f"attribute {attribute} is {value!r} but gpunet takes {', '.join(map(repr, takes))}")
    return value
