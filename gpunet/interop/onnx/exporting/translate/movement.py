"""Movement of elements: other shapes, other orders of axes, joins, and parts by an index."""

from __future__ import annotations

import numpy as np

from gpunet.interop.onnx.exporting.graph import AXIS_FIRST
from gpunet.interop.onnx.exporting.translate.step import Step, Table, UntranslatableError

FARTHEST = np.iinfo(np.int64).max
"""Stands for the end of an axis in a Slice, and its negative for the beginning."""


def _reshape(step: Step) -> None:
    x = step.value()
    taken = x.first if x.first and x.same_order else step.graph.plain(x)
    if len(step.shape) == 4 and step.shape[1] == step.shape[2] == 1:  # one pixel: its order is both
        n, h, w, c = step.dims
        step.done_first(step.reshaped(taken, (n, c, h, w)))
    else:
        step.done(step.reshaped(taken, step.dims))


def _transpose(step: Step) -> None:
    x, axes = step.value(), step.options["axes"]
    if x.first and not x.plain:
        step.done(step.emit("Transpose", x.first, perm=[AXIS_FIRST[axis] for axis in axes]))
    else:
        step.done(step.emit("Transpose", step.plain(), perm=axes))


def _concatenate(step: Step) -> None:
    axis = step.options["axis"]
    names, first = step.operands()
    if first:  # constants do not broadcast here
        names = [step.graph.first(value) for value in map(step.value, range(len(names)))]
    step.done_as(step.emit("Concat", *names, axis=AXIS_FIRST[axis] if first else axis), first=first)


def _index(step: Step) -> None:
    if "rows" in step.options:
        _take(step)
    else:
        _slice(step)


def _slice(step: Step) -> None:
    """Slices of all axes at once; integers are slices of one element, whose axes go."""
    parts = step.options["index"]
    kept = [part for part in parts if part is not None]
    first = bool(step.value().first) and len(step.shape) == 4 and all(isinstance(part, slice) for part in parts)
    cuts, gone = [], []
    for axis, part in enumerate(kept):
        at = AXIS_FIRST[axis] if first else axis
        if isinstance(part, slice):
            if part != slice(None):
                cuts.append((*_ends(part), at, 1 if part.step is None else int(part.step)))
        else:
            cuts.append((int(part), FARTHEST if part == -1 else int(part) + 1, at, 1))
            gone.append(at)
    y = step.first() if first else step.plain()
    if cuts:
        columns = zip(*cuts, strict=True)
        names = [step.graph.integers(column, "slice") for column in columns]
        y = step.emit("Slice", y, *names)
    if gone:
        y = step.emit("Squeeze", y, step.graph.integers(gone, "axes"))
    if new := _new_axes(parts):
        y = step.emit("Unsqueeze", y, step.graph.integers(new, "axes"))
    step.done_as(y, first=first)


def _ends(part: slice) -> tuple[int, int]:
    """Start and end of a slice, for ONNX, which limits them to the axis as Python does."""
    backwards = part.step is not None and part.step < 0
    start = (FARTHEST if backwards else 0) if part.start is None else int(part.start)
    return start, (-FARTHEST if backwards else FARTHEST) if part.stop is None else int(part.stop)


def _new_axes(parts: tuple[object, ...]) -> list[int]:
    """Places of the new axes in the result."""
    left = [part for part in parts if part is None or isinstance(part, slice)]
    return [i for i, part in enumerate(left) if part is None]


def _take(step: Step) -> None:
    """Rows of the first axis; where it is the batch and other axes joined, rows of each sample."""
    rows, others = (np.asarray(run.options["rows"]) for run in (step.operation, step.other))
    x, (value, other) = step.plain(), (run.inputs[0] for run in (step.operation, step.other))
    assert value is not None
    assert other is not None
    if np.array_equal(rows, others):
        step.done(step.emit("Gather", x, step.graph.integers(rows, "rows"), axis=0))
        return
    batch = step.graph.batch_sizes
    each = value.shape[0] // batch[0]  # rows of a sample
    of_sample = rows[: len(rows) // batch[0]]
    for found, count in zip((rows, others), batch, strict=True):
        if not np.array_equal(found, (np.arange(count)[:, None] * each + of_sample).ravel()):
            raise UntranslatableError("an index that depends on the batch or on the input's values")
    y = step.reshaped(x, (None, each, *value.shape[1:]))
    y = step.emit("Gather", y, step.graph.integers(of_sample, "rows"), axis=1)
    step.done(step.reshaped(y, (None, *step.shape[1:])))


TABLE: Table = {
    "reshape": _reshape,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "index": _index,
}
