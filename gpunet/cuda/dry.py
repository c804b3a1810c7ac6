"""A device that runs nothing: its arrays have no memory, and its launches are checked alone.

A recording of a step on this device lists what a GPU would launch, in milliseconds and without the
memory that the step would take.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np

from gpunet.cuda.launcher import Launcher
from gpunet.nvrtc.signature import Extents

ALIGNMENT = 512
"""Alignment of an allocation in bytes: CuPy's, so that the same kernels are selected."""


class DryArray:
    """An array without elements: a shape, a dtype, and the address where it would lie."""

    __slots__ = ("address", "dtype", "owner", "shape")
    flags = SimpleNamespace(c_contiguous=True)
    __array_ufunc__ = None

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, address: int, owner: object):
        self.shape, self.dtype, self.address, self.owner = shape, dtype, address, owner

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the elements would take."""
        return self.size * self.dtype.itemsize

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes between neighbours along each axis."""
        return tuple(prod(self.shape[axis + 1 :]) * self.dtype.itemsize for axis in range(self.ndim))

    def reshape(self, *shape: Any) -> DryArray:
        """Return a view of another shape."""
        wanted = tuple(int(n) for n in (shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape))
        if -1 in wanted:
            known = -prod(wanted)
            wanted = tuple(self.size // max(known, 1) if n == -1 else n for n in wanted)
        if prod(wanted) != self.size:
            raise ValueError(f"cannot reshape an array of shape {self.shape} to {wanted}")
        return DryArray(wanted, self.dtype, self.address, self.owner)

    def __getitem__(self, index: slice) -> DryArray:
        """Return a slice along the first axis, as a view."""
        start, stop, step = index.indices(self.shape[0])
        if step != 1:
            raise ValueError(f"an array that has no memory takes slices with a step of 1, got {index}")
        shape = (max(stop - start, 0), *self.shape[1:])
        return DryArray(shape, self.dtype, self.address + start * self.strides[0], self.owner)

    def __dlpack_device__(self) -> tuple[int, int]:
        """(2, 0), which is DLPack's name for the first CUDA device."""
        return 2, 0

    def refuse(self, *args: Any, **options: Any) -> NoReturn:
        """Raise a TypeError: there are no elements to read."""
        raise TypeError(f"an array of shape {self.shape} on a device that runs nothing has no elements to read")

    __array__ = __bool__ = __float__ = __int__ = __index__ = __iter__ = __setitem__ = __eq__ = refuse
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"DryArray(shape={self.shape}, dtype={self.dtype})"


class DryArrays:
    """The arrays of a device that runs nothing; see `gpunet.cuda.arrays.Arrays`.

    Args:
        name: the device that it stands for.
    """

    def __init__(self, name: str):
        self.name = name
        self._next = ALIGNMENT

    def owns(self, array: object) -> bool:
        """Whether `array` is of this device."""
        return isinstance(array, DryArray) and array.owner is self

    def empty(self, shape: Sequence[int], dtype: Any) -> DryArray:
        """Make an array that has an address and no memory."""
        array = DryArray(tuple(int(n) for n in shape), np.dtype(dtype), self._next, self)
        self._next += -(-max(array.nbytes, 1) // ALIGNMENT) * ALIGNMENT
        return array

    def asarray(self, data: Any, dtype: Any = None) -> DryArray:
        """Return an array of the shape and dtype of host data; a dry array as it is."""
        if isinstance(data, DryArray):
            same = self.owns(data) and (dtype is None or np.dtype(dtype) == data.dtype)
            return data if same else self.empty(data.shape, dtype or data.dtype)
        host = np.asarray(data)
        return self.empty(host.shape, dtype or host.dtype)

    def to_host(self, array: DryArray) -> NoReturn:
        """Raise a TypeError: there are no elements to read."""
        array.refuse()

    def pointer(self, array: DryArray) -> int:
        """Return the address of the first element."""
        return array.address

    def synchronize(self) -> None:
        """Return at once: nothing runs."""

    wait = free_cached = synchronize

    def used_bytes(self) -> int:
        """Return 0: nothing is taken."""
        return 0

    def stream_key(self) -> int:
        """Return the key of the only stream."""
        return 0

    def describe(self) -> dict[str, str]:
        """Return the name of the device that it stands for."""
        return {"device": f"{self.name}, not run"}


class DryLauncher(Launcher):
    """Checks launches, and runs none of them."""

    def run(self, file: str, kernel: str, grid: Extents, block: Extents, args: list[Any], shared: int) -> None:
        """Do nothing: the arguments are checked."""
