"""A device that runs nothing: its arrays have no elements, and it launches what another device does."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from helpers import needs_cuda

from gpunet.backends.cuda.backend import dry_backend
from gpunet.cuda.description import H200
from gpunet.cuda.dry import DryArrays


@pytest.fixture
def arrays():
    return DryArrays("H200")


def test_arrays_have_shapes_and_addresses(arrays):
    x, y = arrays.empty((4, 6, 10), np.float32), arrays.empty((0, 3), "int64")
    assert (x.shape, x.size, x.ndim, x.nbytes, x.strides, x.dtype) == (
        (4, 6, 10),
        240,
        3,
        960,
        (240, 40, 4),
        np.float32,
    )
    assert (y.size, y.nbytes) == (0, 0)
    assert arrays.pointer(x) % 512 == arrays.pointer(y) % 512 == 0
    assert arrays.pointer(y) - arrays.pointer(x) == 1024
    part = x[1:3]
    assert (part.shape, arrays.pointer(part) - arrays.pointer(x)) == ((2, 6, 10), 240)
    assert x.reshape(-1, 10).shape == x.reshape((24, 10)).shape == (24, 10)
    assert x[9:].shape == (0, 6, 10)
    assert arrays.owns(part)
    assert not DryArrays("H200").owns(part)


def test_host_data_gives_its_shape_and_dtype(arrays):
    x = arrays.asarray(np.ones((2, 3)), np.float32)
    assert (x.shape, x.dtype) == ((2, 3), np.float32)
    assert arrays.asarray(x) is x
    narrow = arrays.asarray(x, ml_dtypes.bfloat16)
    assert (narrow.shape, narrow.dtype) == ((2, 3), ml_dtypes.bfloat16)


@pytest.mark.parametrize("read", [np.asarray, bool, float, int, list, lambda x: x == 1, lambda x: np.add(x, 1)])
def test_elements_cannot_be_read(arrays, read):
    with pytest.raises(TypeError):
        read(arrays.empty((1,), np.float32))
    with pytest.raises(TypeError, match="an array of shape \\(1,\\) on a device that runs nothing has no elements"):
        arrays.to_host(arrays.empty((1,), np.float32))


@pytest.mark.parametrize("wanted", [(5, 7), (-1, 7)])
def test_views_keep_the_number_of_elements(arrays, wanted):
    with pytest.raises(ValueError, match="cannot reshape an array of shape"):
        arrays.empty((3, 12), np.float32).reshape(wanted)
    with pytest.raises(ValueError, match="slices with a step of 1"):
        arrays.empty((3, 12), np.float32)[::2]


def test_launches_are_checked():
    backend = dry_backend("H200", H200)
    x = backend.empty((2, 3), np.float32)
    assert backend.binary("add", x, x).shape == (2, 3)
    assert backend.name == "H200, not run"
    with pytest.raises(TypeError, match="binary<float>: takes"):
        backend.launcher.launch("binary<float>", 1, 256, (x,))
    with pytest.raises(ValueError, match="no kernel instance"):
        backend.launcher.launch("binary<quad>", 1, 256, (x,))


@needs_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_is_recorded_as_on_a_device_that_runs_it(monkeypatch, cuda_name, precision):
    import gpunet as gp
    from gpunet import models, nn, optim
    from gpunet.report import plan as planning

    def placeless(plan):
        launches = [replace(x, arguments=tuple(replace(a, address=0) for a in x.arguments)) for x in plan.launches]
        return launches, plan.allocations

    monkeypatch.setattr(planning.model_of_time, "predict", lambda launches, gpu: ())
    monkeypatch.setattr(planning.model_of_time, "why_unavailable", lambda: "")
    model = nn.Sequential(*models.lenet().layers, nn.LayerNorm(10), nn.Dropout(0.1))
    options = {"batch_size": 3, "optimizer": lambda p: optim.Adam(p), "precision": precision}
    ran = gp.plan(model, (28, 28, 1), backend=cuda_name, **options)
    dry = gp.plan(model, (28, 28, 1), gpu="H200", **options)
    assert placeless(dry) == placeless(ran)
    assert len(dry.launches) > 12
    assert sum(launch.work.turns > 0 for launch in dry.launches) == 9
