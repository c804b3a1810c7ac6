"""What a recording says about launches and allocations. Nothing is computed."""

from types import SimpleNamespace

import numpy as np
import pytest
from recording import recording_backend as idle_backend

from gpunet.backends.contract import Product, Segments
from gpunet.backends.cuda.backend import recording_backend


@pytest.fixture
def recorded():
    """(the recording backend, its recording, the backend that it records)."""
    device = idle_backend()
    return *recording_backend(device), device


def ones(device, *shape):
    return device.arrays.asarray(np.ones(shape, np.float32))


def test_what_is_const_is_read_and_the_rest_is_written(recorded):
    backend, recording, device = recorded
    backend.matmul(ones(device, 3, 4), ones(device, 4, 5), Product(bias=ones(device, 5)))
    (launch,) = recording.launches
    arguments = {a.name: (a.shape, a.read, a.written) for a in launch.arguments}
    assert arguments == {
        "a": ((3, 4), True, False), "b": ((4, 5), True, False), "bias": ((5,), True, False), "y": ((3, 5), False, True),
    }  # fmt: skip
    assert (launch.read, launch.written, launch.flops) == (4 * (12 + 20 + 5), 4 * 15, 2 * 3 * 4 * 5)
    assert device.launcher.kernels == [launch.kernel]


def test_an_output_that_is_added_to_is_read_too(recorded):
    backend, recording, device = recorded
    out = ones(device, 3, 5)
    for add in (False, True):
        backend.matmul(ones(device, 3, 4), ones(device, 4, 5), Product(out=out, add=add))
    plain, added = (launch.read for launch in recording.launches)
    assert added - plain == out.nbytes


def test_what_is_marked_as_updated_is_read_and_written(recorded):
    backend, recording, device = recorded
    arena = SimpleNamespace(
        data=ones(device, 64), grad=ones(device, 64), slots={"momentum": ones(device, 64)}, shadow=None, scaling=None
    )
    backend.update("sgd", arena, Segments(np.array([[0, 64]]), np.zeros((1, 6))))
    (launch,) = recording.launches
    assert {a.name for a in launch.arguments if a.read and a.written} == {"data", "a_slot"}
    assert launch.written == 2 * 4 * 64
    assert launch.read == 3 * 4 * 64 + 16 + 48  # bounds and hyper-parameters too


def test_an_array_that_is_passed_twice_counts_once(recorded):
    backend, recording, device = recorded
    x = ones(device, 8)
    backend.binary("add", x, x)
    assert recording.launches[0].read == x.nbytes


def test_a_launch_that_is_refused_is_not_recorded(recorded):
    backend, recording, device = recorded
    with pytest.raises(TypeError, match="activation_forward<float>: takes 4 arguments"):
        backend.launcher.launch("activation_forward<float>", 1, 32, (ones(device, 8),))
    assert recording.launches == []


def test_allocations_are_the_arrays_that_are_made(recorded):
    backend, recording, _ = recorded
    x = backend.asarray(np.ones((2, 3)), np.float32)
    x.reshape(6)
    backend.empty((4,), np.uint8)
    backend.unary("exp", x)
    assert [(a.shape, a.dtype, a.bytes) for a in recording.allocations] == [
        ((2, 3), np.float32, 24), ((4,), np.uint8, 4), ((2, 3), np.float32, 24),
    ]  # fmt: skip


def test_labels_are_put_on_what_comes_next(recorded):
    backend, recording, _ = recorded
    for label in ("one", "two"):
        recording.label = label
        backend.full((2,), 0.0, np.float32)
    assert [launch.label for launch in recording.launches] == ["one", "two"]
    assert [allocation.label for allocation in recording.allocations] == ["one", "two"]
    recording.clear()
    assert not recording.launches + recording.allocations


def test_the_arrays_are_the_devices_own(recorded):
    backend, _, device = recorded
    assert backend.owns(ones(device, 2))
    assert backend.name == device.name
    assert backend.arrays.describe() == {}
