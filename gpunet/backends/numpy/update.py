"""Updates of parameters, max-norm and averages of `NumpyBackend`, with few temporary arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gpunet.backends.contract import RULES, SHARED, UNGUARDED, Array, FlatStorage, Guard, Segments, StepReport
from gpunet.backends.host.arrays import QUIET, HostArrays


class NumpyUpdate(HostArrays):
    """Optimizers' steps, max-norm and averages."""

    @QUIET
    def gradient_norm(self, arena: FlatStorage, segments: Segments, max_norm: float) -> Array:
        square = sum(float(np.square(g).sum()) for g in (arena.grad[start:stop] for start, stop in segments.bounds))
        norm = np.sqrt(square)
        return np.array([norm, np.minimum(1.0, max_norm / (norm + 1e-6))], arena.grad.dtype)

    @QUIET
    def update(self, rule: str, arena: FlatStorage, segments: Segments, guard: Guard = UNGUARDED) -> None:
        if guard.report is not None and not may_update(guard.report):
            return
        slots = [arena.slots.get(name) for name in RULES[rule].slots]
        for (start, stop), row in zip(segments.bounds, segments.hyper.tolist(), strict=True):
            rate, decay, l1, decoupled = row[: len(SHARED)]
            w, g = arena.data[start:stop], arena.grad[start:stop]
            if decoupled:
                w *= 1 - rate * decoupled
            if guard.clip is not None:
                g = g * guard.clip[1]
            if decay:
                g = g + decay * w
            if l1:
                g = g + l1 * np.sign(w)
            parts = [None if slot is None else slot[start:stop] for slot in slots]
            w -= _STEPS[rule](g, rate, row[len(SHARED) :], *parts)

    @QUIET
    def clip_units(self, w: Array, limit: float, shadow: Array | None, guard: Guard = UNGUARDED) -> None:
        if has_updated(guard):
            norms = np.sqrt(np.square(w).sum(axis=0, dtype=np.float64)).astype(w.dtype)
            w *= np.where(norms <= limit, 1, limit / norms).astype(w.dtype)  # NaN stays

    @QUIET
    def average_update(self, average: Array, value: Array, decay: float, guard: Guard = UNGUARDED) -> None:
        if has_updated(guard):
            average *= decay
            average += (1 - decay) * value


# ---- the rules: (g, lr, own hyper-parameters, slots a and b, which change in place) -> the step
# that is subtracted from the weights


def _sgd(g: Array, rate: float, own: Sequence[float], a: Array | None) -> Array:
    momentum, nesterov = own
    if a is None:
        a = g
    else:
        a *= momentum
        a += g
    return rate * (g + momentum * a if nesterov else a)


def _adam(g: Array, rate: float, own: Sequence[float], a: Array, b: Array) -> Array:
    beta1, beta2, eps, correction1, correction2 = own
    _mix(a, beta1, g)
    _mix(b, beta2, g * g)
    return (rate / correction1) * a / (np.sqrt(b / correction2) + eps)


def _rmsprop(g: Array, rate: float, own: Sequence[float], a: Array, b: Array | None) -> Array:
    alpha, eps, momentum = own
    _mix(a, alpha, g * g)
    step = g / (np.sqrt(a) + eps)
    if b is None:
        return rate * step
    b *= momentum
    b += step
    return rate * b


def _adagrad(g: Array, rate: float, own: Sequence[float], a: Array) -> Array:
    (eps,) = own
    a += g * g
    return rate * g / (np.sqrt(a) + eps)


def _lion(g: Array, rate: float, own: Sequence[float], a: Array) -> Array:
    beta1, beta2 = own
    step = np.sign(beta1 * a + (1 - beta1) * g)
    _mix(a, beta2, g)
    return rate * step


def _muon(g: Array, rate: float, own: Sequence[float], a: Array, b: Array) -> Array:
    *adam, orthogonal = own
    if not orthogonal:
        return _adam(g, rate, adam, a, b)
    _mix(a, adam[0], g)
    return rate * b


def _mix(mean: Array, beta: float, value: Array) -> None:
    mean *= beta
    mean += (1 - beta) * value


_STEPS: dict[str, Callable[..., Array]] = {
    "sgd": _sgd, "adam": _adam, "rmsprop": _rmsprop, "adagrad": _adagrad, "lion": _lion, "muon": _muon,
}  # fmt: skip


def may_update(report: StepReport) -> bool:
    """Write the report of an update -> whether its loss is finite, as those before were."""
    failed = report.previous[2] or not np.isfinite(report.loss).all()
    skipped_updates = report.previous[2] + 1 if failed else 0
    report.written[:] = report.loss.item(), 0 if report.correct is None else report.correct.item(), skipped_updates
    return not skipped_updates


def has_updated(guard: Guard) -> bool:
    """Whether the update before changed the parameters; on the host no clip can stop it."""
    return guard.report is None or not guard.report.written[2]
