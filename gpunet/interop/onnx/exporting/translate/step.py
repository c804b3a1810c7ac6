"""One operation of the trace on its way into the graph: what the translations read and call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gpunet.interop.onnx.exporting.graph import Dims, Graph, Value, channels_first
from gpunet.nn.tracing import Operation


class UntranslatableError(ValueError):
    """Options of an operation for which there are no ONNX nodes; the message says which."""


class Step:
    """One operation, with its inputs' places in the graph.

    Attributes:
        operation: the operation, of the first trace.
        other: the same one of the second trace, which had another batch size if that may vary.
        options: the operation's options.
        shape, dims, dtype: of the result, in gpunet's order.
    """

    def __init__(self, graph: Graph, operation: Operation, other: Operation, dims: Dims):
        self.graph, self.operation, self.other = graph, operation, other
        self.options = operation.options
        self.shape, self.dtype, self.dims = operation.result.shape, operation.result.dtype, dims
        self.values = [None if t is None else graph.value(t) for t in operation.inputs]

    # ---- inputs

    def value(self, i: int = 0) -> Value:
        """Where input i stands."""
        found = self.values[i]
        assert found is not None
        return found

    def given(self, i: int) -> bool:
        """Whether there is an input i."""
        return self.values[i] is not None

    def plain(self, i: int = 0, *, as_is: bool = False) -> str:
        """The name of input i in gpunet's order, in the result's dtype or `as_is`."""
        return self.graph.plain(self.value(i), None if as_is else self.dtype)

    def first(self, i: int = 0, *, as_is: bool = False) -> str:
        """The name of input i with channels first, in the result's dtype or `as_is`."""
        return self.graph.first(self.value(i), None if as_is else self.dtype)

    def array(self, i: int) -> np.ndarray | None:
        """The values of input i, which must be a constant; None where there is no such input."""
        value = self.values[i]
        if value is None:
            return None
        if value.constant is None:
            name = ("weight", "bias", "running_mean", "running_var")[i - 1]
            raise UntranslatableError(f"{name} is computed from the inputs")
        return value.constant.astype(self.dtype, copy=False)

    def weight(self, i: int, array: np.ndarray) -> str:
        """The name of an initializer with input i's values in another order, under input i's name."""
        return self.graph.constant(array, self.value(i).name)

    # ---- nodes

    def emit(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, named after its layer -> the name of its output."""
        return self.graph.node(kind, inputs, self.name(kind), **attributes)

    def name(self, kind: str) -> str:
        """A name for a node: its layer's, or with the kind of node where that has a node already."""
        scope = self.operation.call.name
        if scope and self.operation.call.leaf and self.graph.is_free(scope):
            return scope
        return f"{scope}/{kind}" if scope else kind

    def scalar(self, value: float, dtype: Any = None) -> str:
        """The name of an initializer that holds one number, in the result's dtype."""
        return self.graph.constant(np.array(value, dtype or self.dtype))

    def reshaped(self, x: str, dims: Sequence[int | str | None]) -> str:
        """x with these extents, of which one may vary with the batch."""
        free = [i for i, n in enumerate(dims) if not isinstance(n, int)]
        if len(free) > 1:
            raise UntranslatableError(f"a shape of which {len(free)} extents vary with the batch")
        extents = [n if isinstance(n, int) else -1 for n in dims]
        return self.emit("Reshape", x, self.graph.integers(extents))

    # ---- the result

    def done(self, name: str) -> None:
        """The result stands under this name, in gpunet's order."""
        self._define(Value(self.shape, self.dims, self.dtype, plain=name), name, self.dims)

    def done_first(self, name: str) -> None:
        """The result stands under this name, with channels first."""
        self._define(Value(self.shape, self.dims, self.dtype, first=name), name, channels_first(self.dims))

    def done_as(self, name: str, *, first: bool) -> None:
        """The result stands under this name, in the order that is said."""
        (self.done_first if first else self.done)(name)

    @property
    def constant(self) -> bool:
        """Whether nothing that is computed goes in."""
        computed = any(value is not None and value.constant is None for value in self.values)
        return not computed and self.graph.of_array(self.options.get("condition")) is None

    def done_constant(self) -> None:
        """The result is a constant; another shape of a parameter keeps its name."""
        array, source = self.operation.result.numpy(), self.values[0]
        name = source.name if source is not None and self.operation.name == "reshape" else ""
        value = Value(array.shape, array.shape, array.dtype, constant=array, name=name)
        self.graph.define(self.operation.result, value)

    def _define(self, value: Value, name: str, dims: Dims) -> None:
        self.graph.inform(name, self.dtype, dims)
        self.graph.define(self.operation.result, value)

    # ---- orders of axes

    def images(self) -> bool:
        """Whether the operation, which acts on each element by itself, runs with channels first.

        It does where an input of four axes stands in the graph so. Inputs of fewer axes that are
        computed would not broadcast, so that all inputs are taken in gpunet's order then.
        """
        computed = [v for v in self.values if v is not None and v.constant is None and v.shape]
        fits = len(self.shape) == 4 and all(len(v.shape) == 4 for v in computed)
        return fits and any(v.first for v in computed)

    def operands(self, *, as_is: bool = False) -> tuple[list[str], bool]:
        """(the names of all inputs in one order, whether channels come first)."""
        first = self.images()
        take = self.first if first else self.plain
        return [take(i, as_is=as_is) for i in range(len(self.values))], first


Translation = Callable[[Step], None]
Table = Mapping[str, Translation]
"""Translations by the operation's name."""
