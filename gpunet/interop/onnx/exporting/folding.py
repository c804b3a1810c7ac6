"""Batch normalisation folded into the products before it, in a finished graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from gpunet.interop.onnx.exporting.graph import Graph
from gpunet.nn.folding import scale_and_shift

FILTERS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
"""The axis of the weights that counts the filters, by the product's kind."""


def fold(graph: Graph, outputs: Collection[str]) -> None:
    """Fold each batch norm into the product whose result nothing else takes; others stay.

    The weights keep their names, as far as no other product needs them as they were.
    """
    users = Counter(name for node in graph.nodes for name in node.input)
    makers = {name: node for node in graph.nodes for name in node.output}
    renamed: dict[str, str] = {}
    gone = []
    for norm in graph.nodes:
        product = makers.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if product is not None and users[norm.input[0]] == 1 and norm.input[0] not in outputs and _fits(graph, product):
            renamed.update(_join(graph, product, norm))
            gone.append(norm.name)
            graph.infos.pop(norm.input[0], None)
    graph.nodes = [node for node in graph.nodes if node.name not in gone]
    wanted = {name for node in graph.nodes for name in node.input}
    back = {new: old for old, new in renamed.items() if old not in wanted}
    graph.initializers = {back.get(name, name): array for name, array in graph.initializers.items() if name in wanted}
    for node in graph.nodes:
        node.input[:] = [back.get(name, name) for name in node.input]


def _fits(graph: Graph, product: Any) -> bool:
    """Whether a node is a product with constant weights of one group or of filters one after another."""
    if product.op_type not in FILTERS or not all(name in graph.initializers for name in product.input[1:]):
        return False
    groups = next((attribute.i for attribute in product.attribute if attribute.name == "group"), 1)
    return (groups == 1 or product.op_type == "Conv") and graph.initializers[product.input[1]].ndim in (2, 4)


def _join(graph: Graph, product: Any, norm: Any) -> dict[str, str]:
    """Have a product do what the batch norm behind it does -> the new names of its weights, by the old."""
    eps = next(attribute.f for attribute in norm.attribute if attribute.name == "epsilon")
    weight, *bias = (graph.initializers[name] for name in product.input[1:])
    gamma, beta, mean, variance = (graph.initializers[name] for name in norm.input[1:])
    scale, shift = scale_and_shift(gamma, beta, mean, variance, eps)
    axis = FILTERS[product.op_type]
    wide = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    old = product.input[1], product.input[2] if bias else f"{product.name}.bias"
    arrays = weight * wide, bias[0] * scale + shift if bias else shift
    new = [graph.constant(array.astype(weight.dtype), name) for array, name in zip(arrays, old, strict=True)]
    product.input[1:] = new
    product.output[:] = norm.output
    if product.op_type == "MatMul":
        product.op_type = "Gemm"
    return dict(zip(old, new, strict=True))
