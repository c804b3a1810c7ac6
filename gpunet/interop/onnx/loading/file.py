"""A model of gpunet made of an ONNX file."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gpunet.autograd import Parameter, parameter
from gpunet.backends.contract import is_float
from gpunet.interop.entries import one_line
from gpunet.interop.onnx.loading.model import Graph, Node, OnnxModel, Port
from gpunet.interop.onnx.loading.operators import OPERATORS
from gpunet.interop.onnx.loading.operators.shapes import constant
from gpunet.interop.onnx.loading.reading import arrays, attributes_of, declared, opset_of, read_model
from gpunet.interop.onnx.loading.values import Order
from gpunet.interop.onnx.package import LAYOUT_KEY
from gpunet.nn.module import Buffer

SHAPES = ("Shape", "Size")
"""Operators whose results the host computes, whatever they take."""
LONGEST_MESSAGE = 4000
MOST_COPIES, LEAST_LIMIT = 4, 1 << 24
"""Copies by Identity may take so many times what initializers hold, or so many bytes: a node is short."""
MATRICES = ("Conv", "Gemm", "MatMul")
"""Operators whose parameters are `Parameter.matrix`: their last axis is that of the outputs."""


def load(path: str | os.PathLike[str], *, layout: Literal["NHWC", "file"] = "NHWC") -> OnnxModel:
    """A model that computes what an ONNX file describes, and that can be trained.

    It is in `eval` mode. Nothing in the file is executed, and it is loaded as a whole or not at
    all. Values that Conv, ConvTranspose, Gemm, MatMul, PRelu and normalisations hold in the file
    become parameters, and so do arrays that are added or multiplied; running moments and all other
    arrays of floats become buffers.

    Args:
        path: a file of opset 9 to 28. Data beside it must lie in its folder.
        layout: "NHWC" says that inputs and outputs with 4 axes, which the file describes as (N, C,
            H, W), are (N, H, W, C) for callers; "file" leaves them as the file has them, for files
            that describe (N, H, W, C) themselves, as TensorFlow's converter may. A file that `export`
            wrote with NHWC has them so already.
    Raises:
        ValueError: no ONNX file, one that contradicts itself, or one that needs what gpunet does
            not have. The message names the file and every operator and attribute that is missing, each
            with its node.
        TypeError: a dtype that gpunet does not compute in.
        OSError: the file cannot be read.
        ImportError: the package onnx is not installed: ``pip install "gpunet[onnx]"``.
    """
    if layout not in ("NHWC", "file"):
        raise ValueError(f"load: layout is {layout!r} but takes 'NHWC' or 'file'")
    proto = read_model(path)
    written_so = {entry.key: entry.value for entry in proto.metadata_props}.get(LAYOUT_KEY) == "NHWC"
    try:
        return model_of(proto, Path(path).parent, images_last=layout == "NHWC" and not written_so)
    except (ValueError, TypeError, OverflowError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"load: {path}: {one_line(str(error)[:LONGEST_MESSAGE])}") from error


def model_of(proto: Any, folder: Path | None = None, *, images_last: bool = False) -> OnnxModel:
    """The model of a ModelProto.

    Args:
        proto: what `reading.read_model` returns.
        folder: where data beside the file lies; None if there can be none.
        images_last: as `layout` "NHWC" of `load`.
    """
    return _Loader(proto, folder).made(images_last)


class _Loader:
    """The parts of a graph while its model is made."""

    def __init__(self, proto: Any, folder: Path | None):
        self.graph, self.opset, self.folder = proto.graph, opset_of(proto), folder
        self.values: dict[str, np.ndarray] = {}
        self.nodes: list[Node] = []
        self.faults: list[str] = []
        self.held = self.copied = 0
        """Bytes of the initializers, and of copies that Identity makes of them."""

    def made(self, images_last: bool) -> OnnxModel:
        """The model, or one error with all that is wrong."""
        if self.graph.sparse_initializer:
            raise ValueError(
                f"holds {len(self.graph.sparse_initializer)} sparse initializers, which gpunet does not read"
            )
        self._check_operators()
        for name, array in arrays(self.graph.initializer, self.folder):
            if name in self.values:
                raise ValueError(f"initializer {name!r} appears twice")
            self.values[name] = array
            self.held += array.nbytes
        inputs = [Port(v.name, *declared(v)) for v in self.graph.input if v.name not in self.values]
        self._read_nodes([port.name for port in inputs])
        self._check_values(inputs)
        on_host = self._nodes_on_host(inputs)
        weights, orders = self._weights(on_host)
        constants = {name: array for name, array in self.values.items() if name not in weights}
        outputs = tuple(Port(v.name, *declared(v)) for v in self.graph.output)
        nodes = self._finished(on_host, {port.name for port in outputs} | set(weights) | set(constants))
        model = OnnxModel(Graph(tuple(inputs), outputs, nodes, constants, orders, images_last), weights)
        model.eval()
        return model

    def _check_operators(self) -> None:
        """Raise one error that lists every operator that gpunet does not have, with its nodes."""
        missing: dict[str, list[str]] = {}
        for i, node in enumerate(self.graph.node):
            if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
                name = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
                missing.setdefault(name, []).append(node.name or f"number {i}")
        if missing:
            listed = "; ".join(f"{name} (node {', '.join(nodes)})" for name, nodes in sorted(missing.items()))
            raise ValueError(f"needs operators that gpunet does not have: {listed}")

    def _read_nodes(self, inputs: list[str]) -> None:
        """Check the nodes, and turn constants among them into values."""
        known = {*inputs, *self.values}
        given = {name for node in self.graph.node for name in node.output if name}
        for i, node in enumerate(self.graph.node):
            label = f"node {node.name!r} ({node.op_type})" if node.name else f"node number {i} ({node.op_type})"
            try:
                options = attributes_of(node, label, self.folder)
            except (ValueError, TypeError) as error:
                self.faults.append(str(error))
                continue
            faults = OPERATORS[node.op_type].check(label, options, node.input)
            for name in node.input:
                if name and name not in known:
                    later = "only a later node gives it: a cycle, or nodes out of order"
                    faults.append(f"{label}: takes {name!r}, but {later if name in given else 'nothing gives it'}")
            if not any(node.output):
                faults.append(f"{label}: has no outputs")
            for name in node.output:
                if name in known:
                    faults.append(f"{label}: gives {name!r}, which there is already")
            known.update(name for name in node.output if name)
            self.faults += faults
            if not faults:
                self._enter(node, label, options)
        if self.faults:
            raise ValueError("; ".join(self.faults))

    def _enter(self, node: Any, label: str, options: dict[str, Any]) -> None:
        inputs, outputs = tuple(node.input), tuple(name or f"{label} output {i}" for i, name in enumerate(node.output))
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        operator = OPERATORS[node.op_type]
        if node.op_type == "Constant":
            self.values[outputs[0]] = np.asarray(constant(**options).array)
            return
        if node.op_type == "Identity" and inputs[0] in self.values:
            self.values[outputs[0]] = self._copy(inputs[0], label)
            return
        if "opset" in operator.reserved:
            options["opset"] = self.opset
        if "outputs" in operator.reserved:
            options["outputs"] = len(outputs)
        self.nodes.append(Node(label, node.op_type, inputs, outputs, options))

    def _copy(self, name: str, label: str) -> np.ndarray:
        """A value of its own: PyTorch writes weights of two layers that are equal as an Identity."""
        array = self.values[name].copy()
        self.copied += array.nbytes
        if self.copied > max(MOST_COPIES * self.held, LEAST_LIMIT):
            raise ValueError(f"{label}: copies of initializers take {self.copied} bytes, but these {self.held}")
        return array

    def _check_values(self, inputs: list[Port]) -> None:
        """Whether each output is given by something, and each name by one thing."""
        known = {*(port.name for port in inputs), *self.values, *(name for node in self.nodes for name in node.outputs)}
        for value in self.graph.output:
            if value.name not in known:
                raise ValueError(f"output {value.name!r} is given by no node")
        if not self.graph.output:
            raise ValueError("has no outputs")

    def _nodes_on_host(self, inputs: list[Port]) -> set[int]:
        """Nodes that the host computes: shapes, and what depends on shapes and integers alone."""
        there = {port.name for port in inputs if port.dtype is not None and not is_float(port.dtype)}
        found = set()
        for i, node in enumerate(self.nodes):
            operator = OPERATORS[node.operator]
            held = [
                self.values[name]
                for place, name in enumerate(node.inputs)
                if name in self.values and not operator.reads(place)
            ]
            moving = [name for name in node.inputs if name and name not in self.values]
            least = 1 if operator.numbers and not moving else 0  # weights may be scaled, but not shapes
            floats = (not operator.numbers or not moving) and any(
                is_float(array.dtype) and array.size > least for array in held
            )
            host = node.operator in SHAPES or (not floats and all(name in there for name in moving))
            if host:
                found.add(i)
                there.update(node.outputs)
        return found

    def _weights(self, on_host: set[int]) -> tuple[dict[str, Parameter | Buffer], dict[str, Order]]:
        """(parameters and buffers by name, the orders in which they are stored)."""
        weights: dict[str, Parameter | Buffer] = {}
        orders: dict[str, Order] = {}
        for trained in (True, False):  # a value that is trained in one place is a parameter everywhere
            for i, node in enumerate(self.nodes):
                for place, name in enumerate(node.inputs):
                    if i in on_host or name in weights or name not in self.values:
                        continue
                    kind = self._kind(node, place, self.values[name])
                    if kind is None or (kind == "parameter") != trained:
                        continue
                    array, order = self._stored(node, place, self.values[name])
                    if order is not None:
                        orders[name] = order
                    weights[name] = (
                        parameter(array, matrix=_is_matrix(node, array)) if trained else Buffer(array, array.dtype)
                    )
        return weights, orders

    def _kind(self, node: Node, place: int, array: np.ndarray) -> str | None:
        """Whether a value is a parameter or a buffer for a node; None if the host reads it."""
        operator = OPERATORS[node.operator]
        if not is_float(array.dtype) or (operator.numbers and array.size == 1):
            return None
        if operator.variadic:
            return "buffer"
        if operator.reads(place):
            return None
        return "parameter" if operator.inputs[place] in operator.parameters else "buffer"

    def _stored(self, node: Node, place: int, array: np.ndarray) -> tuple[np.ndarray, Order | None]:
        operator = OPERATORS[node.operator]
        layout = None if operator.variadic else operator.parameters.get(operator.inputs[place])
        order = layout(node.options) if callable(layout) else layout
        if order is None or len(order) != array.ndim:
            return array, None
        return np.ascontiguousarray(array.transpose(order)), order

    def _finished(self, on_host: set[int], kept: set[str]) -> tuple[Node, ...]:
        """The nodes with the inputs that become tensors and the values that no later node takes."""
        nodes, later = [], set(kept)
        for i, node in reversed(list(enumerate(self.nodes))):
            own = {*node.inputs, *node.outputs} - {""}
            last = tuple(sorted(own - later))
            later |= own
            nodes.append(replace(node, last=last, lifted=frozenset() if i in on_host else self._lifted(node)))
        return tuple(reversed(nodes))

    def _lifted(self, node: Node) -> frozenset[int]:
        operator = OPERATORS[node.operator]
        places = range(len(node.inputs))
        if operator.numbers or operator.variadic:
            return frozenset()
        return frozenset(i for i in places if not operator.reads(i))


def _is_matrix(node: Node, array: np.ndarray) -> bool | None:
    return None if node.operator in MATRICES and array.ndim > 1 else False
