"""The end of a graph: its outputs, and without what does not lead to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpunet.autograd import Tensor
from gpunet.interop.onnx.exporting.graph import Graph, channels_first
from gpunet.nn.tracing import tensors_of


def outputs_of(output: Any, names: Sequence[str] | None, inputs: Sequence[str]) -> dict[str, Tensor]:
    """The tensors that a model returned, by the names that they get: those given, or free ones.

    Raises:
        TypeError: as for `tensors_of`.
        ValueError: names that do not fit, or that inputs have.
    """
    found = tensors_of("export", output)
    if names is None:
        return {f"{name}_out" if name in inputs else name: t for name, t in found.items()}
    if len(names) != len(found) or len({*names, *inputs}) < len(names) + len(inputs):
        takes = f"{len(found)} different names that no input has"
        raise ValueError(f"export: output_names are {list(names)} but must be {takes}")
    return dict(zip(names, found.values(), strict=True))


def connected(graph: Graph, outputs: Mapping[str, Tensor], *, nchw: bool) -> None:
    """Give the results of the model the names of the graph's outputs."""
    renamed: dict[str, str] = {}
    for name, t in outputs.items():
        value = graph.value(t)
        first = nchw and len(value.shape) == 4
        source = graph.first(value) if first else graph.plain(value)
        computed = any(source in node.output for node in graph.nodes)
        if not computed or source in renamed:  # an input, a constant, or an output already
            source = graph.node("Identity", [source], f"{name}/Identity")
        renamed[source] = name
        graph.infos.pop(source, None)
        graph.inform(name, value.dtype, channels_first(value.dims) if first else value.dims)
    for node in graph.nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]


def pruned(graph: Graph, outputs: Sequence[str]) -> tuple[list[Any], dict[str, np.ndarray]]:
    """(the nodes, the initializers by name) that lead to the outputs."""
    wanted, kept = set(outputs), []
    for node in reversed(graph.nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    return kept[::-1], {name: array for name, array in graph.initializers.items() if name in wanted}
