"""Images of other extents: upsampling, padding and adaptive pools, which are tables of taps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpunet import resampling
from gpunet.interop.onnx.exporting.translate.step import Step, Table
from gpunet.resampling import Taps


def _upsample2d(step: Step) -> None:
    rows, columns = step.options["rows"], step.options["columns"]
    for attributes, table in _RESIZES:
        if all(_is_scaled(taps) and _same(taps, table(taps.extent, taps.outputs)) for taps in (rows, columns)):
            scales = np.array([1, 1, *(taps.outputs / taps.extent for taps in (rows, columns))], np.float32)
            step.done_first(step.emit("Resize", step.first(), "", step.graph.constant(scales, "scales"), **attributes))
            return
    _copied_or_weighed(step, rows, columns)


_Make = Callable[[int, int], Taps]
_RESIZES: tuple[tuple[dict[str, Any], _Make], ...] = (
    (
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        lambda extent, outputs: resampling.nearest(extent, outputs),
    ),
    (
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
        lambda extent, outputs: resampling.linear(extent, outputs),
    ),
    (
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        lambda extent, outputs: resampling.linear(extent, outputs, align_corners=True),
    ),
)
"""Attributes of a Resize, and what it computes along an axis."""


def _is_scaled(taps: Taps) -> bool:
    """Whether a Resize by outputs / extent is sure of the extents, which it computes with rounding."""
    return taps.outputs % taps.extent == 0


def _same(one: Taps, other: Taps) -> bool:
    return one is other or (
        np.array_equal(one.starts, other.starts)
        and np.array_equal(one.index, other.index)
        and np.allclose(one.weight, other.weight, rtol=0, atol=1e-9)
    )


def _pad2d(step: Step) -> None:
    rows, columns = step.options["rows"], step.options["columns"]
    (top, left), axes = step.options["first"], (rows, columns)
    ends = [taps.outputs - taps.extent - before for taps, before in zip(axes, (top, left), strict=True)]
    pads = step.graph.integers([0, 0, top, left, 0, 0, *ends], "pads")
    for ours, theirs in (("zero", "constant"), ("reflect", "reflect"), ("edge", "edge")):
        tables = (
            resampling.padded(taps.extent, before, after, ours)
            for taps, before, after in zip(axes, (top, left), ends, strict=True)
        )
        if all(_same(taps, table) for taps, table in zip(axes, tables, strict=True)):
            step.done_first(step.emit("Pad", step.first(), pads, mode=theirs))
            return
    _copied_or_weighed(step, rows, columns)


def _adaptive_avg_pool2d(step: Step) -> None:
    rows, columns = step.options["rows"], step.options["columns"]
    if rows.outputs == columns.outputs == 1:
        step.done_first(step.emit("GlobalAveragePool", step.first()))
    elif rows.extent % rows.outputs == 0 and columns.extent % columns.outputs == 0:
        window = rows.extent // rows.outputs, columns.extent // columns.outputs
        step.done_first(step.emit("AveragePool", step.first(), kernel_shape=window, strides=window))
    else:
        _copied_or_weighed(step, rows, columns)


def _resample2d(step: Step) -> None:
    _copied_or_weighed(step, step.options["rows"], step.options["columns"])


def _copied_or_weighed(step: Step, rows: Taps, columns: Taps) -> None:
    """Copies of rows and columns, or products with the tables as matrices."""
    x = step.first()
    if all(_copies(taps) for taps in (rows, columns)):
        for axis, taps in ((2, rows), (3, columns)):
            x = step.emit("Gather", x, step.graph.integers(taps.index, "places"), axis=axis)
    else:
        x = step.emit("MatMul", step.graph.constant(_dense(rows).astype(step.dtype), "rows"), x)
        x = step.emit("MatMul", x, step.graph.constant(_dense(columns).T.astype(step.dtype), "columns"))
    step.done_first(x)


def _copies(taps: Taps) -> bool:
    """Whether each output is one pixel of the input."""
    return len(taps.index) == taps.outputs and bool((np.diff(taps.starts) == 1).all() and (taps.weight == 1).all())


def _dense(taps: Taps) -> np.ndarray:
    """The table as a matrix (outputs, extent)."""
    matrix = np.zeros((taps.outputs, taps.extent))
    matrix[np.repeat(np.arange(taps.outputs), np.diff(taps.starts)), taps.index] = taps.weight
    return matrix


TABLE: Table = {
    "upsample2d": _upsample2d,
    "pad2d": _pad2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "adaptive_max_pool2d": _resample2d,
}
