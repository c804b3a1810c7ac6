"""The interface of device arrays, and the steps by which a kernel walks through two of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpunet.nvrtc.source import constant


class Arrays(Protocol):
    """What a CUDA backend needs of a device's arrays: CuPy and the emulator provide it.

    An array has `shape`, `dtype`, `size`, `ndim`, `strides` in bytes and `flags.c_contiguous`.
    `reshape` and slices along its first axis are views. The backend uses nothing else of it, since
    every computation is a kernel.
    """

    def owns(self, array: object) -> bool:
        """Return whether `array` is of this kind and on this device."""

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """Allocate an array whose elements are not set."""

    def asarray(self, data: Any, dtype: Any = None) -> Any:
        """Return a C-contiguous array of host or device data; no copy if it is one already."""

    def to_host(self, array: Any) -> np.ndarray:
        """Return a copy of the array on the host."""

    def pointer(self, array: Any) -> int:
        """Return the address of the first element."""

    def synchronize(self) -> None:
        """Wait until every launch and copy on every stream is done."""

    def wait(self) -> None:
        """Wait until every launch and copy on the current stream is done."""

    def used_bytes(self) -> int:
        """Return the bytes of the device that are taken: by arrays, pools and other programs."""

    def free_cached(self) -> None:
        """Give freed memory that does not belong to graphs back to the device."""

    def describe(self) -> dict[str, str]:
        """Describe the device, the driver and the versions."""

    # ---- for capture: see gpunet.cuda.capture

    def pinned(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Allocate host memory from which `upload` can copy without waiting."""

    def upload(self, host: np.ndarray, array: Any) -> None:
        """Copy pinned memory to an array of its shape and dtype; do not wait for the copy."""

    def make_stream(self) -> Any:
        """Make a stream that waits for no other, with CuPy's `begin_capture` and `end_capture`."""

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Make a stream the current one inside a `with`: launches and copies go there."""

    def stream_key(self) -> Hashable:
        """Return a key that differs from those of all other living streams."""

    def make_pool(self) -> Any:
        """Make a memory pool for graphs."""

    def using(self, pool: Any) -> AbstractContextManager[Any]:
        """Take the memory of new arrays from a pool inside a `with`."""

    def empty_pool(self, pool: Any) -> int:
        """Give a pool's unused memory back to the device -> the bytes that arrays still use."""


class View(NamedTuple):
    """A slice, transpose or broadcast of a flat array: strides and offset, in elements."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0


def view(shape: Sequence[int], index: tuple[int | slice | None, ...] = ()) -> View:
    """Return the view ``a[index]`` of a C-contiguous array `a` of `shape`.

    NumPy resolves the index on an array of that shape over a single byte, which is never read.
    """
    strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    whole = as_strided(np.zeros(1, np.int8), tuple(shape), strides, writeable=False)
    part = whole[(*index, ..., None)]  # the new axis makes it an array even if all are integers
    start, first = (a.__array_interface__["data"][0] for a in (whole, part))
    return View(part.shape[:-1], part.strides[:-1], first - start)


def broadcast(shape: Sequence[int], to: Sequence[int]) -> View:
    """Return the view of a C-contiguous array of `shape` that repeats it to the shape `to`."""
    own = view(shape)
    missing = len(to) - len(shape)
    strides = [0 if n == 1 else s for n, s in zip(own.shape, own.strides, strict=True)]
    return View(tuple(to), (*[0] * missing, *strides))


def walk(operation: str, first: View, second: View) -> dict[str, Any]:
    """Return the fields of the struct Walk of kernels/elementwise.cu, for two views of one shape.

    Neighbouring axes are joined if both views can walk through them as one.

    Raises:
        ValueError: more axes remain than the kernel takes.
    """
    axes: list[list[int]] = []
    for axis in zip(first.shape, first.strides, second.strides, strict=True):
        if axis[0] == 1:
            continue
        if axes and axes[-1][1] == axis[0] * axis[1] and axes[-1][2] == axis[0] * axis[2]:
            axes[-1] = [axes[-1][0] * axis[0], axis[1], axis[2]]
        else:
            axes.append(list(axis))
    most = constant("elementwise.cu", "MAX_RANK")
    if len(axes) > most:
        raise ValueError(f"{operation}: {len(axes)} axes that cannot be joined, but CUDA takes up to {most}")
    return {
        "rank": len(axes), **_columns(axes), "first_offset": first.offset, "second_offset": second.offset,
    }  # fmt: skip


def _columns(axes: Sequence[Sequence[int]]) -> dict[str, list[int]]:
    names = ("extent", "first_stride", "second_stride")
    return {name: [axis[i] for axis in axes] for i, name in enumerate(names)}


class TiledWalk(NamedTuple):
    """How `strided_copy_tiled` copies: tiles of two axes, and a walk over the others."""

    number: int
    """Tiles in all."""
    steps: dict[str, Any]
    """The struct Walk of kernels/elementwise.cu, without the two axes."""
    tiles: dict[str, Any]
    """The struct Tiles."""


LEAST_TILE = 256
"""Elements of a tile at least: one for each thread. Smaller transposes are within a few sectors,
which the variant for any strides reads and writes whole too."""
ENOUGH_TILES = 264
"""Tiles that are enough for every device; if there are fewer, they are cut smaller."""


def tiled_walk(steps: dict[str, Any], itemsize: int) -> TiledWalk | None:
    """Return the tiles by which a copy reads and writes neighbouring elements, or None if it does
    so without tiles, or cannot.

    Args:
        steps: of `walk`, for elements of `itemsize` bytes.
    """
    axes = list(zip(steps["extent"], steps["first_stride"], steps["second_stride"], strict=True))
    first, second = ([i for i, axis in enumerate(axes) if abs(axis[side]) == 1] for side in (1, 2))
    if len(first) != 1 or len(second) != 1 or first == second:
        return None
    a, b = axes[first[0]], axes[second[0]]
    across, down = _tile_extents(a[0], b[0], itemsize)
    others = [axis for axis in axes if axis not in (a, b)]

    def count() -> int:
        return prod(axis[0] for axis in others) * -(-a[0] // across) * -(-b[0] // down)

    while count() < ENOUGH_TILES and down > 32 and across * (down // 2) >= LEAST_TILE:
        down //= 2
    if across * down < LEAST_TILE:
        return None
    tiles = {**_columns([a, b]), "across": across, "down": down, "pitch": _pitch(across, down, itemsize)}
    return TiledWalk(count(), {**steps, "rank": len(others), **_columns(others)}, tiles)


def _tile_extents(a: int, b: int, itemsize: int) -> tuple[int, int]:
    """Elements of a tile along axes of `a` and `b` elements: a short axis lets the other be longer."""
    most, room = (constant("elementwise.cu", name) // itemsize for name in ("TILE_BYTES", "TILE_SHARED"))
    row = max(32, 128 // itemsize)
    across = min(a, row)
    down = min(b, most // across, room // _pitch(across, 32, itemsize))
    if across == row and down < 32:
        across = min(a, most // down // row * row)
        while _pitch(across, down, itemsize) * down > room:
            across -= row
    return across, down


def _pitch(across: int, down: int, itemsize: int) -> int:
    """Elements from one row of a tile to the next in shared memory.

    A warp reads columns of `down` elements, several if they are short. No two lanes share a bank if
    a row lies as many banks behind the row before as the columns of a warp take.
    """
    bank = max(itemsize, 4)
    lanes = 128 // bank  # that are served at once
    columns = max(-(-lanes // down) * itemsize // bank, 1)
    banks = -(-across * itemsize // bank)
    return (banks + (columns - banks) % (lanes if down < lanes else 2)) * bank // itemsize
