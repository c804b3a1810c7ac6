"""Models as ONNX files."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from gpunet import nn
from gpunet.autograd import Tensor
from gpunet.files import PathLike, write_whole
from gpunet.geometry import checked_int
from gpunet.interop.onnx.exporting.batches import differences, dims_of, place_of, same_operations
from gpunet.interop.onnx.exporting.finish import connected, outputs_of, pruned
from gpunet.interop.onnx.exporting.folding import fold
from gpunet.interop.onnx.exporting.graph import Graph, Value, channels_first, element_type
from gpunet.interop.onnx.exporting.translate import TRANSLATIONS, Step, UntranslatableError
from gpunet.interop.onnx.package import LAYOUT_KEY, checker, helper
from gpunet.nn.origin import name_of, origin
from gpunet.nn.tracing import Trace, input_shapes, trace
from gpunet.version import __version__

__all__ = ["export"]

OPSETS = range(17, 24)
LAYOUTS = ("NCHW", "NHWC")
MOST_BYTES = 2_000_000_000
"""Of a file: the format that ONNX stands in takes 2 GiB at most."""


def export(
    model: nn.Module,
    path: PathLike,
    input_shape: Sequence[int] | Sequence[Sequence[int]],
    *,
    opset: int = 17,
    layout: str = "NCHW",
    batch_size: int | None = None,
    fold_batch_norm: bool = False,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a model for inference as an ONNX file.

    The model runs twice, on random numbers, and the operations that run become the graph: layers of
    gpunet and what a `forward` computes by `gpunet.functional` and operators. Nodes have the names
    of their layers, weights the names of the state dict; filters stand in ONNX's order of axes. The
    model stays as it is. The file is checked before it is written, and is never half a file.

    Args:
        model: the model. Dropout and noise do nothing in the file, and batch norm uses its running
            moments.
        path: the file.
        input_shape: the shape of one input without the batch axis, in gpunet's order: (28, 28, 1);
            or a list of such shapes for a model with several inputs.
        opset: the version of ONNX's operators, from 17 to 23.
        layout: the order of axes of the file's inputs and outputs with four axes: "NCHW", as ONNX's
            operators have it, or "NHWC", as gpunet has it. Others keep gpunet's order.
        batch_size: the number of samples in a batch; None for any.
        fold_batch_norm: whether to fold batch norms into the convolutions and dense layers before
            them, as `nn.fold_batch_norm` does; also where they do not stand in a `Sequential`.
        input_names: names of the inputs; if None, those of the parameters of the model's `forward`.
        output_names: names of the outputs; if None, "y", or "y0", "y1" … for several, or the keys
            of a dict.
        metadata: further texts for the file, which has the version of gpunet and what
            `models.load_model` makes the model from.
    Raises:
        ValueError: an opset or a layout that is none of these; a model that cannot be exported, with
            all operations that have no translation and their layers, or all constants that depend
            on the batch or on the input's values; or a file above 2 GB.
        TypeError: a model that returns something else than tensors.
        ImportError: the package onnx is not installed.
    """
    made = onnx_file(
        model, input_shape, opset=opset, layout=layout, batch_size=batch_size, fold_batch_norm=fold_batch_norm,
        input_names=input_names, output_names=output_names, metadata=metadata,
    )  # fmt: skip
    write_whole(path, made)


def onnx_file(
    model: nn.Module,
    input_shape: Sequence[int] | Sequence[Sequence[int]],
    *,
    opset: int,
    layout: str,
    batch_size: int | None,
    fold_batch_norm: bool,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    metadata: Mapping[str, str] | None,
) -> bytes:
    """The bytes of the file, checked; the arguments are those of `export`."""
    if checked_int("export", "opset", opset, least=0) not in OPSETS:
        raise ValueError(f"export: opset is {opset} but takes {OPSETS[0]} to {OPSETS[-1]}")
    if layout not in LAYOUTS:
        raise ValueError(f"export: layout is {layout!r} but takes {' or '.join(LAYOUTS)}")
    shapes = input_shapes("export", input_shape)
    batch_sizes = (2, 3) if batch_size is None else (checked_int("export", "batch_size", batch_size, least=1),) * 2
    state = model._state()
    size = sum(value.size * value.dtype.itemsize for value in state.values())
    if size > MOST_BYTES:
        raise ValueError(f"export: the weights take {size:,} bytes, but an ONNX file holds {MOST_BYTES:,} at most")
    traces = trace(model, shapes, batch_sizes[0], seed=0), trace(model, shapes, batch_sizes[1], seed=1)
    if not same_operations(*traces):
        raise ValueError("export: which operations run depends on the batch size or on the input's values")
    names = _input_names(model, len(shapes), input_names)
    outputs = outputs_of(traces[0].output, output_names, names)
    graph = Graph(opset, {id(t): name for name, t in state.items()}, [*names, *outputs], batch_sizes)
    inputs = [
        _defined(graph, name, *pair, nchw=layout == "NCHW")
        for name, *pair in zip(names, *(t.inputs for t in traces), strict=True)
    ]
    faults = [*_translate(graph, *traces), *differences(*traces, batch_sizes)]
    if faults:
        raise ValueError(f"export: the model has no ONNX graph, for {len(faults)} reasons: {'; '.join(faults)}")
    connected(graph, outputs, nchw=layout == "NCHW")
    if fold_batch_norm:
        fold(graph, outputs)
    made = _packed(graph, inputs, list(outputs), name_of(model))
    said = {"gpunet": __version__, "model": json.dumps(origin(model)), LAYOUT_KEY: layout, **(metadata or {})}
    helper.set_model_props(made, {key: str(value) for key, value in said.items()})
    content: bytes = made.SerializeToString()
    del made, graph, traces  # as large as the weights, each of them
    checker.check_model(content, full_check=True)
    return content


def _input_names(model: nn.Module, count: int, given: Sequence[str] | None) -> list[str]:
    """The names of a model's inputs: those given, or those of its `forward`."""
    if given is None:
        parameters = inspect.signature(model.forward).parameters.values()
        positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        given = positional[:count] if len(positional) >= count else [f"x{i}" for i in range(count)]
    if len(given) != count or len(set(given)) < count:
        raise ValueError(f"export: input_names are {list(given)} but must be {count} different names")
    return list(given)


def _defined(graph: Graph, name: str, first: Tensor, second: Tensor, *, nchw: bool) -> Any:
    """Say where an input stands in the graph -> what ONNX says of it."""
    dims = dims_of(first.shape, second.shape, graph.batch_sizes)
    value = Value(first.shape, dims, first.dtype)
    if nchw and first.ndim == 4:
        value.first, dims = name, channels_first(dims)
    else:
        value.plain = name
    graph.define(first, value)
    graph.inform(name, first.dtype, dims)
    return graph.infos.pop(name)


def _translate(graph: Graph, first: Trace, second: Trace) -> list[str]:
    """Add the nodes of all operations -> what has no translation, each in a few words."""
    faults: dict[str, None] = {}
    for operation, other in zip(first.operations, second.operations, strict=True):
        dims = dims_of(operation.result.shape, other.result.shape, graph.batch_sizes)
        step = Step(graph, operation, other, dims)
        try:
            if step.constant:
                step.done_constant()
            elif operation.name in TRANSLATIONS:
                TRANSLATIONS[operation.name](step)
            else:
                raise UntranslatableError("there are no ONNX nodes for it")
        except UntranslatableError as error:
            faults[f"{place_of(operation)}: {error}"] = None
            step.done("?")  # for the operations after it, whose faults are wanted too
    return list(faults)


def _packed(graph: Graph, inputs: list[Any], outputs: list[str], name: str) -> Any:
    """The graph as a model of the oldest format that has its operators."""
    nodes, initializers = pruned(graph, outputs)
    results = {n for node in nodes for n in node.output}
    infos = [info for key, info in graph.infos.items() if key in results and key not in outputs]
    packed = helper.make_graph(nodes, name, inputs, [graph.infos[key] for key in outputs], value_info=infos)
    opsets = [helper.make_opsetid("", graph.opset)]
    made = helper.make_model(
        packed, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="gpunet", producer_version=__version__,
    )  # fmt: skip
    for key, array in initializers.items():  # the graph and the model above would hold a copy each
        made.graph.initializer.add(
            name=key, dims=array.shape, data_type=element_type(array.dtype), raw_data=array.tobytes()
        )
    return made
