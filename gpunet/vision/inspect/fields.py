"""Receptive fields: which pixels of the input a unit can see.

Consider one axis. Let n be the number of pixels that a unit sees, j the step between the fields of
neighbouring units, and s the first pixel that unit 0 sees (negative in the padding). An operation
with a window of e pixels (dilation included), stride t and padding p turns (n, j, s) of its input
into

    n' = n + (e - 1) j,    s' = s - p j,    j' = j t,

starting from n = j = 1 and s = 0 for the image itself (Araujo et al. 2019, "Computing receptive
fields of convolutional neural networks", equations 1 to 4).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpunet.autograd import Tensor
from gpunet.geometry import Geometry, Pair
from gpunet.nn import Module
from gpunet.tensors import Creator
from gpunet.vision.inspect.run import as_input, inference, run

WINDOWS = {"avg_pool2d", "conv2d", "locally_connected2d", "max_pool2d"}
"""Operations that slide a window over their first input, as their `geometry` says; a convolution's stands in its `conv`."""
BY_PIXEL = {
    "activation", "add", "batch_norm", "clip", "concatenate", "divide", "dropout", "input_activation", "maximum", "minimum",
    "multiply", "power", "prelu", "softmax", "subtract", "unary",
}  # fmt: skip
"""Operations whose output at a pixel depends on their inputs at that pixel alone.

Concatenation along the channels is one of them.
"""


@dataclass(frozen=True)
class ReceptiveField:
    """What the units of a layer see of the input; each pair is (vertical, horizontal), in pixels.

    Attributes:
        size: height and width of a unit's field.
        stride: step from a unit's field to its neighbour's; (0, 0) if every unit sees the whole
            image.
        offset: first row and column that unit (0, 0) sees; negative in the padding.
    """

    size: Pair
    stride: Pair
    offset: Pair

    def box(self, row: int, column: int) -> tuple[Pair, Pair]:
        """((top, bottom), (left, right)) that a unit sees, ends exclusive.

        Values below 0 or beyond the image lie in the padding.
        """
        top, left = self.offset[0] + row * self.stride[0], self.offset[1] + column * self.stride[1]
        return (top, top + self.size[0]), (left, left + self.size[1])

    def padded(self, first: Pair) -> ReceptiveField:
        """The field of these units with `first` rows and columns of padding before them."""
        return replace(self, offset=_pair(s - p * j for s, p, j in zip(self.offset, first, self.stride, strict=True)))

    def through(self, window: Geometry) -> ReceptiveField:
        """The field of the units that a sliding window makes of these units."""
        (top, _), (left, _) = window.padding
        return replace(
            self.padded((top, left)),
            size=_pair(
                n + (e - 1) * j for n, e, j in zip(self.size, window.effective_window, self.stride, strict=True)
            ),
            stride=_pair(j * t for j, t in zip(self.stride, window.stride, strict=True)),
        )


def receptive_fields(model: Module, input_shape: tuple[int, int, int]) -> dict[str, ReceptiveField]:
    """The receptive field of every innermost layer, by name, in the order they run.

    Fields follow from the geometry of each operation on the tape of one run. Those of residual and
    concatenated branches are united. An operation that mixes pixels in another way (a dense layer,
    a mean of all pixels) is taken to see the whole image, which is an upper bound.

    Args:
        input_shape: (H, W, C) of one image.
    """
    if len(input_shape) != 3:
        raise ValueError(f"receptive_fields: input_shape is {input_shape} but takes (H, W, C)")
    with inference("receptive_fields", model):
        x = as_input(model, np.zeros((1, *input_shape), np.float32))
        _, outputs = run("receptive_fields", model, x, None)
    return {name: field_of(y, x) for name, y in outputs.items()}


def field_of(y: Tensor, x: Tensor) -> ReceptiveField:
    """The field of y's units in x (N, H, W, C)."""
    whole = ReceptiveField(_pair(x.shape[1:3]), (0, 0), (0, 0))
    known: dict[Creator, ReceptiveField | None] = {}

    def of(t: Tensor | None) -> ReceptiveField | None:
        """The field of t's units; None if t does not depend on x."""
        if t is x:
            return ReceptiveField((1, 1), (1, 1), (0, 0))
        if t is None or t.creator is None:
            return None
        if t.creator not in known:
            known[t.creator] = after(t, t.creator)
        return known[t.creator]

    def after(t: Tensor, function: Creator) -> ReceptiveField | None:
        seen = [(each, field) for each in function.inputs if (field := of(each)) is not None and each is not None]
        if not seen:
            return None
        if function.name in WINDOWS:
            slid = _slid(function, seen[0][1])
            residual = of(function.inputs[3]) if function.name == "conv2d" else None
            return slid if residual is None else _united((slid, residual), whole)
        if function.name == "pad2d":
            return seen[0][1].padded(vars(function)["first"])
        alike = all(each.ndim == 4 and each.shape[:3] == t.shape[:3] for each, _ in seen)
        return _united((field for _, field in seen), whole) if function.name in BY_PIXEL and alike else whole

    return of(y) or whole


def _slid(function: Any, field: ReceptiveField) -> ReceptiveField:
    """The field after a sliding window, and after the pool that a convolution may have fused."""
    if function.name != "conv2d":
        return field.through(function.geometry)
    field = field.through(function.conv.geometry)
    return field if function.conv.pool is None else field.through(function.conv.pool)


def _pair(axes: Iterable[int]) -> Pair:
    """Two numbers as a pair."""
    vertical, horizontal = axes
    return vertical, horizontal


def _united(fields: Iterable[ReceptiveField], whole: ReceptiveField) -> ReceptiveField:
    """The smallest field that contains all fields; the whole image if their strides differ."""
    each = list(fields)
    if len({field.stride for field in each}) > 1 or each[0].stride == (0, 0):
        return whole
    first = [min(field.offset[axis] for field in each) for axis in (0, 1)]
    last = [max(field.offset[axis] + field.size[axis] for field in each) for axis in (0, 1)]
    size = last[0] - first[0], last[1] - first[1]
    return ReceptiveField(size, each[0].stride, (first[0], first[1]))
