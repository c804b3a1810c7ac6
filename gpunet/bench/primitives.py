"""Single primitives as problems, and the contenders that check and time them.

On a GPU they are timed over several sets of buffers in rotation, so that no cache holds the inputs
of a call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gpunet.backends import Backend, get_backend
from gpunet.backends.contract import Array, is_float
from gpunet.bench.contenders import Spec, backend_and_timer, versions
from gpunet.bench.timing import Timer, Work

Arrays = dict[str, Array]
Way = Callable[[Backend, Arrays], Sequence[Array]]
LEAST_CALLS = 16
"""Calls that are timed together where buffers rotate: a single short one may take less time than
the gap between replays."""
TOLERANCE = 1e-4
"""The largest error that is allowed in float32. Sums of float32 stay below it, products of TF32 do
not."""


@dataclass(frozen=True)
class Problem:
    """A primitive on random data."""

    inputs: dict[str, np.ndarray]
    """Arrays on the host, of float32, 16 bits or integers."""
    run: Way
    """Runs the primitive on a backend's arrays of these names -> its outputs."""
    outputs: tuple[str, ...]
    """The names of the outputs."""
    bytes: int = 0
    """The bytes that the primitive must read and write at least; 0 where they are not counted."""
    images: np.ndarray | None = None
    """Positions in the batch that are compared, if all of them would take too long in float64; None
    for all."""
    batched: tuple[str, ...] = ()
    """Inputs whose first axis is the batch."""
    summed: tuple[str, ...] = ()
    """Outputs that are sums over the batch and linear in `dy`. If only some images are compared,
    the dy of all others is set to zero for the comparison."""
    tolerance: float = TOLERANCE

    def checked_inputs(self) -> dict[str, np.ndarray]:
        """The inputs with which a contender computes the outputs that `error` compares."""
        if self.images is None or not set(self.summed) & set(self.outputs):
            return self.inputs
        kept = np.zeros_like(self.inputs["dy"])
        kept[self.images] = self.inputs["dy"][self.images]
        return {**self.inputs, "dy": kept}

    def error(self, outputs: Sequence[np.ndarray]) -> float:
        """The largest ‖y - y64‖ / ‖y64‖ of the outputs against the reference backend in float64."""
        backend = get_backend("reference")
        inputs = {name: _in_float64(a) for name, a in self.checked_inputs().items()}
        if self.images is not None:
            inputs.update({name: inputs[name][self.images] for name in self.batched})
        expected = self.run(backend, inputs)
        errors = []
        for name, y, y64 in zip(self.outputs, outputs, expected, strict=True):
            part = y if self.images is None or name in self.summed else y[self.images]
            if part.shape != y64.shape:
                raise RuntimeError(f"bench: {name} has shape {part.shape} but takes {y64.shape}")
            errors.append(float(np.linalg.norm(part.astype(y64.dtype, copy=False) - y64) / np.linalg.norm(y64)))
        return float(np.max(errors))  # NaN if one of them is NaN

    def result(self, outputs: Sequence[np.ndarray]) -> dict[str, Any]:
        """What `Contender.prepare` returns for these outputs."""
        notes = {"MB": self.bytes / 1e6} if self.bytes else {}
        return {"error": self.error(outputs), "tolerance": self.tolerance, "notes": notes}


def _in_float64(a: np.ndarray) -> np.ndarray:
    """A copy, because a primitive may work in place; floats become float64."""
    return np.array(a, np.float64 if is_float(a.dtype) else a.dtype)


def set_count(timer: Timer, problem: Problem) -> int:
    """The number of sets of buffers with which a set has left the cache before it is used again."""
    size = sum(a.nbytes for a in problem.inputs.values())
    return max(1, min(-(-timer.rotated_bytes // size), 256)) if timer.rotated_bytes else 1


class TimedCalls:
    """Calls of a primitive on several sets of inputs, which are timed together.

    Args:
        timer: times the calls.
        calls: one call for each set of inputs.
    """

    def __init__(self, timer: Timer, calls: Sequence[Callable[[], Any]]):
        self._timer = timer
        self._count = max(len(calls), LEAST_CALLS) if len(calls) > 1 else 1

        def work() -> list[Any]:
            # All outputs are kept until the end, so that they are in different memory too.
            return [calls[i % len(calls)]() for i in range(self._count)]

        timer.run(work)
        self._calls = calls  # a replay reads the inputs of the calls, but does not keep them alive
        self._work: Work = timer.capture(work)

    def seconds(self, repeats: int) -> list[float]:
        """Time the calls at least `repeats` times -> the seconds of one call, each time."""
        return [value / self._count for value in self._timer.seconds(self._work, repeats)]


class Primitive(ABC):
    """A contender that runs a single primitive.

    Args:
        problem: makes the problem of a case.
    """

    timer: Timer
    _calls: TimedCalls | None = None

    def __init__(self, problem: Callable[[dict[str, Any]], Problem]):
        self.problem = problem

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """See `Contender.prepare`: the result is the error of the outputs.

        The outputs of a first run are filled with NaN and given back, so that those of the second
        run are written to the same memory: an element that the primitive does not write shows.
        """
        self._free_last_case()
        problem = self.problem(case)
        run = self.runner(case, problem)
        before = list(run(self.upload(problem.checked_inputs())))
        self.poison(before)
        before.clear()
        outputs = run(self.upload(problem.checked_inputs()))
        result = problem.result([self.on_host(*named) for named in zip(problem.outputs, outputs, strict=True)])
        sets = [self.upload(problem.inputs) for _ in range(set_count(self.timer, problem))]
        self._calls = TimedCalls(self.timer, [partial(run, inputs) for inputs in sets])
        return result

    def time(self, repeats: int) -> list[float]:
        """See `Contender.time`."""
        assert self._calls is not None, "prepare comes first"
        return self._calls.seconds(repeats)

    def _free_last_case(self) -> None:
        """Give back the buffers of the last case, before others are allocated."""
        self._calls = None
        self.timer.clear()

    @abstractmethod
    def runner(self, case: dict[str, Any], problem: Problem) -> Callable[[Arrays], Sequence[Array]]:
        """A function that runs the primitive on uploaded inputs -> its outputs."""

    @abstractmethod
    def upload(self, inputs: dict[str, np.ndarray]) -> Arrays:
        """Copies of the inputs on the device; copies, because a primitive may work in place."""

    @abstractmethod
    def poison(self, outputs: Sequence[Array]) -> None:
        """Fill the outputs with NaN, or with the largest integer."""

    @abstractmethod
    def on_host(self, name: str, output: Array) -> np.ndarray:
        """A copy of an output in gpunet's layout."""


class GpunetPrimitive(Primitive):
    """A primitive of gpunet on one backend.

    Args:
        spec: names the backend.
        problem: as for `Primitive`.
    """

    def __init__(self, spec: Spec, problem: Callable[[dict[str, Any]], Problem]):
        super().__init__(problem)
        self.backend, self.timer = backend_and_timer(spec)

    def runner(self, case: dict[str, Any], problem: Problem) -> Callable[[Arrays], Sequence[Array]]:
        """See `Primitive.runner`."""
        return partial(problem.run, self.backend)

    def upload(self, inputs: dict[str, np.ndarray]) -> Arrays:
        """See `Primitive.upload`."""
        return {name: self.backend.copy(self.backend.asarray(a)) for name, a in inputs.items()}

    def poison(self, outputs: Sequence[Array]) -> None:
        """See `Primitive.poison`."""
        for y in outputs:
            value = np.nan if is_float(y.dtype) else np.iinfo(y.dtype).max
            self.backend.copy(self.backend.full(y.shape, value, y.dtype), out=y)

    def on_host(self, name: str, output: Array) -> np.ndarray:
        """See `Primitive.on_host`."""
        return self.backend.to_numpy(output).copy()

    def describe(self) -> dict[str, str]:
        """See `Contender.describe`."""
        return versions(self.backend)


class Copy(GpunetPrimitive):
    """A copy that moves as many bytes as the primitive of a case must move at least.

    On the host it is `numpy.copyto`, on one thread or on all threads, whichever is faster; on a GPU
    it is a copy from device to device.
    """

    def __init__(self, spec: Spec, problem: Callable[[dict[str, Any]], Problem]):
        super().__init__(spec, problem)
        self.threads = spec.threads
        self._pool = ThreadPoolExecutor(spec.threads)

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """See `Contender.prepare`."""
        self._free_last_case()
        moved = self.problem(case).bytes
        a = np.random.default_rng(0).normal(size=max(1, moved // 8)).astype(np.float32)
        ways = self.ways()
        problem = Problem({"a": a, "y": np.full_like(a, np.nan)}, next(iter(ways.values())), ("y",))
        sets = [self.upload(problem.inputs) for _ in range(set_count(self.timer, problem))]
        calls = {
            name: TimedCalls(self.timer, [partial(run, self.backend, arrays) for arrays in sets])
            for name, run in ways.items()
        }
        medians = {name: float(np.median(timed.seconds(5))) for name, timed in calls.items()}
        best = min(medians, key=lambda name: medians[name])
        self._calls = calls[best]
        if not all(np.array_equal(self.backend.to_numpy(s["y"]), a) for s in sets):
            raise RuntimeError("bench: the copy differs from what was copied")
        return {"error": 0.0, "tolerance": TOLERANCE, "notes": {"copied by": best}}

    def ways(self) -> dict[str, Way]:
        """The functions that copy array "a" to "y", by the names that the record gives them."""
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
