"""Checks that one seed gives one result, bit for bit.

On a GPU, whose blocks really run at the same time, kernels run many times at full size. The
emulated device runs one small step under several schedules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gpunet import functional as F
from gpunet import models, optim, random
from gpunet.autograd import tensor
from gpunet.backends import Backend
from gpunet.backends.contract import Activation, Array, BatchNorm, Conv, Moments
from gpunet.backends.cuda.backend import CudaBackend, emulated_backend
from gpunet.check.bits import Bits
from gpunet.check.stage import FailedError, Numbers, Stage
from gpunet.emulator import Schedule
from gpunet.emulator.launches import Settings
from gpunet.geometry import Geometry
from gpunet.modes import late_results

RUNS, BATCH = 200, 512
SCHEDULES = (Schedule("fifo"), Schedule("lifo"), Schedule("random", 1), Schedule("random", 2))
SMALL_BATCH = 2
"""Images of a step of `cnn` on the emulated device."""

Work = Callable[[], Sequence[Array]]


def run(stage: Stage) -> None:
    """Compare the bits of many runs with those of the first."""
    if stage.emulated:
        stage.check(f"a step of cnn, {SMALL_BATCH} images, {len(SCHEDULES)} schedules", _under_schedules)
        return
    for what, make in PRIMITIVES.items():
        stage.check(f"{what}, {BATCH} images, {RUNS} runs", _repeated, stage.backend, make)
    stage.check(f"a step of cnn, {BATCH} images, {RUNS} runs", _repeated, stage.backend, cnn_step)


def _repeated(backend: CudaBackend, make: Callable[[CudaBackend, int], Work]) -> Numbers:
    work, bits = make(backend, BATCH), Bits(backend)
    first = [backend.copy(a) for a in work()]
    for _ in range(RUNS):
        for a, b in zip(work(), first, strict=True):
            bits.compare(a, b)
    return bits.all_equal("a run differs from the first in its bits")


def _geometry(batch: int) -> Geometry:
    """The geometry of the second convolution of `cnn`."""
    return Geometry.conv((batch, 28, 28, 32), (3, 3, 32, 32), padding="same")


def _drawn(backend: Backend, *shapes: Sequence[int]) -> list[Array]:
    rng = np.random.default_rng(0)
    return [backend.asarray(rng.normal(size=shape).astype(np.float32)) for shape in shapes]


def _convolution(backend: CudaBackend, batch: int) -> Work:
    g = _geometry(batch)
    x, w, b = _drawn(backend, g.x_shape, g.w_shape, (g.filters,))
    return lambda: [backend.conv2d_forward(x, w, b, Conv(g, Activation("relu")))[0]]


def _input_grad(backend: CudaBackend, batch: int) -> Work:
    g = _geometry(batch)
    dy, w = _drawn(backend, g.y_shape, g.w_shape)
    return lambda: [backend.conv2d_input_grad(dy, w, Conv(g))]


def _weight_grad(backend: CudaBackend, batch: int) -> Work:
    g = _geometry(batch)
    dy, x = _drawn(backend, g.y_shape, g.x_shape)
    return lambda: list(backend.conv2d_weight_grad(dy, x, Conv(g)))


def _batch_norm(backend: CudaBackend, batch: int) -> Work:
    shape = _geometry(batch).x_shape
    x, dy, w, b = _drawn(backend, shape, shape, shape[-1:], shape[-1:])
    norm = BatchNorm(training=True)

    def work() -> Sequence[Array]:
        running = Moments(*(backend.full(shape[-1:], 0.0, np.float32) for _ in range(2)))
        y, saved = backend.batch_norm_forward(x, w, b, running, norm, None)
        return [y, *saved, *backend.batch_norm_backward(dy, x, y, w, b, saved, norm)[:3]]

    return work


PRIMITIVES: dict[str, Callable[[CudaBackend, int], Work]] = {
    "conv2d_forward": _convolution,
    "conv2d_input_grad": _input_grad,
    "conv2d_weight_grad": _weight_grad,
    "batch_norm": _batch_norm,
}


def cnn_step(backend: CudaBackend, batch: int) -> Work:
    """A function that runs a training step of `models.cnn` from the weights of seed 0 -> gradients
    and new weights."""
    random.seed(0)
    model = models.cnn((28, 28, 1), 10).to(backend)
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    rng = np.random.default_rng(0)
    x = tensor(rng.normal(size=(batch, 28, 28, 1)).astype(np.float32), backend=backend)
    labels = backend.asarray(rng.integers(0, 10, batch).astype(np.int32))
    arena = optimizer.arena
    start = backend.copy(arena.data)

    def work() -> Sequence[Array]:
        backend.copy(start, out=arena.data)
        random.begin_step(0, 0)
        optimizer.zero_grad()
        with late_results():
            loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return [arena.grad, arena.data]

    return work


def _under_schedules() -> Numbers:
    first: list[bytes] = []
    for schedule in SCHEDULES:
        backend = emulated_backend(Settings(schedule=schedule))
        left = [backend.to_numpy(a).tobytes() for a in cnn_step(backend, SMALL_BATCH)()]
        first = first or left
        if left != first:
            raise FailedError(
                f"under the schedule {schedule.kind}:{schedule.seed} the step leaves other bits than in order"
            )
    return {"schedules": len(SCHEDULES)}
