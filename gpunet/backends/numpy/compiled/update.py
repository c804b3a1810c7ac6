"""Optimizers' steps and averages in compiled loops: update.cpp."""

from __future__ import annotations

import numpy as np

from gpunet.backends.contract import RULES, UNGUARDED, Array, FlatStorage, Guard, Segments
from gpunet.backends.host.arrays import QUIET
from gpunet.backends.numpy.compiled.loops import CompiledLoops
from gpunet.backends.numpy.update import NumpyUpdate, has_updated, may_update

BLOCK = 1 << 16
"""Elements whose squares are summed by themselves."""


class CompiledUpdate(CompiledLoops, NumpyUpdate):
    """Optimizers' steps and averages."""

    @QUIET
    def gradient_norm(self, arena: FlatStorage, segments: Segments, max_norm: float) -> Array:
        loops = self._loops("update", arena.grad)
        if loops is None:
            return super().gradient_norm(arena, segments, max_norm)
        total = 0.0
        for start, stop in segments.bounds.tolist():
            part = arena.grad[start:stop]
            sums = np.zeros(-(-part.size // BLOCK))
            self._spread(loops, "square_sums", len(sums), BLOCK, part, part.size, BLOCK, sums)
            total += float(sums.sum())
        norm = np.sqrt(total)
        return np.array([norm, np.minimum(1.0, max_norm / (norm + 1e-6))], arena.grad.dtype)

    @QUIET
    def update(self, rule: str, arena: FlatStorage, segments: Segments, guard: Guard = UNGUARDED) -> None:
        slots = [arena.slots.get(name) for name in RULES[rule].slots]
        loops = self._loops("update", arena.data, arena.grad, *slots)
        if loops is None:
            super().update(rule, arena, segments, guard)
            return
        if guard.report is not None and not may_update(guard.report):
            return
        bounds, hyper = (np.ascontiguousarray(a) for a in segments[:2])
        clip = 1.0 if guard.clip is None else float(guard.clip[1])
        first, second = (*slots, None)[:2]
        elements = int((bounds[:, 1] - bounds[:, 0]).sum())
        given = list(RULES).index(rule), bounds, hyper, len(bounds), hyper.shape[1], clip
        self._spread(loops, "update", elements, 1, *given, arena.data, arena.grad, first, second)

    @QUIET
    def average_update(self, average: Array, value: Array, decay: float, guard: Guard = UNGUARDED) -> None:
        loops = self._loops("update", average, value) if average.shape == value.shape else None
        if loops is None:
            super().average_update(average, value, decay, guard)
        elif has_updated(guard):
            self._spread(loops, "average", average.size, 1, average, value, float(decay))
