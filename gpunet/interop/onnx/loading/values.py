"""What flows between the nodes of an ONNX graph: arrays whose axes may lie in another order.

ONNX's images are (N, C, H, W) and gpunet's (N, H, W, C). A `Value` therefore keeps an array and the
order in which ONNX's axes lie in it. An operator asks for the order that it computes in; a
transposition changes the order and moves nothing, and elements are moved only where an operator
needs another order than the one before it left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpunet import functional as F
from gpunet.autograd import Tensor

Order = tuple[int, ...]
"""Axis i of the array is ONNX's axis order[i]."""

MOST_ELEMENTS, MOST_TIMES = 1 << 26, 256
"""A result may have so many elements, or so many times those of its input: a few bytes of a file may
ask for any extents."""


class Value:
    """An array of a running graph.

    Attributes:
        array: a tensor; or an array of the host, in ONNX's order. Integers and booleans that a
            graph computes with, such as shapes, stay on the host.
        order: where ONNX's axes lie in it.
    """

    __slots__ = ("_others", "array", "order")

    def __init__(self, array: Any, order: Order | None = None):
        self.array = array
        self.order = tuple(range(len(array.shape))) if order is None else order
        self._others: dict[Order, Any] = {}

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.order)

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents in ONNX's order."""
        extents = self.array.shape
        return tuple(extents[self.order.index(axis)] for axis in range(self.ndim))

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(self.array.size)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the elements."""
        return self.array.dtype

    @property
    def is_tensor(self) -> bool:
        """Whether the array is a tensor, not an array of the host."""
        return isinstance(self.array, Tensor)

    def axis(self, axis: int) -> int:
        """Where ONNX's axis, which may be negative, lies in the array."""
        if not -self.ndim <= axis < self.ndim:
            raise ValueError(f"axis is {axis} but the value has {self.ndim} axes")
        return self.order.index(axis % self.ndim)

    def ordered(self, order: Order | None = None) -> Any:
        """The array with its axes in this order; ONNX's if None."""
        wanted = tuple(range(self.ndim)) if order is None else order
        if wanted == self.order:
            return self.array
        if wanted not in self._others:
            self._others[wanted] = self._moved(wanted)
        return self._others[wanted]

    def _moved(self, order: Order) -> Any:
        axes = tuple(self.order.index(axis) for axis in order)
        extents = tuple(self.array.shape[axis] for axis in axes)
        long = [axis for axis in axes if self.array.shape[axis] != 1]
        if long == sorted(long):  # axes of extent 1 move without their elements
            return reshaped(self.array, extents)
        return F.transpose(self.array, axes) if isinstance(self.array, Tensor) else self.array.transpose(axes)

    def channels_last(self) -> Any:
        """The array with axis 1, the channels, behind the others: (N, H, W, C) for images."""
        return self.ordered(channels_last(self.ndim))

    def images(self) -> Tensor:
        """The tensor as (N, H, W, C); an error if it is no batch of images."""
        if self.ndim != 4:
            raise ValueError(f"takes images, 4 axes (N, C, H, W), got shape {self.shape}")
        return self.tensor(channels_last(4))

    def tensor(self, order: Order | None = None) -> Tensor:
        """The array in this order, which must be a tensor of floats."""
        array = self.ordered(order)
        if not isinstance(array, Tensor):
            raise TypeError(f"takes floats that the graph computes, got {self.dtype} of the host")
        return array

    def host(self) -> np.ndarray:
        """The values on the host, in ONNX's order; this waits for a device."""
        array = self.ordered()
        return array.numpy() if isinstance(array, Tensor) else array

    def integers(self) -> tuple[int, ...]:
        """The values as Python's integers."""
        values = self.host()
        if values.dtype.kind not in "iu":
            raise TypeError(f"takes integers, got {values.dtype}")
        return tuple(int(n) for n in values.reshape(-1))

    def number(self) -> float:
        """The one element as a number."""
        values = self.host()
        if values.size != 1:
            raise ValueError(f"takes one number, got shape {self.shape}")
        return values.reshape(-1)[0].item()

    def deep(self, ndim: int) -> Value:
        """The value with axes of extent 1 before its own, as broadcasting adds them."""
        new = ndim - self.ndim
        if new <= 0:
            return self
        order = (*range(new), *(axis + new for axis in self.order))
        return Value(reshaped(self.array, (1,) * new + tuple(self.array.shape)), order)


Host = Value
"""An input that an operator reads on the host, such as a shape."""


def channels_last(ndim: int) -> Order:
    """The order with ONNX's axis 1 behind all others; as it is without a second axis."""
    return (0, *range(2, ndim), 1) if ndim > 2 else tuple(range(ndim))


def of_images(y: Tensor) -> Value:
    """The value of a tensor whose channels lie in the last axis, such as (N, H, W, C)."""
    return Value(y, channels_last(y.ndim))


def reshaped(array: Any, shape: Sequence[int]) -> Any:
    """A tensor or a host array in another shape."""
    return F.reshape(array, *shape) if isinstance(array, Tensor) else array.reshape(tuple(shape))


def surrounded(array: Tensor, sides: Sequence[tuple[int, int]], value: float) -> Tensor:
    """A tensor with a constant around it, on so many (before, after) places of each axis."""
    for axis, around in enumerate(sides):
        before, after = (
            [np.full((*array.shape[:axis], width, *array.shape[axis + 1 :]), value, array.dtype)] if width else []
            for width in around
        )
        array = F.concatenate([*before, array, *after], axis) if before or after else array
    return array


def normal_axis(x: Value, axis: int) -> int:
    """ONNX's axis, counted from the front.

    Raises:
        ValueError: x has no such axis.
    """
    return x.order[x.axis(axis)]


def without_axes(x: Value, axes: set[int]) -> Value:
    """x without some of ONNX's axes, which have extent 1."""
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    order = tuple(kept.index(axis) for axis in x.order if axis not in axes)
    extents = [n for n, axis in zip(x.array.shape, x.order, strict=True) if axis not in axes]
    return Value(reshaped(x.array, extents), order)


def aligned(*values: Value) -> tuple[list[Any], Order]:
    """(arrays that broadcast with each other as ONNX says, the order of their result).

    The order is that of the first value with all axes that is not in ONNX's order, so that images
    stay as they are and the rest is moved beside them. Arrays of the host are made numbers where
    they have one element, and tensors take them as they are otherwise.
    """
    ndim = max(v.ndim for v in values)
    plain = tuple(range(ndim))
    order = next((v.order for v in values if v.ndim == ndim and v.order != plain), plain)
    arrays = []
    for v in values:
        array = v.deep(ndim).ordered(order)
        beside = any(other is not v and other.ndim == ndim for other in values)
        if beside and not isinstance(array, Tensor) and array.size == 1 and array.dtype.kind in "fiu":
            array = array.item()
        arrays.append(array)
    return arrays, order


def check_size(shape: Sequence[int], size: int = 1) -> tuple[int, ...]:
    """The extents of a result, unless they are negative or too many for an input of `size` elements."""
    count, most = 1, max(MOST_ELEMENTS, MOST_TIMES * size)
    for extent in shape:
        count *= int(extent)
        if extent < 0:
            raise ValueError(f"a result of shape {tuple(shape)} has a negative extent")
    if count > most:
        raise ValueError(f"a result of shape {tuple(shape)} has more than {most} elements, for an input of {size}")
    return tuple(int(extent) for extent in shape)
