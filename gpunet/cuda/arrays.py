"""What a CUDA backend asks of the arrays it runs on, and how two of them are walked together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpunet.nvrtc.source import constant


class Arrays(Protocol):
    """Device arrays: CuPy's, or an emulator's.

    An array has `shape`, `dtype`, `size`, `ndim`, `strides` in bytes, `flags.c_contiguous`, and without a copy
    `reshape` and slices along its first axis. Nothing more is used of it: every computation is a kernel.
    """

    def owns(self, array: object) -> bool:
        """Whether `array` is of this kind and on this device."""

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """An array whose elements are not set."""

    def asarray(self, data: Any, dtype: Any = None) -> Any:
        """A C-contiguous array of host data or of an array of this kind; no copy if it is one."""

    def to_host(self, array: Any) -> np.ndarray:
        """The array on the host."""

    def pointer(self, array: Any) -> int:
        """Address of the first element."""

    def synchronize(self) -> None:
        """Wait until every launch and copy is done, on whichever stream."""

    def wait(self) -> None:
        """Wait until what the current stream was asked for is done."""

    def used_bytes(self) -> int:
        """Bytes of the device's memory that are taken: by arrays, by pools that keep freed memory, by other programs."""

    def free_cached(self) -> None:
        """Give back to the device what arrays outside of graphs no longer use."""

    def describe(self) -> dict[str, str]:
        """Device, driver and versions."""

    # ---- for capture: see gpunet.cuda.capture

    def pinned(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Host memory from which `upload` does not wait, its elements not set."""

    def upload(self, host: np.ndarray, array: Any) -> None:
        """Copy host memory to an array of its shape and dtype, on the current stream, without waiting for it."""

    def make_stream(self) -> Any:
        """A stream that waits for no other, with CuPy's `begin_capture` and `end_capture`."""

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Make a stream the current one: launches and copies go there."""

    def stream_key(self) -> Hashable:
        """What tells the current stream from all others that are there."""

    def make_pool(self) -> Any:
        """Memory of a graph's own."""

    def using(self, pool: Any) -> AbstractContextManager[Any]:
        """Take the memory of new arrays from a pool."""

    def empty_pool(self, pool: Any) -> int:
        """Give back to the device what no array uses of a graph's memory -> the bytes that arrays still use."""


class View(NamedTuple):
    """A shape with strides and an offset in elements: a slice, a transpose or a broadcast of a flat array."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0


def view(shape: Sequence[int], index: tuple[int | slice | None, ...] = ()) -> View:
    """What ``a[index]`` of a C-contiguous array of `shape` walks over.

    NumPy resolves the index, on an array of that shape over one byte, which is never read.
    """
    strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    whole = as_strided(np.zeros(1, np.int8), tuple(shape), strides, writeable=False)
    part = whole[(*index, ..., None)]  # the last axis keeps it an array if the index is of integers alone
    start, first = (a.__array_interface__["data"][0] for a in (whole, part))
    return View(part.shape[:-1], part.strides[:-1], first - start)


def broadcast(shape: Sequence[int], to: Sequence[int]) -> View:
    """A C-contiguous array of `shape` repeated to the shape `to`: axes of extent 1, and new ones in front."""
    own = view(shape)
    missing = len(to) - len(shape)
    strides = [0 if n == 1 else s for n, s in zip(own.shape, own.strides, strict=True)]
    return View(tuple(to), (*[0] * missing, *strides))


def walk(operation: str, first: View, second: View) -> dict[str, Any]:
    """The fields of a kernel's Walk over two views of one shape, axes joined where both can be walked as one.

    Raises:
        ValueError: more than 8 axes remain.
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
        "rank": len(axes),
        "extent": [a[0] for a in axes],
        "first_stride": [a[1] for a in axes],
        "second_stride": [a[2] for a in axes],
        "first_offset": first.offset,
        "second_offset": second.offset,
    }
