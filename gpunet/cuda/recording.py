"""What a device is asked for, written down while it does it: every launch with its arguments, every allocation.

`recording_backend`, in `gpunet.backends.cuda.backend`, puts the two classes around a device's launcher and arrays. Of an array
nothing is kept but its description, so that its memory is freed when it would be.
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
from gpunet.nvrtc import signature
from gpunet.nvrtc.signature import Extent


@dataclass(frozen=True, slots=True)
class Argument:
    """An array of a launch."""

    name: str
    """The parameter's."""
    shape: tuple[int, ...]
    dtype: np.dtype
    address: int
    read: bool
    """The pointer is `const` or marked `UPDATED`, or it is marked `ADDED_TO` and the launch accumulates."""
    written: bool
    """The pointer is not `const`."""

    @property
    def bytes(self) -> int:
        """Of all its elements."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of a kernel instance."""

    label: Any
    """The recording's, at the time."""
    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Argument, ...]
    flops: int

    @property
    def read(self) -> int:
        """Bytes of the arrays that it reads, each whole and once, whatever part of them it walks over and how often."""
        return _total(a for a in self.arguments if a.read)

    @property
    def written(self) -> int:
        """Bytes of the arrays that it writes, likewise."""
        return _total(a for a in self.arguments if a.written)


@dataclass(frozen=True, slots=True)
class Allocation:
    """An array that was made on the device."""

    label: Any
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        """Of all its elements."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(slots=True)
class Recording:
    """What was asked for, in its order; `label` is put on what comes next."""

    label: Any = None
    launches: list[Launch] = field(default_factory=list)
    allocations: list[Allocation] = field(default_factory=list)

    def clear(self) -> None:
        """Begin anew."""
        self.launches.clear()
        self.allocations.clear()


class RecordingLauncher(Launcher):
    """Writes down what it has another launcher run.

    Args:
        inner: that launcher.
        arrays: of its device.
        recording: where to.
    """

    def __init__(self, inner: Launcher, arrays: Arrays, recording: Recording):
        super().__init__(inner.owns)
        self.inner, self.arrays, self.recording = inner, arrays, recording

    def launch(
        self, kernel: str, grid: Extent, block: Extent, args: Sequence[Any], *, shared: int = 0, flops: int = 0
    ) -> None:
        """As :meth:`Launcher.launch`."""
        self.inner.launch(kernel, grid, block, args, shared=shared, flops=flops)
        extents = signature.check_extents(kernel, grid, block)
        self.recording.launches.append(
            Launch(self.recording.label, kernel, *extents, self._arguments(kernel, args), flops)
        )

    def run(
        self, file: str, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: list[Any], shared: int
    ) -> None:
        """As :meth:`Launcher.run`."""
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
    """Stands for the arrays of a device, as :class:`gpunet.cuda.arrays.Arrays`, and writes down what it makes.

    Args:
        inner: those arrays.
        recording: where to.
    """

    def __init__(self, inner: Arrays, recording: Recording):
        self.inner, self.recording = inner, recording

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """As :meth:`Arrays.empty`."""
        return self._noted(self.inner.empty(shape, dtype))

    def asarray(self, data: Any, dtype: Any = None) -> Any:
        """As :meth:`Arrays.asarray`."""
        y = self.inner.asarray(data, dtype)
        same = self.inner.owns(data) and self.inner.pointer(data) == self.inner.pointer(y)
        return y if same else self._noted(y)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def _noted(self, array: Any) -> Any:
        self.recording.allocations.append(Allocation(self.recording.label, tuple(array.shape), array.dtype))
        return array


def _accumulates(p: signature.Parameter, value: Any) -> bool:
    """Whether a number named `accumulate`, by itself or in a struct, says that the launch adds to outputs."""
    if isinstance(value, Mapping):
        return bool(value.get("accumulate"))
    return p.name == "accumulate" and bool(value)


def _total(arguments: Iterable[Argument]) -> int:
    """Bytes of arrays; one that is passed twice counts once."""
    return sum({(a.address, a.bytes): a.bytes for a in arguments}.values())
