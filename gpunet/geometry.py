"""Sliding windows: output extents, resolved padding, and the errors of shapes that do not fit.

With n pixels, a window of f pixels, dilation d (so an effective window of e = d (f - 1) + 1),
stride s and padding p before and q after, the output has floor((n + p + q - e) / s) + 1 pixels.
There are three ways to give the padding:

- an integer or a pair: the textbook's, with p = q;
- ``"valid"``: no padding; ``"same"``: TensorFlow's, with output ceil(n / s) and the odd pixel
  padded at the end;
- ``((top, bottom), (left, right))``: each side by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from typing import Literal

Pair = tuple[int, int]
Shape4 = tuple[int, int, int, int]
Padding = int | Pair | tuple[Pair, Pair] | Literal["same", "valid"]
Sides = tuple[Pair, Pair] | Literal["same", "valid"]


@dataclass(frozen=True, slots=True)
class Geometry:
    """A sliding-window operation over x (N, H, W, C), with everything resolved to pixels."""

    x_shape: Shape4
    window: Pair
    """(KH, KW), in pixels, before dilation."""
    filters: int
    """O: channels of the output; C for pooling."""
    stride: Pair
    padding: tuple[Pair, Pair]
    """((top, bottom), (left, right)), in pixels."""
    dilation: Pair
    groups: int
    y_shape: Shape4
    """(N, OH, OW, O)."""
    beyond: Pair = (0, 0)
    """(rows, columns) that `ceil_mode` adds to a pool's padding, and that no mean counts."""

    @staticmethod
    def conv(
        x_shape: Sequence[int], w_shape: Sequence[int], *, stride: int | Pair = 1, padding: Padding = 0,
        dilation: int | Pair = 1, groups: int = 1, operation: str = "conv2d",
    ) -> Geometry:  # fmt: skip
        """Geometry of a convolution of x (N, H, W, C) with filters (KH, KW, C // groups, O).

        Raises:
            ValueError: a shape, stride, padding or number of groups that does not fit; the message
                names it.
            TypeError: a stride, dilation or number of groups that is not an integer.
        """
        x_shape, w_shape = tuple(x_shape), tuple(w_shape)
        if len(x_shape) != 4:
            raise ValueError(f"{operation}: x has shape {x_shape} but takes 4 axes (N, H, W, C)")
        if len(w_shape) != 4:
            raise ValueError(f"{operation}: weight has shape {w_shape} but takes 4 axes (KH, KW, C // groups, O)")
        kh, kw, taken, filters = w_shape
        channels = x_shape[3]
        groups = positive_int(operation, "groups", groups)
        if channels % groups or filters % groups:
            counts = f"the channels of x ({channels}) and the filters of weight ({filters})"
            raise ValueError(f"{operation}: groups={groups} must divide {counts}")
        if channels != taken * groups:
            each = "" if groups == 1 else f" in each of {groups} groups"
            shapes = f"(x {x_shape}, weight {w_shape})"
            raise ValueError(f"{operation}: x has {channels} channels but weight expects {taken}{each} {shapes}")
        return _resolve(
            operation, x_shape, (kh, kw), filters, pair(operation, "stride", stride), sides_of(operation, padding),
            pair(operation, "dilation", dilation), groups,
        )  # fmt: skip

    @staticmethod
    def pool(
        x_shape: Sequence[int], window: int | Pair, *, stride: int | Pair | None = None, padding: Padding = 0,
        ceil_mode: bool = False, operation: str = "pool2d",
    ) -> Geometry:  # fmt: skip
        """Geometry of pooling x (N, H, W, C) over `window`; a stride of None is the window.

        With `ceil_mode`, an axis has one more window where the others leave pixels over,
        ceil((n + p + q - f) / s) + 1 in all, unless this window would start behind the image.

        Raises:
            ValueError, TypeError: as for :meth:`conv`; also a padding that is not smaller than the
                window, since a window could then lie wholly in the padding.
        """
        x_shape = tuple(x_shape)
        if len(x_shape) != 4:
            raise ValueError(f"{operation}: x has shape {x_shape} but takes 4 axes (N, H, W, C)")
        window = pair(operation, "kernel_size", window)
        steps = window if stride is None else pair(operation, "stride", stride)
        if not isinstance(ceil_mode, bool):
            raise TypeError(f"{operation}: ceil_mode must be True or False, got {ceil_mode!r}")
        sides = sides_of(operation, padding)
        geometry = _resolve(operation, x_shape, window, x_shape[3], steps, sides, (1, 1), 1, ceil_mode)
        given = geometry.counted_padding
        if any(max(around) >= extent for around, extent in zip(given, window, strict=True)):
            raise ValueError(f"{operation}: padding {given} must be smaller than kernel_size {window}")
        return geometry

    @property
    def w_shape(self) -> Shape4:
        """(KH, KW, C // groups, O)."""
        return (*self.window, self.x_shape[3] // self.groups, self.filters)

    @property
    def counted_padding(self) -> tuple[Pair, Pair]:
        """The padding without what `ceil_mode` added."""
        (top, bottom), (left, right) = self.padding
        return (top, bottom - self.beyond[0]), (left, right - self.beyond[1])

    @property
    def padded(self) -> bool:
        """Whether any side is padded."""
        return self.padding != ((0, 0), (0, 0))

    @property
    def padded_extents(self) -> Pair:
        """Height and width of an image with its padding."""
        (top, bottom), (left, right) = self.padding
        return top + self.x_shape[1] + bottom, left + self.x_shape[2] + right

    @property
    def image(self) -> tuple[slice, slice]:
        """The rows and columns of a padded image where the image itself lies."""
        (top, _), (left, _) = self.padding
        return slice(top, top + self.x_shape[1]), slice(left, left + self.x_shape[2])

    @property
    def pixels(self) -> int:
        """Pixels of the output of all images: N OH OW."""
        n, oh, ow, _ = self.y_shape
        return n * oh * ow

    @property
    def pointwise(self) -> bool:
        """Whether this is a 1x1 convolution that reads every pixel once: a matrix product."""
        return self.window == (1, 1) and self.stride == (1, 1) and not self.padded and self.groups == 1

    @property
    def effective_window(self) -> Pair:
        """Extent that a dilated window covers, in pixels: d (f - 1) + 1."""
        (kh, kw), (dh, dw) = self.window, self.dilation
        return dh * (kh - 1) + 1, dw * (kw - 1) + 1

    @property
    def mask_dtype(self) -> str:
        """The smallest dtype of a max-pool mask that can hold every position in the window."""
        positions = self.window[0] * self.window[1]
        return "uint8" if positions <= 256 else "uint16" if positions <= 65536 else "int32"

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the convolution's forward pass, including those of padding."""
        n, oh, ow, o = self.y_shape
        kh, kw = self.window
        return n * oh * ow * o * kh * kw * (self.x_shape[3] // self.groups)


@lru_cache(maxsize=4096)
def _resolve(
    operation: str, x_shape: Shape4, window: Pair, filters: int, stride: Pair, padding: Sides, dilation: Pair, groups: int,
    ceil_mode: bool = False,
) -> Geometry:  # fmt: skip
    for extent, least in zip((*x_shape, *window, filters), (0, *[1] * 6), strict=True):
        if not isinstance(extent, Integral) or extent < least:
            got = f"x {x_shape} with window {window} and {filters} filters"
            raise ValueError(f"{operation}: every extent but the number of images must be at least 1, got {got}")
    effective = [d * (f - 1) + 1 for f, d in zip(window, dilation, strict=True)]
    pads = _pads(padding, x_shape[1:3], effective, stride)
    sizes, beyond = [], []
    for axis, n, e, s, (before, after) in zip(("height", "width"), x_shape[1:3], effective, stride, pads, strict=True):
        left = n + before + after - e  # pixels beside the first window
        if left + (s - 1) * ceil_mode < 0:
            padded = f"{n} + {before} + {after} pixels (x {x_shape})"
            raise ValueError(f"{operation}: a window of {e} pixels is larger than the padded {axis} of x, {padded}")
        steps = left // s
        if ceil_mode and left % s and (steps + 1) * s < n + before:
            steps += 1
        sizes.append(steps + 1)
        beyond.append(max(steps * s - left, 0))
    y_shape = (x_shape[0], sizes[0], sizes[1], filters)
    (top, bottom), (west, east) = pads
    reached = (top, bottom + beyond[0]), (west, east + beyond[1])
    return Geometry(x_shape, window, filters, stride, reached, dilation, groups, y_shape, (beyond[0], beyond[1]))


def _pads(padding: Sides, extents: Sequence[int], effective: Sequence[int], stride: Pair) -> tuple[Pair, Pair]:
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        total = [max((-(-n // s) - 1) * s + e - n, 0) for n, e, s in zip(extents, effective, stride, strict=True)]
        return (total[0] // 2, total[0] - total[0] // 2), (total[1] // 2, total[1] - total[1] // 2)
    return padding


def sides_of(operation: str, padding: object) -> Sides:
    """The padding, checked and as integers unless it is a name: a cache would take 1.0 for 1."""
    if isinstance(padding, str) and padding in ("same", "valid"):
        return "same" if padding == "same" else "valid"
    axes = padding if isinstance(padding, list | tuple) else (padding, padding)
    sides = [tuple(axis) if isinstance(axis, list | tuple) else (axis, axis) for axis in axes]
    if [len(side) for side in sides] != [2, 2] or not all(isinstance(v, Integral) for side in sides for v in side):
        takes = 'an integer, (vertical, horizontal), ((top, bottom), (left, right)), "same" or "valid"'
        raise ValueError(f"{operation}: padding is {padding!r} but takes {takes}")
    (top, bottom), (left, right) = sides
    if min(top, bottom, left, right) < 0:
        raise ValueError(f"{operation}: padding must not be negative, got {padding}")
    return (int(top), int(bottom)), (int(left), int(right))


def checked_int(operation: str, argument: str, value: object, *, least: int) -> int:
    """An integer of at least `least`, or an error that names operation and argument."""
    if not isinstance(value, Integral):
        raise TypeError(f"{operation}: {argument} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{operation}: {argument} must be at least {least}, got {value}")
    return int(value)


def positive_int(operation: str, argument: str, value: object) -> int:
    """An integer of at least 1, checked by `checked_int`."""
    return checked_int(operation, argument, value, least=1)


def pair(operation: str, argument: str, value: object) -> Pair:
    """(vertical, horizontal) from one integer or two, each at least 1."""
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise ValueError(f"{operation}: {argument} must be one integer or two, got {value!r}")
        return positive_int(operation, argument, value[0]), positive_int(operation, argument, value[1])
    one = positive_int(operation, argument, value)
    return one, one
