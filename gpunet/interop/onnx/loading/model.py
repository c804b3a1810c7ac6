"""`OnnxModel`: a graph of ONNX as a module of gpunet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpunet.autograd import Parameter, Tensor, tensor
from gpunet.backends import Backend
from gpunet.backends.contract import COUNTS, is_float
from gpunet.errors import BackendError
from gpunet.interop.onnx.loading.operators import OPERATORS
from gpunet.interop.onnx.loading.values import Order, Value, channels_last
from gpunet.nn.module import Buffer, Module


@dataclass(frozen=True)
class Port:
    """An input or an output of a graph."""

    name: str
    dtype: np.dtype | None
    """None where the file does not say, or names a dtype that gpunet does not read."""
    shape: tuple[int | None, ...] | None
    """Extents in ONNX's order, None for those that are free."""

    @property
    def is_narrow(self) -> bool:
        """Whether it takes integers that no tensor holds, such as bytes, which are given as int64."""
        return self.dtype is not None and not is_float(self.dtype) and self.dtype.name not in COUNTS


@dataclass(frozen=True)
class Node:
    """One node of a graph."""

    label: str
    """What errors call it."""
    operator: str
    inputs: tuple[str, ...]
    """Names of values, "" for an optional input that is missing."""
    outputs: tuple[str, ...]
    options: Mapping[str, Any]
    """The attributes, and those of `registry.RESERVED` that do not change."""
    lifted: frozenset[int] = frozenset()
    """Inputs that become tensors where they are floats of the host."""
    last: tuple[str, ...] = ()
    """Values that no later node takes."""


@dataclass(frozen=True)
class Graph:
    """What runs: nodes in order, and what they start from."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray]
    """Values of the file that the host reads, such as shapes."""
    orders: Mapping[str, Order] = field(default_factory=dict)
    """The orders in which parameters and buffers are stored."""
    images_last: bool = True
    """Whether the file's (N, C, H, W) inputs and outputs are (N, H, W, C) for callers."""


class OnnxModel(Module):
    """A model of an ONNX file, which `load` makes: it runs, and it is trained like any other.

    It takes the file's inputs in the file's order, and returns one tensor, or a tuple of as many as
    the file has outputs. Its parameters and buffers have the file's names; filters are stored as
    (KH, KW, C // groups, O). Integers and booleans are computed on the host.

    Attributes:
        graph: what runs.
        weights: parameters and buffers by name.
    """

    def __init__(self, graph: Graph, weights: Mapping[str, Parameter | Buffer]):
        self.graph = graph
        self.weights = dict(weights)

    def named_parts(self) -> Iterator[tuple[str, Any]]:
        """(name, parameter or buffer), by the file's names."""
        yield from self.weights.items()

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run the graph on tensors, or on arrays, which become tensors of the declared dtypes."""
        ports = self.graph.inputs
        if len(inputs) != len(ports):
            names = ", ".join(port.name for port in ports)
            raise TypeError(f"OnnxModel: takes {len(ports)} inputs ({names}), got {len(inputs)}")
        backend, (_, dtype) = self._backend(inputs), self._place()
        made = []
        for x, port in zip(inputs, ports, strict=True):
            kind = port.dtype if port.dtype is not None and port.dtype.name in (*COUNTS, "float64") else dtype
            if port.is_narrow:
                kind = np.dtype("int64")
            made.append(x if isinstance(x, Tensor) else tensor(x, dtype=kind, backend=backend))
        return super().__call__(*made, **options)

    def forward(self, *inputs: Tensor) -> Any:
        """The graph's outputs for these inputs."""
        feeds = {}
        for x, port in zip(inputs, self.graph.inputs, strict=True):
            last = self.graph.images_last and x.ndim == 4
            value = Value(x, channels_last(4) if last else None)
            feeds[port.name] = _narrowed(value, port) if port.is_narrow else value
        backend = self._backend(inputs)
        results = [self._result(value, backend) for value in self.run(feeds)]
        return results[0] if len(results) == 1 else tuple(results)

    def _backend(self, inputs: Iterable[Any]) -> Backend:
        """Where the weights are; without any, where the first input is that is a tensor."""
        given = [x.backend for x in inputs if isinstance(x, Tensor)]
        return given[0] if given and not self.weights else self._place()[0]

    def _result(self, value: Value, backend: Backend) -> Any:
        array = value.channels_last() if self.graph.images_last and value.ndim == 4 else value.ordered()
        if isinstance(array, Tensor) or not (is_float(array.dtype) or array.dtype.name in COUNTS):
            return array
        return tensor(array, dtype=array.dtype, backend=backend)

    def run(self, feeds: Mapping[str, Value]) -> list[Value]:
        """The outputs' values for values of the inputs by name.

        Raises:
            ValueError, TypeError, IndexError: an input that does not fit what the file declares, or
                an operation that cannot be done; the error names the input or the node.
        """
        self._check(feeds)
        values, backend = dict(feeds), self._backend(value.array for value in feeds.values())
        values |= {name: Value(array) for name, array in self.graph.constants.items()}
        values |= {name: Value(w, self.graph.orders.get(name)) for name, w in self.weights.items()}
        for node in self.graph.nodes:
            try:
                results = self._step(node, [values[name] if name else None for name in node.inputs], backend)
            except (ValueError, TypeError, IndexError, ArithmeticError) as error:
                kind = next((k for k in (TypeError, IndexError) if isinstance(error, k)), ValueError)
                raise kind(f"{node.label}: {error}") from error
            values.update(zip(node.outputs, results, strict=True))
            for name in node.last:
                del values[name]
        return [values[port.name] for port in self.graph.outputs]

    def _step(self, node: Node, inputs: list[Value | None], backend: Backend) -> Sequence[Value]:
        """The outputs of one node."""
        operator = OPERATORS[node.operator]
        for i in node.lifted:
            inputs[i] = _lifted(inputs[i], backend)
        options = dict(node.options)
        if "training" in operator.reserved:
            options["training"] = self.training
        made = operator.function(*inputs, **options)
        results = made if isinstance(made, list) else [made]
        if len(results) < len(node.outputs):
            raise ValueError(
                f"{len(node.outputs)} outputs are asked for, but gpunet's {node.operator} gives {len(results)}"
            )
        return results[: len(node.outputs)]

    def _check(self, feeds: Mapping[str, Value]) -> None:
        """Compare inputs with what the file declares."""
        backend = self._place()[0]
        for port in self.graph.inputs:
            if port.name not in feeds:
                raise ValueError(f"OnnxModel: input {port.name} is missing")
            value = feeds[port.name]
            if value.is_tensor and value.array.backend is not backend and self.weights:
                raise BackendError(
                    f"OnnxModel: {port.name} is on {value.array.backend.name} but the model on {backend.name}"
                )
            if port.dtype is not None and value.dtype != port.dtype:
                raise TypeError(f"OnnxModel: {port.name} is {value.dtype} but the file takes {port.dtype}")
            if port.shape is None:
                continue
            fits = len(port.shape) == value.ndim and all(
                want is None or want == have for want, have in zip(port.shape, value.shape, strict=True)
            )
            if not fits:
                self._refuse(port, value)

    def _refuse(self, port: Port, value: Value) -> None:
        def said(shape: Sequence[int | None]) -> str:
            given = (
                tuple(shape[axis] for axis in channels_last(4)) if self.graph.images_last and len(shape) == 4 else shape
            )
            return f"({', '.join('any' if n is None else str(n) for n in given)})"

        assert port.shape is not None
        order = ", channels last" if self.graph.images_last and len(port.shape) == 4 else ""
        raise ValueError(
            f"OnnxModel: {port.name} has shape {said(value.shape)} but the file takes {said(port.shape)}{order}"
        )

    def extra_repr(self) -> str:
        """The numbers of nodes and weights."""
        return f"{len(self.graph.nodes)} nodes, {len(self.weights)} parameters and buffers"


def _lifted(value: Value | None, backend: Backend) -> Value | None:
    """The value as a tensor if it is an array of floats on the host."""
    if value is None or value.is_tensor or not is_float(value.dtype):
        return value
    return Value(tensor(value.array, dtype=value.dtype, backend=backend), value.order)


def _narrowed(value: Value, port: Port) -> Value:
    """The value on the host, in the dtype of an input that takes narrow integers."""
    array = value.host()
    narrow = array.astype(port.dtype)
    if not np.array_equal(narrow, array):
        raise ValueError(f"OnnxModel: {port.name} holds numbers that {port.dtype} cannot, which the file takes")
    return Value(narrow)
