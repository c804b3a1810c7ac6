"""`summary`: a table of a network's layers with output shapes, parameters, FLOPs and memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from gpunet.autograd import Parameter, Tensor, no_grad
from gpunet.backends.contract import Activation
from gpunet.nn.module import Module, in_eval_mode
from gpunet.tables import Table


@dataclass(frozen=True)
class LayerRow:
    """What one layer did in one forward pass of one input."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    """Without the batch axis; empty if the layer did not run."""
    parameters: int
    """Number of elements of its own parameters that no row above has counted."""
    formula: str
    """How this number comes about, such as "(5·5·3+1)·10"."""
    flops: int
    """Floating-point operations; a multiply-add counts as two."""
    output_bytes: int


@dataclass(frozen=True)
class Summary:
    """The rows of a model's layers and their sums; prints as a table."""

    rows: tuple[LayerRow, ...]
    input_shape: tuple[int, ...]
    parameter_bytes: int

    @property
    def parameters(self) -> int:
        """Number of elements of all parameters, frozen ones too; shared parameters count once."""
        return sum(row.parameters for row in self.rows)

    @property
    def flops(self) -> int:
        """Floating-point operations of the forward pass of one input."""
        return sum(row.flops for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """Bytes of the outputs of all layers for one input."""
        return sum(row.output_bytes for row in self.rows)

    def table(self) -> Table:
        """A row for each layer, and the sums."""
        rows = [("input", _extents(self.input_shape), "", "", "", "")]
        for row in self.rows:
            name = f"{row.name} {row.kind}".strip()
            amounts = f"{row.parameters:,}", row.formula, f"{row.flops:,}", in_bytes(row.output_bytes)
            rows.append((name, _extents(row.output_shape), *amounts))
        return Table(
            ("layer", "output", "parameters", "formula", "FLOPs", "memory"),
            rows,
            ("total", "", f"{self.parameters:,}", "", f"{self.flops:,}", in_bytes(self.activation_bytes)),
            (False, True, True, False, True, True),
            f"FLOPs and memory for one input; the parameters take {in_bytes(self.parameter_bytes)}",
        )

    def __str__(self) -> str:
        return str(self.table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def summary(model: Module, input_shape: tuple[int, ...]) -> Summary:
    """Run `model` once on zeros in inference mode, and describe each of its layers.

    There is a row for each run of an innermost module, and of an outer module that holds parameters
    of its own. Modules with parameters that did not run follow at the end, so that the parameters
    add up. The model stays as it is.

    Args:
        model: the network.
        input_shape: shape of one input without the batch axis, such as (28, 28, 1).
    """
    check_input_shape("summary", input_shape)
    names = {id(module): name for name, module in model.named_modules()}
    rows: list[LayerRow] = []
    counted: set[int] = set()  # ids of the parameters in the rows

    def add_row(module: Module, inputs: tuple[Any, ...], y: Any) -> None:
        held = [value for _, value in module.named_parts()]
        parameters = [p for p in held if isinstance(p, Parameter)]
        if parameters or not any(isinstance(value, Module) for value in held):
            rows.append(_row(names[id(module)], module, parameters, counted, inputs, y))

    handles = [module.register_forward_hook(add_row) for _, module in model.named_modules()]
    parameters = model.parameters()
    dtype = parameters[0].dtype if parameters else np.dtype(np.float32)
    try:
        with in_eval_mode(model), no_grad():
            model(np.zeros((1, *input_shape), dtype))
    finally:
        for handle in handles:
            handle.remove()
    for name, module in model.named_modules():
        missed = [p for _, p in module.named_parts() if isinstance(p, Parameter) and id(p) not in counted]
        if missed:
            rows.append(_row(name, module, missed, counted, (), None))
    return Summary(tuple(rows), tuple(input_shape), sum(p.size * p.dtype.itemsize for p in parameters))


def check_input_shape(operation: str, input_shape: object) -> None:
    """Raise a TypeError unless `input_shape` is a tuple or list of integers."""
    if not isinstance(input_shape, tuple | list) or not all(isinstance(n, int | np.integer) for n in input_shape):
        raise TypeError(f"{operation}: input_shape is {input_shape!r} but takes extents without the batch: (28, 28, 1)")


def kind_of(module: Module) -> str:
    """A layer's class, and the activation that it computes as well: "Conv2d + relu"."""
    fused = getattr(module, "activation", None)
    return type(module).__name__ + (f" + {fused.name}" if isinstance(fused, Activation) else "")


def _row(
    name: str, module: Module, parameters: list[Parameter], counted: set[int], inputs: tuple[Any, ...], y: Any
) -> LayerRow:
    """The row of a module that made y, or that did not run if y is None; counts its parameters."""
    new = [p for p in parameters if id(p) not in counted]
    counted.update(map(id, new))
    count = sum(p.size for p in new)
    if y is None:
        return LayerRow(name, f"{kind_of(module)} (not run)", (), count, module.parameter_formula(), 0, 0)
    outputs = [value for value in (y if isinstance(y, tuple | list) else [y]) if isinstance(value, Tensor)]
    first = outputs[0].shape if outputs else (1,)
    formula = module.parameter_formula() if new else "shared" if parameters else ""
    size = sum(value.size * value.dtype.itemsize for value in outputs)
    return LayerRow(name, kind_of(module), first[1:], count, formula, module.flops(inputs[0].shape, first), size)


def _extents(shape: tuple[int, ...]) -> str:
    """A shape as "28x28x1"; one with an extent of 0 as Python writes it."""
    return "x".join(map(str, shape)) if prod(shape) else str(shape)


def in_bytes(count: int) -> str:
    """A number of bytes, in the largest unit that goes into it at least once: 1536 is "1.5 KiB"."""
    if count < 1024:
        return f"{count} B"
    size, units = count / 1024, iter(("KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while size >= 1024:
        size, unit = size / 1024, next(units)
    return f"{size:.1f} {unit}"
