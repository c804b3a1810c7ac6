"""Convolutions under every schedule, and a LeNet trained on the emulated device."""

import numpy as np
import pytest
import tolerances
from helpers import needs_emulator, relative_error

import gpunet as gp
from gpunet import functional as F
from gpunet import models, optim
from gpunet.backends import get_backend
from gpunet.backends.contract import Activation, BatchNorm, Conv, Gate, Moments
from gpunet.backends.cuda.backend import CudaBackend, emulated_backend
from gpunet.backends.reference.backend import ReferenceBackend
from gpunet.emulator import Schedule
from gpunet.emulator.launches import Settings
from gpunet.geometry import Geometry

pytestmark = needs_emulator

SCHEDULES = [Schedule("fifo"), Schedule("lifo"), *(Schedule("random", seed) for seed in (1, 2, 3))]
GEOMETRIES = {
    "one channel, wide window": Geometry.conv((2, 13, 12, 1), (5, 5, 1, 6), padding="same"),
    "channels by four": Geometry.conv((1, 11, 10, 20), (3, 3, 20, 68), padding=1),
    "odd channels, uneven stride and padding": Geometry.conv(
        (3, 9, 8, 5), (4, 3, 5, 70), padding=((2, 1), (0, 3)), stride=(2, 3)
    ),
    "dilated": Geometry.conv((2, 13, 12, 6), (3, 2, 6, 17), dilation=(2, 3), padding=2),
    # more pixels than one split of the weight gradient's sum takes
    "groups": Geometry.conv((3, 11, 11, 8), (3, 3, 4, 40), groups=2, padding=1, stride=2),
    "depthwise": Geometry.conv((3, 9, 8, 33), (5, 2, 1, 66), groups=33, padding=1),
    "one pixel": Geometry.conv((5, 1, 1, 30), (1, 1, 30, 65)),
}


@pytest.mark.parametrize("checked", [False, True], ids=["plain", "checked"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_a_convolution_is_the_same_bits_under_every_schedule(geometry, checked, rng):
    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    x, w, b, dy = (
        normal(*geometry.x_shape),
        normal(*geometry.w_shape),
        normal(geometry.filters),
        normal(*geometry.y_shape),
    )
    tanh = Activation("tanh")
    conv = Conv(geometry, tanh)
    reference = ReferenceBackend()
    y = reference.conv2d_forward(x, w, b, conv)[0]
    expected = [
        y,
        reference.conv2d_input_grad(dy, w, conv, Gate(y, tanh)),
        *reference.conv2d_weight_grad(dy, x, conv, Gate(y, tanh)),
    ]
    for simple in (False, True):
        first = None
        for schedule in SCHEDULES:
            fast = emulated_backend(Settings(checked=checked, schedule=schedule))
            device = CudaBackend(fast.arrays, fast.launcher, simple=simple)
            on = device.asarray
            gate = Gate(on(y), tanh)
            got = [
                device.conv2d_forward(on(x), on(w), on(b), conv)[0],
                device.conv2d_input_grad(on(dy), on(w), conv, gate),
                *device.conv2d_weight_grad(on(dy), on(x), conv, gate),
            ]
            arrays = [device.to_numpy(a) for a in got]
            if first is None:
                first = arrays
                for mine, theirs in zip(arrays, expected, strict=True):
                    assert relative_error(mine, theirs) <= 4 * tolerances.BACKENDS["float32"]
            for mine, once in zip(arrays, first, strict=True):
                np.testing.assert_array_equal(mine, once, err_msg=f"{schedule}")


@pytest.mark.parametrize("shape", [(3, 41, 13, 8), (70, 37)], ids=str)
def test_batch_norm_is_the_same_bits_under_every_schedule(shape, rng):
    x, dy, weight, bias = (rng.normal(size=s).astype(np.float32) for s in (shape, shape, shape[-1:], shape[-1:]))
    norm, first = BatchNorm(training=True, activation=Activation("relu"), residual=True), None
    for schedule in SCHEDULES:
        device = emulated_backend(Settings(checked=True, schedule=schedule))
        on, zeros = device.asarray, np.zeros(shape[-1], np.float32)
        running = Moments(on(zeros.copy()), on(zeros.copy()))
        y, saved = device.batch_norm_forward(on(x), on(weight), on(bias), running, norm, None)
        grads = device.batch_norm_backward(on(dy), on(x), y, on(weight), on(bias), saved, norm)
        arrays = [device.to_numpy(a) for a in (y, *saved, *running, *grads)]
        first = arrays if first is None else first
        for mine, once in zip(arrays, first, strict=True):
            np.testing.assert_array_equal(mine, once, err_msg=f"{schedule}")


def losses(backend, make_optimizer, steps=6):
    gp.seed(0)
    rng = np.random.default_rng(0)
    model = models.lenet((28, 28, 1), 10).to(backend)
    optimizer = make_optimizer(model.parameters())
    images = gp.tensor(rng.normal(size=(12, 28, 28, 1)).astype(np.float32), backend=backend)
    labels, seen = rng.integers(0, 10, 12), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return np.array(seen)


OPTIMIZERS = {
    "SGD": lambda parameters: optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4),
    "Adam": lambda parameters: optim.Adam(parameters, lr=1e-3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("checked", [False, True], ids=["plain", "checked"])
def test_a_lenet_trains_with_numpys_losses(name, checked):
    steps = 4 if checked else 6  # a checked step takes seconds
    expected = losses(get_backend("numpy"), OPTIMIZERS[name], steps)
    got = losses(emulated_backend(Settings(checked=checked)), OPTIMIZERS[name], steps)
    assert expected[-1] < 0.95 * expected[0]
    np.testing.assert_allclose(got, expected, rtol=tolerances.LOSS_CURVE)
