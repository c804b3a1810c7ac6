"""Records every launch and every allocation of a device while it runs them.

`recording_backend`, in `gpunet.backends.cuda.backend`, wraps a device's launcher and arrays in the
two classes of this module. A recording keeps the description of an array and not the array, so that
the array's memory is freed as early as without a recording.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from gpunet.cuda.arrays import Arrays
from gpunet.cuda.instantiations import file_of
from gpunet.cuda.launcher import Launcher
from gpunet.cuda.work import NO_PRODUCT, Work
from gpunet.nvrtc import signature
from gpunet.nvrtc.signature import Extent, Extents


@dataclass(frozen=True, slots=True)
class Argument:
    """The description of an array that a launch was given."""

    name: str
    """The name of its parameter."""
    shape: tuple[int, ...]
    dtype: np.dtype
    address: int
    read: bool
    """Whether the pointer is `const` or `UPDATED`, or `ADDED_TO` in a launch that accumulates."""
    written: bool
    """Whether the pointer is not `const`."""

    @property
    def bytes(self) -> int:
        """Bytes of all elements."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of a kernel instance."""

    label: Any
    """The recording's label at the time."""
    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Argument, ...]
    work: Work = NO_PRODUCT
    shared: int = 0
    """Bytes of dynamic shared memory."""

    @property
    def flops(self) -> int:
        """Floating-point operations of matrix products and convolutions."""
        return self.work.flops

    @property
    def read(self) -> int:
        """Bytes of the arrays that it reads; each array counts once and as a whole."""
        return _total(a for a in self.arguments if a.read)

    @property
    def written(self) -> int:
        """Bytes of the arrays that it writes; each array counts once and as a whole."""
        return _total(a for a in self.arguments if a.written)


@dataclass(frozen=True, slots=True)
class Allocation:
    """The description of an array that was allocated on the device."""

    label: Any
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        """Bytes of all elements."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(slots=True)
class Recording:
    """Launches and allocations, in order. New ones get the current `label`."""

    label: Any = None
    launches: list[Launch] = field(default_factory=list)
    allocations: list[Allocation] = field(default_factory=list)

    def clear(self) -> None:
        """Forget everything but the label."""
        self.launches.clear()
        self.allocations.clear()


class RecordingLauncher(Launcher):
    """Records launches that another launcher runs.

    Args:
        inner: that launcher.
        arrays: the arrays of its device.
        recording: the recording to add to.
    """

    def __init__(self, inner: Launcher, arrays: Arrays, recording: Recording):
        super().__init__(inner.owns)
        self.inner, self.arrays, self.recording = inner, arrays, recording

    def launch(
        self, kernel: str, grid: Extent, block: Extent, args: Sequence[Any], *, shared: int = 0, work: Work = NO_PRODUCT
    ) -> None:
        """Check, run and record a launch; see :meth:`Launcher.launch`."""
        self.inner.launch(kernel, grid, block, args, shared=shared, work=work)
        extents, arguments = signature.check_extents(kernel, grid, block), self._arguments(kernel, args)
        self.recording.launches.append(Launch(self.recording.label, kernel, *extents, arguments, work, shared))

    def run(self, file: str, kernel: str, grid: Extents, block: Extents, args: list[Any], shared: int) -> None:
        """Run an instance without recording it."""
        self.inner.run(file, kernel, grid, block, args, shared)

    def _arguments(self, kernel: str, args: Sequence[Any]) -> tuple[Argument, ...]:
        given = list(zip(signature.parameters(file_of(kernel), kernel), args, strict=True))
        adds = any(_accumulates(p, value) for p, value in given)
        return tuple(
            Argument(
                p.name, tuple(value.shape), value.dtype, self.arrays.pointer(value),
                read=p.is_const or p.is_updated or (p.is_added_to and adds), written=not p.is_const,
            )
            for p, value in given
            if p.is_pointer and value is not None
        )  # fmt: skip


class RecordingArrays:
    """Records the allocations of a device; it offers all that `gpunet.cuda.arrays.Arrays` does.

    Args:
        inner: the arrays of the device.
        recording: the recording to add to.
    """

    def __init__(self, inner: Arrays, recording: Recording):
        self.inner, self.recording = inner, recording

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """Allocate an array whose elements are not set, and record it."""
        return self._recorded(self.inner.empty(shape, dtype))

    def asarray(self, data: Any, dtype: Any = None) -> Any:
        """Return a C-contiguous array of `data`, and record it if it is a new one."""
        y = self.inner.asarray(data, dtype)
        same = self.inner.owns(data) and self.inner.pointer(data) == self.inner.pointer(y)
        return y if same else self._recorded(y)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def _recorded(self, array: Any) -> Any:
        self.recording.allocations.append(Allocation(self.recording.label, tuple(array.shape), array.dtype))
        return array


def _accumulates(p: signature.Parameter, value: Any) -> bool:
    """Return whether a value is, or contains, an `accumulate` that is not 0."""
    if isinstance(value, Mapping):
        return bool(value.get("accumulate"))
    return p.name == "accumulate" and bool(value)


def _total(arguments: Iterable[Argument]) -> int:
    """Return the bytes of arrays; one that is passed twice counts once."""
    return sum({(a.address, a.bytes): a.bytes for a in arguments}.values())
