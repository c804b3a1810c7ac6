"""Sums, means, variances, extremes and their positions."""

from __future__ import annotations

from functools import partial

import numpy as np

from gpunet.backends.contract import is_float
from gpunet.interop.onnx.exporting.graph import AXIS_FIRST, TO_FIRST
from gpunet.interop.onnx.exporting.translate.step import Step, Table, UntranslatableError


def _reduced(kind: str, step: Step, x: str, axes: list[int], *, keepdims: bool) -> str:
    """A node that reduces axes; ReduceSum takes them as an input, the others do from opset 18 on."""
    if kind == "ReduceSum" or step.graph.opset >= 18:
        return step.emit(kind, x, step.graph.integers(axes, "axes"), keepdims=int(keepdims))
    return step.emit(kind, x, axes=axes, keepdims=int(keepdims))


def _source(step: Step, axes: tuple[int, ...], *, keepdims: bool) -> tuple[str, list[int], bool]:
    """(x, the axes to reduce, whether the result has channels first).

    The order with channels first is taken where x stands in it and the axes that are left have
    gpunet's order.
    """
    x, dtype = step.value(), _summed_in(step)
    left = [axis for axis in TO_FIRST if axis not in axes]
    if x.first and (keepdims or left == sorted(left)):
        return step.graph.first(x, dtype), [AXIS_FIRST[axis] for axis in axes], keepdims
    return step.graph.plain(x, dtype), list(axes), False


def _summed_in(step: Step) -> np.dtype:
    """The dtype that x is reduced in: its own, or float32 for integers and booleans."""
    dtype = step.value().dtype
    return dtype if is_float(dtype) else np.dtype(np.float32)


def _reduction(kind: str, step: Step) -> None:
    keepdims = step.options["keepdims"]
    x, axes, first = _source(step, step.options["axes"], keepdims=keepdims)
    step.done_as(_reduced(kind, step, x, axes, keepdims=keepdims), first=first)


def _variance(step: Step, *, root: bool = False) -> None:
    keepdims = step.options["keepdims"]
    x, axes, first = _source(step, step.options["axes"], keepdims=keepdims)
    d = step.emit("Sub", x, _reduced("ReduceMean", step, x, axes, keepdims=True))
    y = _reduced("ReduceSum", step, step.emit("Mul", d, d), axes, keepdims=keepdims)
    y = step.emit("Div", y, step.scalar(step.options["divisor"]))
    step.done_as(step.emit("Sqrt", y) if root else y, first=first)


def _position(kind: str, step: Step) -> None:
    axes, keepdims = step.options["axes"], step.options["keepdims"]
    if len(axes) == 1:
        x, (axis,), first = _source(step, axes, keepdims=keepdims)
        step.done_as(step.emit(kind, x, axis=axis, keepdims=int(keepdims)), first=first)
        return
    rank = len(step.value().shape)
    if axes != tuple(range(axes[0], axes[0] + len(axes))):
        raise UntranslatableError(f"axes {axes}, which are no neighbours")
    dims = step.value().dims
    joined = (*dims[: axes[0]], -1 if axes[0] == 0 else _product(dims, axes), *dims[axes[0] + len(axes) : rank])
    x = step.graph.plain(step.value(), _summed_in(step))
    y = step.emit(kind, step.reshaped(x, joined), axis=axes[0], keepdims=0)
    step.done(step.reshaped(y, step.dims) if keepdims else y)


def _product(dims: tuple[int | str | None, ...], axes: tuple[int, ...]) -> int | None:
    count = 1
    for axis in axes:
        n = dims[axis]
        if not isinstance(n, int):
            return None
        count *= n
    return count


TABLE: Table = {
    "sum": partial(_reduction, "ReduceSum"),
    "max": partial(_reduction, "ReduceMax"),
    "min": partial(_reduction, "ReduceMin"),
    "var": _variance,
    "std": partial(_variance, root=True),
    "argmax": partial(_position, "ArgMax"),
    "argmin": partial(_position, "ArgMin"),
}
