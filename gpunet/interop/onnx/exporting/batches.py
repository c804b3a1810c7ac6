"""Two traces of a model, of other numbers and mostly of other batch sizes, held against each other.

Extents that grow with the batch become free in the graph. What else differs cannot be exported: a
number that `forward` has computed on the host would stand in the graph as a constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from gpunet.autograd import Tensor
from gpunet.interop.onnx.exporting.graph import Dims
from gpunet.nn.tracing import Operation, Trace
from gpunet.random import Stream

BATCH = "batch"
"""The name of the extent that is free."""
FREE = {"reshape": ("shape",), "index": ("rows",), "where": ("condition",)}
"""Options that may differ, by operation: their translation looks at both."""


def dims_of(first: tuple[int, ...], second: tuple[int, ...], batch_sizes: tuple[int, int]) -> Dims:
    """The extents of a tensor with these shapes in the two traces."""
    before, after = batch_sizes

    def dim(n: int, m: int) -> int | str | None:
        if n == m:
            return n
        if n * after != m * before:
            return None
        return BATCH if n == before else f"{n // before}*{BATCH}"

    return tuple(map(dim, first, second))


def same_operations(first: Trace, second: Trace) -> bool:
    """Whether the same operations ran, on what the same operations made."""
    origins = _Origins(first), _Origins(second)
    pairs = zip(first.operations, second.operations, strict=False)
    return len(first.operations) == len(second.operations) and all(_alike(*pair, origins) for pair in pairs)


def differences(first: Trace, second: Trace, batch_sizes: tuple[int, int]) -> list[str]:
    """What keeps two traces of the same operations from being one graph, each in a few words."""
    origins = _Origins(first), _Origins(second)
    pairs = zip(first.operations, second.operations, strict=True)
    return [found for one, other in pairs for found in _differences(one, other, origins, batch_sizes)]


def place_of(operation: Operation) -> str:
    """An operation with its layer, for messages: "add in layer 3.conv1"."""
    name = operation.call.name
    return f"{operation.name} in {f'layer {name}' if name else 'the model itself'}"


class _Origins:
    """Where the tensors of a trace come from: numbers of operations, negative ones of inputs."""

    def __init__(self, trace: Trace):
        self._made: dict[int, int] = {}
        for i, t in enumerate(trace.inputs):
            self._made[id(t)] = self._made[id(t.data)] = -1 - i
        for i, operation in enumerate(trace.operations):
            self._made[id(operation.result)] = i
            self._made.setdefault(id(operation.result.data), i)

    def of(self, t: Tensor) -> int | None:
        """The number of what made a tensor; None for a constant."""
        return self._made.get(id(t), self._made.get(id(t.data)))


_Both = tuple[_Origins, _Origins]


def _alike(one: Operation, other: Operation, origins: _Both) -> bool:
    """Whether two operations are one, on inputs that come from the same places."""
    if (one.name, one.call.name, len(one.inputs)) != (other.name, other.call.name, len(other.inputs)):
        return False
    for a, b in zip(one.inputs, other.inputs, strict=True):
        if (a is None) != (b is None):
            return False
        if a is not None and b is not None and origins[0].of(a) != origins[1].of(b):
            return False
    return len(one.result.shape) == len(other.result.shape)


def _differences(one: Operation, other: Operation, origins: _Both, batch_sizes: tuple[int, int]) -> Iterator[str]:
    for a, b in zip(one.inputs, other.inputs, strict=True):
        if a is not None and b is not None and a is not b and origins[0].of(a) is None and not _equal(a, b):
            yield f"{place_of(one)} takes a constant that depends on the batch size or on the input's values"
    for name, value in one.options.items():
        if isinstance(value, Stream):  # of random numbers, for which there is no translation
            continue
        if name not in FREE.get(one.name, ()) and not _same_option(value, other.options[name], batch_sizes):
            yield f"{place_of(one)} has an option {name} that depends on the batch size or on the input's values"
    if None in dims_of(one.result.shape, other.result.shape, batch_sizes):
        yield f"{place_of(one)} has a result whose extents do not grow with the batch"


def _equal(a: Tensor, b: Tensor) -> bool:
    one, other = a.numpy(), b.numpy()
    return one.shape == other.shape and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _same_option(one: Any, other: Any, batch_sizes: tuple[int, int]) -> bool:
    """Whether two options are equal up to the batch, which stands first in a geometry's shapes."""
    if one is other:
        return True
    if is_dataclass(one) and type(one) is type(other):
        values = ((getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
        return all(_same_option(a, b, batch_sizes) for a, b in values)
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other) == 4:
        return one[1:] == other[1:] and (one[0] == other[0] or (one[0], other[0]) == batch_sizes)
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other)
