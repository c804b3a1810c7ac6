"""Single primitives: what one computes, on any backend, checked against float64 and timed over buffers that rotate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gpunet.backends import Backend, get_backend
from gpunet.backends.contract.arrays import Array
from gpunet.bench.contenders import Spec, described, placed
from gpunet.bench.timing import Timer, Work

Arrays = dict[str, Array]
Way = Callable[[Backend, Arrays], Sequence[Array]]
LEAST_CALLS = 16
"""Calls that are timed together where buffers rotate: one of so few bytes is shorter than the gap between two replays."""
TOLERANCE = 1e-4
"""Float32 sums stay below it, TF32 products do not."""


@dataclass(frozen=True)
class Problem:
    """A primitive on random data."""

    inputs: dict[str, np.ndarray]
    """On the host, float32 or integers."""
    run: Way
    """The primitive on a backend's arrays of these names -> its outputs, which are compared in float64."""
    outputs: tuple[str, ...]
    """Their names."""
    bytes: int = 0
    """That it must read and write, at least."""
    images: np.ndarray | None = None
    """Positions in the batch that are compared, where the whole would take float64 too long; None for all."""
    batched: tuple[str, ...] = ()
    """Inputs whose first axis is the batch."""
    summed: tuple[str, ...] = ()
    """Outputs that are sums over the batch, linear in `dy`: compared with all other images' dy at zero."""
    tolerance: float = TOLERANCE

    def checked_inputs(self) -> dict[str, np.ndarray]:
        """The inputs with which a contender computes what `error` takes."""
        if self.images is None or not set(self.summed) & set(self.outputs):
            return self.inputs
        kept = np.zeros_like(self.inputs["dy"])
        kept[self.images] = self.inputs["dy"][self.images]
        return {**self.inputs, "dy": kept}

    def error(self, outputs: Sequence[np.ndarray]) -> float:
        """The largest of the outputs' errors, ‖y - y64‖ / ‖y64‖, against the reference backend in float64."""
        backend = get_backend("reference")
        inputs = {name: wide(a) for name, a in self.checked_inputs().items()}
        if self.images is not None:
            inputs.update({name: inputs[name][self.images] for name in self.batched})
        expected = self.run(backend, inputs)
        errors = []
        for name, y, y64 in zip(self.outputs, outputs, expected, strict=True):
            part = y if self.images is None or name in self.summed else y[self.images]
            if part.shape != y64.shape:
                raise RuntimeError(f"bench: {name} has shape {part.shape} but takes {y64.shape}")
            errors.append(float(np.linalg.norm(part - y64) / np.linalg.norm(y64)))
        return float(np.max(errors))  # NaN, if there is one

    def found(self, outputs: Sequence[np.ndarray]) -> dict[str, Any]:
        """What `Contender.prepare` gives."""
        notes = {"MB": self.bytes / 1e6} if self.bytes else {}
        return {"error": self.error(outputs), "tolerance": self.tolerance, "notes": notes}


def wide(a: np.ndarray) -> np.ndarray:
    """Floats in float64, and a copy of anything, for a primitive that works in place."""
    return np.array(a, np.float64 if a.dtype.kind == "f" else a.dtype)


def rotation(timer: Timer, problem: Problem) -> int:
    """How many sets of buffers, so that a set is out of the cache when it comes again."""
    size = sum(a.nbytes for a in problem.inputs.values())
    return max(1, min(-(-timer.rotated // size), 256)) if timer.rotated else 1


class Calls:
    """A primitive's calls over sets of inputs, timed together; a call's seconds are their share.

    Args:
        timer: what times them.
        calls: one a set.
    """

    def __init__(self, timer: Timer, calls: Sequence[Callable[[], Any]]):
        self._timer = timer
        self._count = max(len(calls), LEAST_CALLS) if len(calls) > 1 else 1

        def work() -> list[Any]:
            return [calls[i % len(calls)]() for i in range(self._count)]  # all kept, so that outputs rotate too

        timer.run(work)
        self._calls = calls  # a replay reads their inputs, but does not keep them
        self._work: Work = timer.capture(work)

    def seconds(self, repeats: int) -> list[float]:
        """Seconds of a call, `repeats` times."""
        return [value / self._count for value in self._timer.seconds(self._work, repeats)]


class Primitive(ABC):
    """A contender that runs a single primitive.

    Args:
        problem: makes the problem of a case.
    """

    timer: Timer
    _calls: Calls | None = None

    def __init__(self, problem: Callable[[dict[str, Any]], Problem]):
        self.problem = problem

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """See `Contender.prepare`: the error of what was written to memory that held NaN."""
        self._forget()
        problem = self.problem(case)
        run = self.runner(case, problem)
        before = list(run(self.upload(problem.checked_inputs())))
        self.poison(before)
        before.clear()  # the same outputs again take the memory that these give back
        outputs = run(self.upload(problem.checked_inputs()))
        found = problem.found([self.on_host(*named) for named in zip(problem.outputs, outputs, strict=True)])
        sets = [self.upload(problem.inputs) for _ in range(rotation(self.timer, problem))]
        self._calls = Calls(self.timer, [partial(run, inputs) for inputs in sets])
        return found

    def time(self, repeats: int) -> list[float]:
        """See `Contender.time`."""
        assert self._calls is not None, "prepare comes first"
        return self._calls.seconds(repeats)

    def _forget(self) -> None:
        """Give back the last case's buffers, before there are others."""
        self._calls = None
        self.timer.clear()

    @abstractmethod
    def runner(self, case: dict[str, Any], problem: Problem) -> Callable[[Arrays], Sequence[Array]]:
        """The primitive on uploaded inputs -> its outputs."""

    @abstractmethod
    def upload(self, inputs: dict[str, np.ndarray]) -> Arrays:
        """Copies on the device, for a primitive may work in place."""

    @abstractmethod
    def poison(self, outputs: Sequence[Array]) -> None:
        """Fill with NaN, or the largest integer."""

    @abstractmethod
    def on_host(self, name: str, output: Array) -> np.ndarray:
        """A copy of an output in gpunet's layout."""


class GpunetPrimitive(Primitive):
    """A primitive of gpunet on one backend.

    Args:
        spec: the backend.
        problem: as for `Primitive`.
    """

    def __init__(self, spec: Spec, problem: Callable[[dict[str, Any]], Problem]):
        super().__init__(problem)
        self.backend, self.timer = placed(spec)

    def runner(self, case: dict[str, Any], problem: Problem) -> Callable[[Arrays], Sequence[Array]]:
        """See `Primitive.runner`."""
        return partial(problem.run, self.backend)

    def upload(self, inputs: dict[str, np.ndarray]) -> Arrays:
        """See `Primitive.upload`."""
        return {name: self.backend.copy(self.backend.asarray(a)) for name, a in inputs.items()}

    def poison(self, outputs: Sequence[Array]) -> None:
        """See `Primitive.poison`."""
        for y in outputs:
            value = np.nan if y.dtype.kind == "f" else np.iinfo(y.dtype).max
            self.backend.copy(self.backend.full(y.shape, value, y.dtype), out=y)

    def on_host(self, name: str, output: Array) -> np.ndarray:
        """See `Primitive.on_host`."""
        return self.backend.to_numpy(output).copy()

    def describe(self) -> dict[str, str]:
        """See `Contender.describe`."""
        return described(self.backend)


class Copy(GpunetPrimitive):
    """A copy that reads and writes together as many bytes as a case's primitive must: what its time is held against.

    On the host `numpy.copyto`, on one thread or on all, whichever is faster; on a GPU a copy from device to device.
    """

    def __init__(self, spec: Spec, problem: Callable[[dict[str, Any]], Problem]):
        super().__init__(spec, problem)
        self.threads = spec.threads
        self._pool = ThreadPoolExecutor(spec.threads)

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """See `Contender.prepare`."""
        self._forget()
        moved = self.problem(case).bytes
        a = np.random.default_rng(0).normal(size=max(1, moved // 8)).astype(np.float32)
        ways = self.ways()
        problem = Problem({"a": a, "y": np.full_like(a, np.nan)}, next(iter(ways.values())), ("y",))
        sets = [self.upload(problem.inputs) for _ in range(rotation(self.timer, problem))]
        ready = {name: Calls(self.timer, [partial(run, self.backend, s) for s in sets]) for name, run in ways.items()}
        medians = {name: float(np.median(calls.seconds(5))) for name, calls in ready.items()}
        best = min(medians, key=lambda name: medians[name])
        self._calls = ready[best]
        if not all(np.array_equal(self.backend.to_numpy(s["y"]), a) for s in sets):
            raise RuntimeError("bench: the copy differs from what was copied")
        return {"error": 0.0, "tolerance": TOLERANCE, "notes": {"copied by": best}}

    def ways(self) -> dict[str, Way]:
        """How to copy array "a" to "y", by what the record calls it."""
        if self.backend.name in ("reference", "numpy"):
            ways: dict[str, Way] = {"numpy.copyto, 1 thread": partial(self._on_host, 1)}
            if self.threads > 1:
                ways[f"numpy.copyto, {self.threads} threads"] = partial(self._on_host, self.threads)
            return ways
        if self.backend.name.startswith("cuda"):
            return {"a device-to-device copy": _on_device}
        return {"Backend.copy": _by_kernel}

    def _on_host(self, threads: int, _: Backend, arrays: Arrays) -> Sequence[Array]:
        a, y = arrays["a"], arrays["y"]
        if threads == 1:
            np.copyto(y, a)
        else:
            list(self._pool.map(np.copyto, np.array_split(y, threads), np.array_split(a, threads)))
        return [y]


def _on_device(_: Backend, arrays: Arrays) -> Sequence[Array]:
    a, y = arrays["a"], arrays["y"]
    y.data.copy_from_device_async(a.data, a.nbytes)  # on CuPy's current stream
    return [y]


def _by_kernel(backend: Backend, arrays: Arrays) -> Sequence[Array]:
    return [backend.copy(arrays["a"], out=arrays["y"])]
