"""A table of a network's layers: output shapes, parameters with their formula, FLOPs, memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from gpunet.autograd import Parameter, Tensor, no_grad
from gpunet.backends.contract.activation import Activation
from gpunet.nn.module import Module, in_eval_mode
from gpunet.report.table import draw_table, in_bytes


@dataclass(frozen=True)
class Row:
    """One layer, run once on one input."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    """Without the batch axis."""
    parameters: int
    formula: str
    flops: int
    """Of the forward pass of one input; a multiply-add counts two."""
    bytes: int
    """Of the output of one input."""


@dataclass(frozen=True)
class Summary:
    """Rows of layers and their sums; prints as a table."""

    rows: tuple[Row, ...]
    input_shape: tuple[int, ...]
    parameter_bytes: int

    @property
    def parameters(self) -> int:
        """Numbers in all parameters of the model, frozen ones too; those of a layer used twice count once."""
        return sum(row.parameters for row in self.rows)

    @property
    def flops(self) -> int:
        """Of the forward pass of one input."""
        return sum(row.flops for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """Of all outputs of one input."""
        return sum(row.bytes for row in self.rows)

    def __str__(self) -> str:
        head = ("layer", "output", "parameters", "formula", "FLOPs", "memory")
        table = [head, ("input", _shape(self.input_shape), "", "", "", "")]
        for row in self.rows:
            name = f"{row.name} {row.kind}".strip()
            parameters = f"{row.parameters:,}" if row.parameters else "0"
            table.append(
                (name, _shape(row.output_shape), parameters, row.formula, f"{row.flops:,}", in_bytes(row.bytes))
            )
        totals = (f"{self.parameters:,}", "", f"{self.flops:,}", in_bytes(self.activation_bytes))
        table.append(("total", "", *totals))
        drawn = draw_table(table, (False, True, True, False, True, True))
        return f"{drawn}\nFLOPs and memory for one input; the parameters take {in_bytes(self.parameter_bytes)}"

    __repr__ = __str__


def summarize(model: Module, input_shape: tuple[int, ...]) -> Summary:
    """Run `model` once on zeros of (1, *input_shape), without training it, and note each layer.

    A row stands for an innermost module, and for an outer one that holds parameters of its own. Modules that the run does
    not reach follow at the end, so that the parameters add up.
    """
    check_input_shape("summary", input_shape)
    names = {id(module): name for name, module in model.named_modules()}
    rows: list[Row] = []
    counted: set[int] = set()

    def note(module: Module, inputs: tuple[Any, ...], y: Any) -> None:
        held = [value for _, value in module.children()]
        parameters = [p for p in held if isinstance(p, Parameter)]
        if parameters or not any(isinstance(value, Module) for value in held):
            rows.append(_row(names[id(module)], module, parameters, counted, inputs, y))

    handles = [module.register_forward_hook(note) for _, module in model.named_modules()]
    parameters = model.parameters()
    dtype = parameters[0].dtype if parameters else np.dtype(np.float32)
    try:
        with in_eval_mode(model), no_grad():
            model(np.zeros((1, *input_shape), dtype))
    finally:
        for handle in handles:
            handle.remove()
    for name, module in model.named_modules():
        missed = [p for _, p in module.children() if isinstance(p, Parameter) and id(p) not in counted]
        if missed:
            rows.append(_row(name, module, missed, counted, (), None))
    return Summary(tuple(rows), tuple(input_shape), sum(p.size * p.dtype.itemsize for p in parameters))


def check_input_shape(operation: str, input_shape: object) -> None:
    """TypeError for anything but the extents of an input."""
    if not isinstance(input_shape, tuple | list) or not all(isinstance(n, int | np.integer) for n in input_shape):
        raise TypeError(
            f"{operation}: input_shape is {input_shape!r} but takes extents without the batch, such as (28, 28, 1)"
        )


def _row(
    name: str, module: Module, parameters: list[Parameter], counted: set[int], inputs: tuple[Any, ...], y: Any
) -> Row:
    new = [p for p in parameters if id(p) not in counted]
    counted.update(map(id, new))
    count = sum(p.size for p in new)
    if y is None:
        return Row(name, f"{kind_of(module)} (not run)", (), count, module.parameter_formula(), 0, 0)
    outputs = [value for value in (y if isinstance(y, tuple | list) else [y]) if isinstance(value, Tensor)]
    first = outputs[0].shape if outputs else (1,)
    return Row(
        name,
        kind_of(module),
        first[1:],
        count,
        module.parameter_formula() if new else "shared" if parameters else "",
        module.flops(inputs[0].shape, first),
        sum(value.size * value.dtype.itemsize for value in outputs),
    )


def kind_of(module: Module) -> str:
    """A layer's class, and the activation that it computes as well."""
    fused = getattr(module, "activation", None)
    return type(module).__name__ + (f" + {fused.name}" if isinstance(fused, Activation) else "")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if prod(shape) else str(shape)
