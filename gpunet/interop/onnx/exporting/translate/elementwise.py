"""Activations, arithmetic, comparisons and choices: what acts on each element by itself."""

from __future__ import annotations

from functools import partial
from math import isinf, sqrt
from typing import Any

import numpy as np

from gpunet.backends.contract import Activation, InputActivation
from gpunet.interop.onnx.exporting.graph import Value
from gpunet.interop.onnx.exporting.translate.step import Step, Table, UntranslatableError


def activated(step: Step, x: str, activation: Activation | InputActivation | None) -> str:
    """The name of f(x); x where there is no activation."""
    if activation is None:
        return x
    match activation.name:
        case "relu" | "sigmoid" | "tanh" as name:
            return step.emit(name.capitalize(), x)
        case "leaky_relu" if isinstance(activation, Activation):
            return step.emit("LeakyRelu", x, alpha=activation.negative_slope)
        case "elu" if isinstance(activation, Activation):
            return step.emit("Elu", x, alpha=activation.alpha)
        case "elu":
            return step.emit("Elu", x, alpha=_number(activation))
        case "relu6":
            return limited(step, x, 0.0, 6.0)
        case "hard_tanh" if isinstance(activation, Activation):
            return limited(step, x, activation.min_val, activation.max_val)
        case "hard_sigmoid":
            return step.emit("HardSigmoid", x, alpha=1 / 6, beta=0.5)
        case "gelu":
            return _gelu(step, x)
        case "silu":
            return step.emit("Mul", x, step.emit("Sigmoid", x))
        case "softplus":
            return _softplus(step, x, _number(activation))
        case "hard_swish":
            return step.emit("HardSwish", x)
        case _:
            raise UntranslatableError(f"activation {activation.name!r}")


def limited(step: Step, x: str, low: float | None, high: float | None) -> str:
    """x from `low` to `high`; None and infinite numbers are no limits."""
    limits = ["" if limit is None or isinf(limit) else step.scalar(limit) for limit in (low, high)]
    while limits and not limits[-1]:
        limits.pop()
    return step.emit("Clip", x, *limits)


def _number(activation: Any) -> float:
    """The number that an `InputActivation` takes."""
    return float(activation.beta)


def _gelu(step: Step, x: str) -> str:
    if step.graph.opset >= 20:
        return step.emit("Gelu", x)
    share = step.emit("Erf", step.emit("Mul", x, step.scalar(1 / sqrt(2))))
    share = step.emit("Add", share, step.scalar(1))
    return step.emit("Mul", step.emit("Mul", x, step.scalar(0.5)), share)


def _softplus(step: Step, x: str, beta: float) -> str:
    if beta == 1:
        return step.emit("Softplus", x)
    return step.emit("Div", step.emit("Softplus", step.emit("Mul", x, step.scalar(beta))), step.scalar(beta))


def _activation(step: Step) -> None:
    (x,), first = step.operands()
    step.done_as(activated(step, x, step.options["activation"]), first=first)


def _same_order(kind: str, step: Step, *, as_is: bool = False) -> None:
    """A node that takes all inputs in one order, and has no attributes."""
    names, first = step.operands(as_is=as_is)
    step.done_as(step.emit(kind, *names), first=first)


def _softmax(step: Step) -> None:
    (x,), first = step.operands()
    kind = "LogSoftmax" if step.options["log"] else "Softmax"
    step.done_as(step.emit(kind, x, axis=1 if first else len(step.shape) - 1), first=first)


UNARY = {"negative": "Neg", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs"}


def _unary(step: Step) -> None:
    _same_order(UNARY[step.options["operation"]], step)


def _clip(step: Step) -> None:
    (x,), first = step.operands()
    step.done_as(limited(step, x, step.options["low"], step.options["high"]), first=first)


def _where(step: Step) -> None:
    condition = step.options["condition"]
    chosen = step.graph.of_array(condition)
    if chosen is None:
        mask = step.operation.result.backend.to_numpy(condition)
        chosen = Value(mask.shape, mask.shape, mask.dtype, constant=mask)
    step.values.append(chosen)
    first = step.images()
    name = (step.graph.first if first else step.graph.plain)(chosen)
    a, b = ((step.first if first else step.plain)(i) for i in range(2))
    step.done_as(step.emit("Where", name, a, b), first=first)


COMPARED = {
    "equal": "Equal", "not_equal": "Equal", "less": "Less", "less_equal": "LessOrEqual", "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
}  # fmt: skip


def _compared(name: str, step: Step) -> None:
    dtype = np.dtype(step.options["dtype"])
    if dtype == np.bool_ and COMPARED[name] != "Equal":
        dtype = np.dtype(np.int32)  # ONNX orders numbers alone
    first = step.images()
    take = step.graph.first if first else step.graph.plain
    y = step.emit(COMPARED[name], *(take(step.value(i), dtype) for i in range(2)))
    step.done_as(step.emit("Not", y) if name == "not_equal" else y, first=first)


def _share(step: Step) -> None:
    (a, b), first = step.operands()
    zero = step.scalar(0)
    y = step.emit("Where", step.emit("Greater", b, zero), step.emit("Div", a, b), zero)
    step.done_as(y, first=first)


def _cast(step: Step) -> None:
    (x,), first = step.operands()
    step.done_as(x, first=first)


def _passed_on(step: Step) -> None:
    step.graph.define(step.operation.result, step.value())


TABLE: Table = {
    "activation": _activation,
    "input_activation": _activation,
    "prelu": partial(_same_order, "PRelu"),
    "softmax": _softmax,
    "unary": _unary,
    "root": partial(_same_order, "Sqrt"),
    "share": _share,
    "cast": _cast,
    "clip": _clip,
    "where": _where,
    "identity": _passed_on,
    **{name: partial(_compared, name) for name in COMPARED},
    **{
        name: partial(_same_order, kind)
        for name, kind in {
            "add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div", "power": "Pow", "maximum": "Max",
            "minimum": "Min",
        }.items()
    },
}  # fmt: skip
