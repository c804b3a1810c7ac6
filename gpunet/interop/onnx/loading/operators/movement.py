"""Movement of elements: other shapes, other orders, parts and joins."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal, cast

import numpy as np

from gpunet import functional as F
from gpunet.backends.contract import is_float
from gpunet.interop.onnx.loading.operators.registry import choice, operator
from gpunet.interop.onnx.loading.values import (
    Host,
    Value,
    channels_last,
    check_size,
    normal_axis,
    of_images,
    reshaped,
    surrounded,
    without_axes,
)


def part_of(x: Value, key: tuple[Any, ...]) -> Value:
    """x[key], for one slice or array of positions per axis of ONNX, all of which stay."""
    if all(isinstance(part, slice) and part == slice(None) for part in key):
        return x
    in_order = tuple(key[axis] for axis in x.order)
    return Value(x.array[in_order], x.order)


@operator("Identity")
def identity(x: Value) -> Value:
    """x itself."""
    return x


@operator("Flatten")
def flatten(x: Value, *, axis: int = 1) -> Value:
    """A matrix: the axes before `axis` are its rows."""
    if not -x.ndim <= axis <= x.ndim:
        raise ValueError(f"attribute axis is {axis} but x has {x.ndim} axes")
    at = axis + x.ndim if axis < 0 else axis
    shape = x.shape
    return Value(reshaped(x.ordered(), (prod(shape[:at]), prod(shape[at:]))))


@operator("Reshape", parameters={"x": None})
def reshape(x: Value, shape: Host, *, allowzero: int = 0) -> Value:
    """x in another shape; an extent of 0 is x's own unless `allowzero`, one of -1 is computed."""
    wanted, own = list(shape.integers()), x.shape
    for i, extent in enumerate(wanted):
        if extent == 0 and not allowzero:
            if i >= len(own):
                raise ValueError(f"shape {wanted} takes extent {i} of x, which has shape {own}")
            wanted[i] = own[i]
    if wanted.count(-1) == 1:
        known, size = prod(n for n in wanted if n != -1), prod(own)
        if known and size % known == 0:
            wanted[wanted.index(-1)] = size // known
    if min(wanted, default=0) < 0 or prod(wanted) != prod(own):
        raise ValueError(f"{prod(own)} elements of shape {own} do not fill shape {wanted}")
    return Value(reshaped(x.ordered(), wanted))


@operator("Transpose", parameters={"x": None})
def transpose(x: Value, *, perm: Sequence[int] | None = None) -> Value:
    """x with its axes in another order: only the record of where axes lie changes, no element moves."""
    axes = tuple(range(x.ndim))[::-1] if perm is None else tuple(int(axis) for axis in perm)
    if sorted(axes) != list(range(x.ndim)):
        raise ValueError(f"attribute perm is {list(axes)} but x has {x.ndim} axes")
    moved = Value(x.array, tuple(axes.index(axis) for axis in x.order))
    return moved if moved.is_tensor else Value(np.asarray(moved.array).transpose(axes))


@operator("Concat")
def concat(*values: Value, axis: int) -> Value:
    """The values one after another along an axis."""
    first, at = values[0], normal_axis(values[0], axis)
    if any(v.ndim != first.ndim for v in values):
        raise ValueError(f"shapes {', '.join(str(v.shape) for v in values)} have different numbers of axes")
    if not any(v.is_tensor for v in values):
        return Value(np.concatenate([v.host() for v in values], at))
    plain = tuple(range(first.ndim))
    order = next((v.order for v in values if v.order != plain), plain)
    return Value(F.concatenate([v.ordered(order) for v in values], order.index(at)), order)


@operator("Split")
def split(
    x: Value,
    sizes: Host | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    split: Sequence[int] | None = None,
    outputs: int = 1,
) -> list[Value]:
    """Parts of x along an axis, of these sizes, or of equal ones but for a smaller last one."""
    at = normal_axis(x, axis)
    extent = x.shape[at]
    if num_outputs is not None and num_outputs != outputs:
        raise ValueError(f"attribute num_outputs is {num_outputs} but the node has {outputs} outputs")
    size = -(-extent // outputs)
    equal = [min(size, max(extent - i * size, 0)) for i in range(outputs)]
    lengths = list(sizes.integers()) if sizes is not None else list(split) if split is not None else equal
    if sum(lengths) != extent or min(lengths) < 0 or len(lengths) != outputs:
        raise ValueError(f"sizes {lengths} do not divide the {extent} elements of axis {axis} into {outputs} outputs")
    stops = np.cumsum(lengths).tolist()
    spans = (slice(stop - length, stop) for stop, length in zip(stops, lengths, strict=True))
    return [part_of(x, tuple(span if i == at else slice(None) for i in range(x.ndim))) for span in spans]


@operator("Slice")
def slice_(
    x: Value,
    starts_in: Host | None = None,
    ends_in: Host | None = None,
    axes_in: Host | None = None,
    steps_in: Host | None = None,
    *,
    starts: Sequence[int] | None = None,
    ends: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
) -> Value:
    """x[start:end:step] along axes; attributes up to opset 9, inputs later."""
    first = starts_in.integers() if starts_in is not None else tuple(starts or ())
    last = ends_in.integers() if ends_in is not None else tuple(ends or ())
    along = axes_in.integers() if axes_in is not None else tuple(axes) if axes is not None else range(len(first))
    steps = steps_in.integers() if steps_in is not None else (1,) * len(first)
    if not len(first) == len(last) == len(along) == len(steps):
        raise ValueError(f"starts {first}, ends {last}, axes {tuple(along)} and steps {steps} are not of one length")
    key: list[slice] = [slice(None)] * x.ndim
    for begin, end, axis, step in zip(first, last, along, steps, strict=True):
        if step == 0:
            raise ValueError("a step is 0")
        extent = x.shape[normal_axis(x, axis)]
        stop: int | None = end
        if step < 0:
            begin = max(begin, -extent)  # ONNX begins with the first element where Python takes none
            stop = None if end < -extent else end  # beyond the first element, which Python writes as None
        key[axis % x.ndim] = slice(begin, stop, step)
    return part_of(x, tuple(key))


@operator("Gather", parameters={"x": None})
def gather(x: Value, indices: Host, *, axis: int = 0) -> Value:
    """The elements at these positions of an axis, which negative ones count from the end."""
    at, positions = normal_axis(x, axis), indices.host()
    extent = x.shape[at]
    if positions.dtype.kind not in "iu":
        raise TypeError(f"indices are {positions.dtype} but must be integers")
    if positions.size and not -extent <= positions.min() <= positions.max() < extent:
        raise ValueError(f"indices from {positions.min()} to {positions.max()} do not fit axis {axis} of {x.shape}")
    key = (*(slice(None),) * at, np.where(positions < 0, positions + extent, positions).astype(np.int64))
    return Value(x.ordered()[key] if x.is_tensor else np.asarray(x.host()[cast(Any, key)]))


@operator("GatherND")
def gather_nd(x: Value, indices: Host, *, batch_dims: int = 0) -> Value:
    """The parts of x at positions that the last axis of the indices holds."""
    choice("batch_dims", batch_dims, 0)
    positions = indices.host()
    depth = positions.shape[-1] if positions.ndim else 0
    if positions.dtype.kind not in "iu" or not 1 <= depth <= x.ndim:
        raise ValueError(f"indices of {positions.dtype} and shape {positions.shape} do not fit x of shape {x.shape}")
    key = tuple(positions[..., i].astype(np.int64) for i in range(depth))
    return Value(x.ordered()[key] if x.is_tensor else np.asarray(x.host()[key]))


@operator("Squeeze")
def squeeze(x: Value, axes_in: Host | None = None, *, axes: Sequence[int] | None = None) -> Value:
    """x without axes of extent 1: the given ones, or all."""
    given = axes_in.integers() if axes_in is not None else axes
    gone = {normal_axis(x, a) for a in given} if given is not None else {i for i, n in enumerate(x.shape) if n == 1}
    if any(x.shape[axis] != 1 for axis in gone):
        raise ValueError(f"axes {sorted(gone)} of shape {x.shape} are not all of extent 1")
    return without_axes(x, gone)


@operator("Unsqueeze", parameters={"x": None})
def unsqueeze(x: Value, axes_in: Host | None = None, *, axes: Sequence[int] | None = None) -> Value:
    """x with new axes of extent 1 at these places of the result."""
    given = axes_in.integers() if axes_in is not None else tuple(axes or ())
    ndim = x.ndim + len(given)
    if not all(-ndim <= axis < ndim for axis in given) or len({axis % ndim for axis in given}) < len(given):
        raise ValueError(f"axes {list(given)} do not fit a result of {ndim} axes, each once")
    new = {axis % ndim for axis in given}
    old = [axis for axis in range(ndim) if axis not in new]
    order = (*sorted(new), *(old[axis] for axis in x.order))
    return Value(reshaped(x.array, (1,) * len(new) + tuple(x.array.shape)), order)


@operator("Expand")
def expand(x: Value, shape: Host) -> Value:
    """x repeated to a shape, as broadcasting does."""
    wanted = check_size(np.broadcast_shapes(x.shape, check_size(shape.integers(), x.size)), x.size)
    if not x.is_tensor:
        return Value(np.broadcast_to(x.host(), wanted).copy())
    return Value(_repeated(x.deep(len(wanted)).ordered(), wanted))


def _repeated(array: Any, shape: Sequence[int]) -> Any:
    """A tensor whose axes of extent 1 are repeated to a shape; the gradient adds the repeats up."""
    for axis, (have, want) in enumerate(zip(array.shape, shape, strict=True)):
        if have != want:
            array = F.index(array, (*(slice(None),) * axis, np.zeros(want, np.int64)))
    return array


@operator("Tile")
def tile(x: Value, repeats: Host) -> Value:
    """x repeated along its axes."""
    counts = repeats.integers()
    if len(counts) != x.ndim:
        raise ValueError(f"repeats {list(counts)} are not one per axis of {x.shape}")
    check_size([n * count for n, count in zip(x.shape, counts, strict=True)], x.size)
    if not x.is_tensor:
        return Value(np.tile(x.host(), counts))
    key = [
        np.tile(np.arange(n), count) if count != 1 else slice(None) for n, count in zip(x.shape, counts, strict=True)
    ]
    return _taken(x, key)


def _taken(x: Value, key: Sequence[Any]) -> Value:
    """x with positions taken along each axis in turn; a whole slice leaves an axis as it is."""
    array = x.array
    for at, axis in enumerate(x.order):
        if not isinstance(key[axis], slice):
            array = array[(*(slice(None),) * at, key[axis])]
    return Value(array, x.order)


@operator("Pad")
def pad(
    x: Value,
    pads_in: Host | None = None,
    value_in: Host | None = None,
    axes_in: Host | None = None,
    *,
    mode: str = "constant",
    pads: Sequence[int] | None = None,
    value: float = 0.0,
) -> Value:
    """Put elements around x: a constant, mirrored, the edge's, or x again; negative pads cut off."""
    choice("mode", mode, "constant", "reflect", "edge", "wrap")
    given = pads_in.integers() if pads_in is not None else tuple(pads or ())
    along = [normal_axis(x, a) for a in axes_in.integers()] if axes_in is not None else list(range(x.ndim))
    if len(given) != 2 * len(along):
        raise ValueError(f"pads {list(given)} are not two for each of the axes {along}")
    sides = [(0, 0)] * x.ndim
    for i, axis in enumerate(along):
        sides[axis] = (given[i], given[i + len(along)])
    wanted = [n + max(before, 0) + max(after, 0) for n, (before, after) in zip(x.shape, sides, strict=True)]
    check_size(wanted, x.size)
    cut = tuple(slice(max(-b, 0), n - max(-a, 0)) for n, (b, a) in zip(x.shape, sides, strict=True))
    x, sides = part_of(x, cut), [(max(b, 0), max(a, 0)) for b, a in sides]
    filled = value if value_in is None else value_in.number()
    if x.is_tensor and is_float(x.dtype) and _is_spatial(x, sides, mode, filled):
        names: dict[str, Literal["zero", "reflect", "edge"]] = {
            "constant": "zero",
            "reflect": "reflect",
            "edge": "edge",
        }
        return of_images(F.pad2d(x.images(), (sides[2], sides[3]), mode=names[mode]))
    if mode == "constant":
        if not x.is_tensor:
            return Value(np.pad(x.host(), sides, constant_values=filled))
        return Value(surrounded(x.array, [sides[axis] for axis in x.order], filled), x.order)
    key = [np.pad(np.arange(n), around, cast(Any, mode)) for n, around in zip(x.shape, sides, strict=True)]
    kept = [slice(None) if around == (0, 0) else places for places, around in zip(key, sides, strict=True)]
    return _taken(x, kept)


def _is_spatial(x: Value, sides: Sequence[tuple[int, int]], mode: str, value: float) -> bool:
    """Whether gpunet's own padding of images does the same."""
    if x.ndim != 4 or mode == "wrap" or sides[:2] != [(0, 0)] * 2 or 0 in x.shape[1:]:
        return False
    return (
        value == 0
        if mode == "constant"
        else mode == "edge" or all(max(s) < n for s, n in zip(sides, x.shape, strict=True))
    )


@operator("DepthToSpace")
def depth_to_space(x: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    """Channels spread over blocks of pixels: (N, C, H, W) -> (N, C / b^2, H b, W b)."""
    images, b = x.tensor(channels_last(4)) if x.ndim == 4 else x.images(), blocksize
    n, h, w, c = images.shape
    if b < 1 or c % (b * b):
        raise ValueError(f"attribute blocksize is {b}, whose square does not divide {c} channels")
    if choice("mode", mode, "DCR", "CRD") == "DCR":
        parts = F.transpose(F.reshape(images, n, h, w, b, b, c // b**2), 0, 1, 3, 2, 4, 5)
    else:
        parts = F.transpose(F.reshape(images, n, h, w, c // b**2, b, b), 0, 1, 4, 2, 5, 3)
    return of_images(F.reshape(parts, n, h * b, w * b, c // b**2))


@operator("SpaceToDepth")
def space_to_depth(x: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    """Blocks of pixels gathered in channels: (N, C, H b, W b) -> (N, C b^2, H, W)."""
    images, b = x.images(), blocksize
    n, h, w, c = images.shape
    if b < 1 or h % b or w % b:
        raise ValueError(f"attribute blocksize is {b}, which does not divide images of {h} x {w}")
    blocks = F.reshape(images, n, h // b, b, w // b, b, c)
    axes = (0, 1, 3, 2, 4, 5) if choice("mode", mode, "DCR", "CRD") == "DCR" else (0, 1, 3, 5, 2, 4)
    return of_images(F.reshape(F.transpose(blocks, axes), n, h // b, w // b, c * b * b))
