"""Updates of parameters, max-norm and averages on a CUDA device."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.backends.contract import RULES, UNGUARDED, Array, FlatStorage, Guard, Segments, columns
from gpunet.backends.cuda.device import MAX_BLOCKS, PARTIALS, THREADS, WARP, CudaDevice
from gpunet.cuda.naming import instance

UNITS_PER_BLOCK = WARP
"""Columns that one block of clip_units takes."""
TABLES = 64
"""Tables of segments and hyper-parameters that stay on the device: a schedule makes a new one for
each step."""


class CudaUpdate(CudaDevice):
    """Primitives of kernels/optimizer.cu."""

    def gradient_norm(self, arena: FlatStorage, segments: Segments, max_norm: float) -> Array:
        self._expect("gradient_norm", grad=(arena.grad, None), scaling=(arena.scaling, (3,)))
        _check_bounds("gradient_norm", segments, arena.grad.size)
        elements = int((segments.bounds[:, 1] - segments.bounds[:, 0]).sum())
        blocks = max(min(-(-elements // (4 * THREADS)), PARTIALS), 1)
        partial, y = self.arrays.empty((blocks,), np.float32), self.arrays.empty((2,), np.float32)
        args = arena.grad, self._bounds(segments), len(segments.bounds), partial, self._arrivals(1), max_norm
        self.launcher.launch("gradient_norm", blocks, THREADS, (*args, arena.scaling, y))
        return y

    def update(self, rule: str, arena: FlatStorage, segments: Segments, guard: Guard = UNGUARDED) -> None:
        """One launch over all segments, with one row of blocks for each."""
        data, grad, shadow, scaling, (clip, report) = arena.data, arena.grad, arena.shadow, arena.scaling, guard
        count, size = len(segments.bounds), data.shape
        self._expect("update", data=(data, None), grad=(grad, size), clip=(clip, (2,)), scaling=(scaling, (3,)))
        element = "float" if shadow is None else self._element("update", shadow=(shadow, size))
        if scaling is not None and clip is None:
            raise ValueError("update: the loss is scaled, so the guard's clip must be what gradient_norm returned")
        slots = [arena.slots.get(name) for name in RULES[rule].slots]
        for slot in slots:
            self._expect("update", slot=(slot, size))
        _check_bounds("update", segments, data.size)
        takes = count, columns(rule)
        if segments.hyper.shape != takes:
            raise ValueError(f"update: hyper has shape {segments.hyper.shape} but {rule} takes {takes}")
        if not count:
            return
        longest = int((segments.bounds[:, 1] - segments.bounds[:, 0]).max())
        grid = max(min(-(-longest // THREADS), MAX_BLOCKS), 1), min(count, 65535)
        hyper = self._table(segments.hyper, np.float64) if segments.device_bounds is None else segments.hyper
        reported = (None,) * 4 if report is None else report
        a, b = (*slots, None)[:2]
        args = data, grad, a, b, shadow, self._bounds(segments), hyper, count, clip, scaling, *reported
        self.launcher.launch(instance("update", element, rule.capitalize()), grid, THREADS, args)

    def clip_units(self, w: Array, limit: float, shadow: Array | None, guard: Guard = UNGUARDED) -> None:
        self._expect("clip_units", w=(w, None), clip=(guard.clip, (2,)))
        element = "float" if shadow is None else self._element("clip_units", shadow=(shadow, w.shape))
        rows, units = w.shape
        if w.size:
            grid, args = -(-units // UNITS_PER_BLOCK), (w, shadow, rows, units, limit, *_outcome(guard))
            self.launcher.launch(instance("clip_units", element), grid, THREADS, args)

    def average_update(self, average: Array, value: Array, decay: float, guard: Guard = UNGUARDED) -> None:
        self._expect("average_update", average=(average, None), value=(value, average.shape), clip=(guard.clip, (2,)))
        args = average, value, average.size, decay, 1 - decay, *_outcome(guard)
        self._each("average_update", average.size, *args, element="")

    def _bounds(self, segments: Segments) -> Array:
        return self._table(segments.bounds, np.int64) if segments.device_bounds is None else segments.device_bounds

    def _table(self, rows: np.ndarray, dtype: Any) -> Array:
        """A table of the host on the device; equal tables are sent once."""
        rows, tables = np.ascontiguousarray(rows, dtype), self._on_stream().tables
        key = rows.dtype.char, rows.tobytes()
        on_device = tables.pop(key, None)
        if on_device is None:
            on_device = self.arrays.asarray(rows)
        tables[key] = on_device
        if len(tables) > TABLES:
            tables.popitem(last=False)
        return on_device


def _check_bounds(operation: str, segments: Segments, size: int) -> None:
    bounds = segments.bounds
    if bounds.size and (bounds.min() < 0 or bounds.max() > size):
        raise ValueError(f"{operation}: segments reach from {bounds.min()} to {bounds.max()} in an arena of {size}")


def _outcome(guard: Guard) -> tuple[Array | None, Array | None]:
    """What tells the launches behind an update whether it changed anything: (clip, its report)."""
    return guard.clip, None if guard.report is None else guard.report.written
