"""Flat storage of parameters: one array of data, one of gradients, and one for each optimizer slot.

A parameter is a segment of the arena, and its arrays are views of the segment, so that one
optimizer kernel, one clip and one transfer serve a whole model. Segments start at multiples of 128
bytes; the gaps between them stay zero.

Operations in 16 bits take the parameters from a shadow, which is the same arena rounded to their
dtype.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import prod
from typing import Any
from weakref import ref

import numpy as np

from gpunet.backends.contract import Array, Backend
from gpunet.errors import BackendError

ALIGNMENT = 128
"""Bytes of a cache line of a GPU, so that no two segments share a line and 16-byte loads are always
aligned."""


def moved(array: Array, before: Backend, after: Backend) -> Array:
    """A copy of an array of the backend `before` on the backend `after`."""
    host = before.to_numpy(array)
    return after.asarray(host.copy() if host is array else host)


class Arena:
    """Data, gradients and optimizer slots of parameters of one dtype on one backend.

    Args:
        backend: where it lives.
        shapes: the shape of each parameter, in the order of the segments.
        dtype: dtype of the elements.
        grad: whether gradients are stored.
    """

    def __init__(self, backend: Backend, shapes: Sequence[tuple[int, ...]], dtype: Any, *, grad: bool = True):
        self.backend = backend
        self.dtype = np.dtype(dtype)
        self.shapes = [tuple(s) for s in shapes]
        unit = ALIGNMENT // self.dtype.itemsize
        self.bounds = np.zeros((len(self.shapes), 2), np.int64)
        end = 0
        for i, shape in enumerate(self.shapes):
            self.bounds[i] = end, end + prod(shape)
            end += -(-prod(shape) // unit) * unit
        self.size = end
        self.data: Array = backend.full((end,), 0, self.dtype)
        self.grad: Array = backend.full((end if grad else 0,), 0, self.dtype)
        self.slots: dict[str, Array] = {}
        self.written = [False] * len(self.shapes)
        """Which segments hold a gradient of this step."""
        self.version = 0
        """Counts the changes of `data`; a backward pass through older values raises."""
        self.shadow: Array | None = None
        self._rounded = -1  # the version of `data` that the shadow holds
        self.scaling: Array | None = None
        """The state of dynamic loss scaling: see `backends.contract.update.FlatStorage`."""
        self.owner: ref[Any] | None = None
        """The optimizer, as a weak reference: parameters refer to the arena, and must not keep the
        optimizer alive."""
        self._make_views()

    def __len__(self) -> int:
        return len(self.shapes)

    def add_slot(self, name: str) -> None:
        """Add an array of the arena's size, filled with zeros, for an optimizer."""
        self.slots.setdefault(name, self.backend.full((self.size,), 0, self.dtype))

    def slot_view(self, name: str, i: int) -> Array:
        """Segment i of a slot, in the parameter's shape."""
        return self._view(self.slots[name], i)

    def keep_shadow(self, dtype: Any) -> None:
        """Make a shadow in a dtype of 16 bits, which updates write from now on."""
        if self.shadow is None or self.shadow.dtype != dtype:
            self.shadow, self._rounded = self.backend.empty((self.size,), dtype), -1
            self.shadow_views = [self._view(self.shadow, i) for i in range(len(self))]

    def rounded(self, i: int, dtype: Any) -> Array:
        """Segment i of the shadow in a dtype of 16 bits, in the parameter's shape."""
        self.keep_shadow(dtype)
        self.refresh()
        return self.shadow_views[i]

    def refresh(self) -> None:
        """Write the shadow again, unless only updates have changed `data` since it was written."""
        if self.shadow is not None and self._rounded != self.version:
            self.backend.cast(self.data, self.shadow.dtype, out=self.shadow)
            self._rounded = self.version

    def count_updates(self, count: int = 1) -> None:
        """Count `count` updates, each of which has changed `data`, and the shadow with it."""
        if self._rounded == self.version:
            self._rounded += count
        self.version += count

    def to(self, backend: Backend) -> None:
        """Move data, gradients, slots and the state of loss scaling together.

        Raises:
            BackendError: the loss is scaled, and the backend does not compute in 16 bits.
        """
        if backend is self.backend:
            return

        if self.scaling is not None and not backend.narrow:
            raise BackendError(f"arena: losses are scaled for float16, which {backend.name} does not compute in")

        before = self.backend
        self.data, self.grad = moved(self.data, before, backend), moved(self.grad, before, backend)
        self.slots = {name: moved(slot, before, backend) for name, slot in self.slots.items()}
        self.scaling = None if self.scaling is None else moved(self.scaling, before, backend)
        self.shadow = None
        self.backend = backend
        self._make_views()

    # ---- copies and pickles

    def __getstate__(self) -> dict[str, Any]:
        """The whole arena on the host, without its owner."""
        made = {"backend": self.backend, "shapes": self.shapes, "dtype": self.dtype, "grad": bool(self.grad.size)}
        return {**made, "data": self.backend.to_numpy(self.data), "state": self.state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Arena.__init__(self, state["backend"], state["shapes"], state["dtype"], grad=state["grad"])
        self.backend.copy(self.backend.asarray(state["data"], self.dtype), out=self.data)
        self.restore(state["state"])

    def state(self) -> dict[str, Any]:
        """Everything beside the parameters' values, on the host; of the shadow only the dtype."""
        host = self.backend.to_numpy
        return {
            "grads": [host(grad) if kept else None for grad, kept in zip(self.grad_views, self.written, strict=False)],
            "slots": {name: host(slot) for name, slot in self.slots.items()},
            "scaling": None if self.scaling is None else host(self.scaling),
            "shadow": None if self.shadow is None else self.shadow.dtype,
            "version": self.version,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned for an arena of the same shapes."""
        backend = self.backend
        for i, grad in enumerate(state["grads"]):
            self.written[i] = grad is not None
            if grad is not None:
                backend.copy(backend.asarray(grad, self.dtype), out=self.grad_views[i])
        for name, slot in state["slots"].items():
            self.add_slot(name)
            backend.copy(backend.asarray(slot, self.dtype), out=self.slots[name])
        if state["scaling"] is not None:
            self.scaling = backend.copy(backend.asarray(state["scaling"]))
        if state["shadow"] is not None:
            self.keep_shadow(state["shadow"])
        self.version = state["version"]

    def runs(self, keys: Sequence[Hashable]) -> tuple[np.ndarray, list[int]]:
        """The segments that hold a gradient; neighbours with equal keys are joined to one run.

        Args:
            keys: one for each segment, equal where the hyper-parameters are equal.
        Returns:
            (bounds (M, 2) int64, with the first element of each run and the one past its last;
            number of each run's first segment).
        """
        bounds: list[list[int]] = []
        first: list[int] = []
        last = -2
        for i in np.flatnonzero(self.written).tolist():
            if i == last + 1 and keys[i] == keys[last]:
                bounds[-1][1] = int(self.bounds[i, 1])
            else:
                bounds.append([int(v) for v in self.bounds[i]])
                first.append(i)
            last = i
        return np.array(bounds, np.int64).reshape(-1, 2), first

    def _make_views(self) -> None:
        self.views = [self._view(self.data, i) for i in range(len(self))]
        self.grad_views = [self._view(self.grad, i) for i in range(len(self))] if self.grad.size else []

    def _view(self, flat: Array, i: int) -> Array:
        start, stop = (int(v) for v in self.bounds[i])
        return flat[start:stop].reshape(self.shapes[i])
