"""A table of a network's layers: output shapes, parameters with their formula, FLOPs, memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from gpunet.autograd import Tensor, no_grad
from gpunet.backends.base import Activation
from gpunet.nn.module import Module


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
        """Trainable numbers; those of a layer used twice count once."""
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
            table.append((name, _shape(row.output_shape), parameters, row.formula, f"{row.flops:,}", _bytes(row.bytes)))
        totals = (f"{self.parameters:,}", "", f"{self.flops:,}", _bytes(self.activation_bytes))
        table.append(("total", "", *totals))
        widths = [max(len(line[i]) for line in table) for i in range(len(head))]
        right = (False, True, True, False, True, True)
        lines = [
            "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True))
            for line in table
        ]
        rule = "-" * len(lines[0])
        body = [lines[0].rstrip(), rule, *(line.rstrip() for line in lines[1:-1]), rule, lines[-1].rstrip()]
        return "\n".join([*body, f"FLOPs and memory for one input; the parameters take {_bytes(self.parameter_bytes)}"])

    __repr__ = __str__


def summarize(model: Module, input_shape: tuple[int, ...]) -> Summary:
    """Run `model` once on zeros of (1, *input_shape), without training it, and note every innermost layer."""
    names = {id(module): name for name, module in model.named_modules()}
    leaves = [m for _, m in model.named_modules() if not any(isinstance(c, Module) for _, c in m.children())]
    modes = [(module, module.training) for _, module in model.named_modules()]
    rows: list[Row] = []
    counted: set[int] = set()

    def note(module: Module, inputs: tuple[Any, ...], y: Tensor) -> None:
        own = [p for _, p in module.named_parameters() if id(p) not in counted]
        counted.update(map(id, own))
        rows.append(
            Row(
                names[id(module)],
                _kind(module),
                y.shape[1:],
                sum(p.size for p in own),
                module.parameter_formula() if own else "shared" if module.parameters() else "",
                module.flops(inputs[0].shape, y.shape),
                y.size * y.dtype.itemsize,
            )
        )

    handles = [module.register_forward_hook(note) for module in leaves]
    parameters = model.parameters()
    dtype = parameters[0].dtype if parameters else np.dtype(np.float32)
    try:
        model.eval()
        with no_grad():
            model(np.zeros((1, *input_shape), dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return Summary(tuple(rows), tuple(input_shape), sum(p.size * p.dtype.itemsize for p in parameters))


def _kind(module: Module) -> str:
    fused = getattr(module, "activation", None)
    return type(module).__name__ + (f" + {fused.name}" if isinstance(fused, Activation) else "")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if prod(shape) else str(shape)


def _bytes(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    size, units = count / 1024, iter(("KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while size >= 1024:
        size, unit = size / 1024, next(units)
    return f"{size:.1f} {unit}"
