"""Updates, max-norm and averages of `ReferenceBackend`: the contract's formulas, in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpunet.backends.contract import RULES, SHARED, UNGUARDED, Array, FlatStorage, Guard, Segments, StepReport
from gpunet.backends.host.arrays import QUIET, HostArrays


class ReferenceUpdate(HostArrays):
    """Optimizers' steps, max-norm and averages."""

    @QUIET
    def gradient_norm(self, arena: FlatStorage, segments: Segments, max_norm: float) -> Array:
        square = sum(np.sum(np.float64(arena.grad[start:stop]) ** 2) for start, stop in segments.bounds)
        norm = np.sqrt(np.float64(square))
        return np.array([norm, np.minimum(1, max_norm / (norm + 1e-6))], arena.grad.dtype)

    @QUIET
    def update(self, rule: str, arena: FlatStorage, segments: Segments, guard: Guard = UNGUARDED) -> None:
        scale = 1.0 if guard.clip is None else float(guard.clip[1])
        if guard.report is not None and _reports_failure(guard.report):
            return
        names = RULES[rule].slots
        for (start, stop), row in zip(segments.bounds, np.asarray(segments.hyper), strict=True):
            lr, decay, l1, decoupled = row[: len(SHARED)]
            w = np.float64(arena.data[start:stop])
            w = w - lr * decoupled * w
            g = scale * np.float64(arena.grad[start:stop]) + decay * w + l1 * np.sign(w)
            slots = [np.float64(arena.slots[n][start:stop]) if n in arena.slots else np.zeros_like(w) for n in names]
            w, *slots = _STEPS[rule](w, g, lr, row[len(SHARED) :], *slots)
            arena.data[start:stop] = w
            for name, slot in zip(names, slots, strict=True):
                if name in arena.slots:
                    arena.slots[name][start:stop] = slot

    @QUIET
    def clip_units(self, w: Array, limit: float, shadow: Array | None, guard: Guard = UNGUARDED) -> None:
        for unit in range(w.shape[1] if _has_updated(guard) else 0):
            norm = np.sqrt(np.sum(np.float64(w[:, unit]) ** 2))
            if not norm <= limit:  # as NaN is not
                w[:, unit] = limit / norm * np.float64(w[:, unit])

    @QUIET
    def average_update(self, average: Array, value: Array, decay: float, guard: Guard = UNGUARDED) -> None:
        if _has_updated(guard):
            average[...] = decay * np.float64(average) + (1 - decay) * np.float64(value)


# ---- the rules: (w', g, lr, own hyper-parameters, slots) -> (w, slots)


def _sgd(w: Array, g: Array, lr: float, own: Array, a: Array) -> tuple[Array, ...]:
    momentum, nesterov = own
    a = momentum * a + g
    return w - lr * (g + momentum * a if nesterov else a), a


def _adam(w: Array, g: Array, lr: float, own: Array, a: Array, b: Array) -> tuple[Array, ...]:
    beta1, beta2, eps, correction1, correction2 = own
    a = beta1 * a + (1 - beta1) * g
    b = beta2 * b + (1 - beta2) * g**2
    return w - lr * a / correction1 / (np.sqrt(b / correction2) + eps), a, b


def _rmsprop(w: Array, g: Array, lr: float, own: Array, a: Array, b: Array) -> tuple[Array, ...]:
    alpha, eps, momentum = own
    a = alpha * a + (1 - alpha) * g**2
    b = momentum * b + g / (np.sqrt(a) + eps)
    return w - lr * b, a, b


def _adagrad(w: Array, g: Array, lr: float, own: Array, a: Array) -> tuple[Array, ...]:
    (eps,) = own
    a = a + g**2
    return w - lr * g / (np.sqrt(a) + eps), a


def _lion(w: Array, g: Array, lr: float, own: Array, a: Array) -> tuple[Array, ...]:
    beta1, beta2 = own
    return w - lr * np.sign(beta1 * a + (1 - beta1) * g), beta2 * a + (1 - beta2) * g


def _muon(w: Array, g: Array, lr: float, own: Array, a: Array, b: Array) -> tuple[Array, ...]:
    *adam, orthogonal = own
    if orthogonal:
        return w - lr * b, adam[0] * a + (1 - adam[0]) * g, b
    return _adam(w, g, lr, np.array(adam), a, b)


_STEPS: dict[str, Callable[..., tuple[Array, ...]]] = {
    "sgd": _sgd, "adam": _adam, "rmsprop": _rmsprop, "adagrad": _adagrad, "lion": _lion, "muon": _muon,
}  # fmt: skip


def _reports_failure(report: StepReport) -> bool:
    """Write the report of a step -> whether it must change nothing."""
    failed = report.previous[2] > 0 or not np.isfinite(report.loss.item())
    report.written[0] = report.loss.item()
    report.written[1] = 0 if report.correct is None else report.correct.item()
    report.written[2] = report.previous[2] + 1 if failed else 0
    return failed


def _has_updated(guard: Guard) -> bool:
    """Whether the update before has changed the parameters."""
    overflowed = guard.clip is not None and not np.isfinite(guard.clip[0])
    return not overflowed and (guard.report is None or guard.report.written[2] == 0)
