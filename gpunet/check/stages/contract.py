"""Tries what gpunet relies on: the behaviour of arrays, launches, streams and graphs."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.backends import get_backend
from gpunet.backends.contract import Conv
from gpunet.backends.cuda.backend import CudaBackend, cuda_backend, emulated_backend
from gpunet.check.bits import Bits
from gpunet.check.cases import arguments
from gpunet.check.compare import difference
from gpunet.check.stage import FailedError, Numbers, Stage
from gpunet.cuda.capture import free_unused
from gpunet.cuda.instantiations import MOVED
from gpunet.errors import BackendError
from gpunet.geometry import Geometry

REPLAYS, RECORDERS = 1000, 20
FLOATS = 2**21
"""Elements of a recorder's arrays: 8 MiB, far more than a driver keeps for itself."""
GEOMETRY = Geometry.conv((8, 13, 11, 4), (3, 3, 4, 20), padding=1)
"""The geometry of a weight gradient whose sum is split, so that its blocks use a counter in global
memory."""


def run(stage: Stage) -> None:
    """Try one assumption after another."""
    backend = stage.backend
    for case in arguments.cases("float32"):
        stage.check(f"arguments: {case.name}", _same, case, backend)
    stage.check("arrays of every dtype come back with their bits", _round_trips, backend)
    stage.check("arrays without axes, and without elements", _odd_shapes, backend)
    stage.check("strided arrays and those of another device are refused", _refusals, backend)
    stage.check("memory may be taken inside a capture", _allocation_in_capture, backend)
    stage.check("a module may be loaded inside a capture", _load_in_capture, stage)
    stage.check("a host read or copy inside a capture is refused", _reads_in_capture, backend)
    if not stage.emulated:
        stage.check("a host read by CuPy inside a capture is refused", _cupys_reads_in_capture, backend)
    stage.check("what the host sends before a replay is what the replay reads", _feeds, backend)
    stage.check(f"{REPLAYS} replays of a graph give one result", _replays, backend)
    stage.check("two streams at once do not disturb each other", _two_streams, backend)
    stage.check(f"{RECORDERS} recorders made and dropped leave memory as it was", _recorders, backend)


def _same(case: Any, backend: CudaBackend) -> Numbers:
    got, expected = case.results(backend), case.expected(get_backend("reference"))
    if not difference(got, expected).passes:
        raise FailedError(f"got {[a.tolist() for a in got]}, expected {[a.tolist() for a in expected]}")
    return {}


def _round_trips(backend: CudaBackend) -> Numbers:
    rng = np.random.default_rng(0)
    for dtype in MOVED:
        size = np.dtype(dtype).itemsize
        host = rng.integers(0, 2 if dtype == "bool" else 256, (5, 3, size), dtype=np.uint8)
        host = (host[..., 0] if dtype == "bool" else host).view(dtype).reshape(5, 3)
        back = backend.to_numpy(backend.copy(backend.asarray(host)))
        if back.dtype != host.dtype or back.tobytes() != host.tobytes():
            raise FailedError(f"{dtype}: got {back.dtype} {back.tolist()}, expected {host.tolist()}")
    return {"dtypes": len(MOVED)}


def _odd_shapes(backend: CudaBackend) -> Numbers:
    number = backend.sum(backend.asarray(np.array([1, 2, 3], np.float32)), (0,))
    _expect("the sum of an axis", (number.shape, backend.to_numpy(number).item()), ((), 6.0))
    for shape in ((0,), (3, 0), (0, 4, 2)):
        y = backend.unary("exp", backend.full(shape, 1.0, np.float32))
        _expect("an empty array", (y.shape, backend.to_numpy(y).shape), (shape, shape))
    return {}


def _refusals(backend: CudaBackend) -> Numbers:
    wide = backend.asarray(np.ones((6, 4), np.float32))
    y = backend.empty((3,), np.float32)
    for what, argument in (("a strided array", wide[::2]), ("a host array", np.ones(3, np.float32))):
        try:
            backend.launcher.launch("cast<float, half>", 1, 32, [argument, backend.empty((3,), np.float16), 3])
        except TypeError:
            continue
        raise FailedError(f"{what} was taken by a kernel")
    try:
        backend.launcher.launch("fill<float>", 1, 32, [y, 3])
    except TypeError:
        return {}
    raise FailedError("a launch with too few arguments was run")


def _allocation_in_capture(backend: CudaBackend) -> Numbers:
    recorder, x = backend.recorder(), backend.asarray(np.linspace(0, 1, 5000, dtype=np.float32))
    expected = backend.to_numpy(backend.unary("exp", backend.unary("negative", x)))
    recording, y = recorder.record(lambda: backend.unary("exp", backend.unary("negative", x)))
    # None of these arrays may use the graph's memory.
    others = [backend.full((5000,), np.nan, np.float32) for _ in range(8)]
    with recorder.current():
        recording.launch()
    _expect("a replay", backend.to_numpy(y).tobytes() == expected.tobytes(), True)
    _expect("arrays made after a capture", all(np.isnan(backend.to_numpy(a)).all() for a in others), True)
    return {}


def _load_in_capture(stage: Stage) -> Numbers:
    """Let a backend that has loaded no kernel yet launch one inside a capture."""
    name = stage.options.backend
    fresh = emulated_backend() if stage.emulated else cuda_backend(int(name.partition(":")[2] or 0))
    recorder, x = fresh.recorder(), fresh.asarray(np.array([0, 1, 4], np.float32))
    recording, y = recorder.record(lambda: fresh.unary("sqrt", x))
    with recorder.current():
        recording.launch()
    _expect("a replay", fresh.to_numpy(y).tolist(), [0, 1, 2])
    return {}


def _reads_in_capture(backend: CudaBackend) -> Numbers:
    x = backend.asarray(np.array([1, 2], np.float32))
    for what, act in (
        ("a host read", lambda: backend.to_numpy(x)),
        ("a copy from the host", lambda: backend.asarray(np.array([3], np.float32))),
        ("a wait", backend.synchronize),
    ):
        try:
            backend.recorder().record(act)
        except BackendError:
            continue
        raise FailedError(f"{what} was captured")
    recorder = backend.recorder()
    recording, y = recorder.record(lambda: backend.unary("negative", x))
    with recorder.current():
        recording.launch()
    _expect("a capture after those that were refused", backend.to_numpy(y).tolist(), [-1, -2])
    return {}


def _cupys_reads_in_capture(backend: CudaBackend) -> Numbers:
    """gpunet refuses these calls itself. CUDA must refuse them too, because a user may call CuPy
    directly."""
    x, cuda = backend.asarray(np.array([1, 2], np.float32)), backend.arrays.cupy.cuda  # type: ignore[attr-defined]
    for what, act in (
        ("array.get()", x.get),
        ("Stream.synchronize()", lambda: cuda.get_current_stream().synchronize()),
        ("Device.synchronize()", lambda: cuda.Device().synchronize()),
    ):
        try:
            backend.recorder().record(act)
        except RuntimeError:
            continue
        raise FailedError(f"{what} was captured")
    _expect("what is computed after that", backend.to_numpy(backend.unary("negative", x)).tolist(), [-1, -2])
    return {}


def _feeds(backend: CudaBackend) -> Numbers:
    recorder = backend.recorder()
    feed, y = recorder.feed((100_000,), np.float32), backend.empty((100_000,), np.float32)
    backend.copy(feed.device, out=y)
    recording, _ = recorder.record(lambda: backend.copy(feed.device, out=y))
    with recorder.current():
        for i in range(50):
            feed.host[...] = i
            feed.send()
            recording.launch()
            got = backend.to_numpy(y)
            _expect(f"the batch of replay {i}", (got.min(), got.max()), (i, i))
    return {"replays": 50}


def _weight_grad(backend: CudaBackend, seed: int) -> Any:
    """A function that computes a weight gradient on random inputs; its kernel is loaded when it has
    run once."""
    rng = np.random.default_rng(seed)
    dy, x = (backend.asarray(rng.normal(size=s).astype(np.float32)) for s in (GEOMETRY.y_shape, GEOMETRY.x_shape))
    return lambda: backend.conv2d_weight_grad(dy, x, Conv(GEOMETRY))


def _replays(backend: CudaBackend) -> Numbers:
    work, recorder, bits = _weight_grad(backend, 0), backend.recorder(), Bits(backend)
    with recorder.current():
        first = work()
        recording, results = recorder.record(work)
        for _ in range(REPLAYS):
            recording.launch()
            for a, b in zip(results, first, strict=True):
                bits.compare(a, b)
    return bits.all_equal("a replay's result differs from the eager one")


def _two_streams(backend: CudaBackend) -> Numbers:
    """Replay kernels whose blocks use a counter on two streams that do not wait for each other."""
    works, recorders = [_weight_grad(backend, seed) for seed in (1, 2)], [backend.recorder() for _ in range(2)]
    expected = [work() for work in works]
    recordings = [recorder.record(work) for recorder, work in zip(recorders, works, strict=True)]
    bits, times = Bits(backend), 200
    for _ in range(10):
        for _ in range(times // 10):
            for recorder, (recording, _) in zip(recorders, recordings, strict=True):
                with backend.arrays.on(recorder.stream):
                    recording.launch()
        backend.synchronize()
        for (_, results), right in zip(recordings, expected, strict=True):
            for a, b in zip(results, right, strict=True):
                bits.compare(a, b)
        backend.synchronize()  # before the next replays write to the results
    return {"replays": 2 * times, **bits.all_equal("a result differs from that of one stream alone")}


def _recorders(backend: CudaBackend) -> Numbers:
    """Make and drop recorders that take 8 MiB twice each. Afterwards less memory than one array may
    be in use."""
    x = backend.full((FLOATS,), 1.0, np.float32)

    def make_and_drop() -> None:
        recorder = backend.recorder()
        recording, y = recorder.record(lambda: backend.unary("exp", backend.unary("negative", x)))
        with recorder.current():
            recording.launch()
        del recording, recorder, y

    make_and_drop()  # a driver keeps some memory that the first recorders took
    free_unused(backend.arrays)
    before = backend.arrays.used_bytes()
    for _ in range(RECORDERS):
        make_and_drop()
    free_unused(backend.arrays)
    numbers = {"bytes more than before": backend.arrays.used_bytes() - before}
    if numbers["bytes more than before"] >= 4 * FLOATS:
        raise FailedError("the device's memory is not given back", numbers)
    return numbers


def _expect(what: str, got: object, expected: object) -> None:
    if got != expected:
        raise FailedError(f"{what}: got {got}, expected {expected}")
