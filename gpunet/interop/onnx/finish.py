"""The end of a graph: its outputs, and without what does not lead to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpunet.autograd import Tensor
from gpunet.interop.onnx.graph import Graph, channels_first
from gpunet.nn.tracing import tensors_of


def outputs_of(output: Any, names: Sequence[str] | None) -> dict[str, Tensor]:
    """The tensors that a model returned, by the names that they get.

    Raises:
        TypeError: as for `tensors_of`.
        ValueError: names that do not fit.
    """
    found = tensors_of("export", output)
    if names is None:
        return found
    if len(names) != len(found) or len(set(names)) < len(names):
        raise ValueError(f"export: output_names are {list(names)} but must be {len(found)} different names")
    return dict(zip(names, found.values(), strict=True))


def connected(graph: Graph, outputs: Mapping[str, Tensor], *, nchw: bool) -> None:
    """Give the results of the model the names of the graph's outputs."""
    made = {name for node in graph.nodes for name in node.output}
    renamed: dict[str, str] = {}
    for name, t in outputs.items():
        value = graph.value(t)
        first = nchw and len(value.shape) == 4
        source = (graph.first if first and value.constant is None else graph.plain)(value)
        made.update(graph.nodes[-1].output if graph.nodes else ())
        if source in made and source not in renamed:
            renamed[source] = name
        else:
            node = graph.node("Identity", [renamed.get(source, source)], f"{name}/Identity")
            renamed[node] = name
        dims = channels_first(value.dims) if first else value.dims
        graph.infos.pop(source, None) if renamed.get(source) == name else None
        graph.inform(name, value.dtype, dims)
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
