"""What a launch on the emulated device may touch, and what it counts."""

import numpy as np
import pytest

from gpunet.backends import why_unavailable
from gpunet.backends.contract import Activation
from gpunet.backends.cuda.backend import emulated_backend
from gpunet.backends.cuda.device import activation_fields
from gpunet.emulator import KernelFault
from gpunet.emulator.device_array import DeviceArray
from gpunet.emulator.launches import Settings, parse_schedule

pytestmark = pytest.mark.skipif(bool(why_unavailable("emulated")), reason=why_unavailable("emulated"))

RELU = activation_fields(Activation("relu"))


def test_a_launch_may_touch_the_bytes_of_a_view_alone():
    checked = emulated_backend(Settings(checked=True))
    arena = checked.asarray(np.zeros(64, np.float32))
    segment, x = arena[8:24], checked.asarray(np.ones(20, np.float32))
    launch = checked.launcher.launch
    launch("activation_forward<float>", 1, 32, (x[:16], segment, 16, RELU))
    with pytest.raises(
        KernelFault,
        match=r"^common\.cuh:\d+: activation_forward<float>: out of bounds: write of 4 bytes at byte 64 of y",
    ) as e:
        launch("activation_forward<float>", 1, 32, (x, segment, 20, RELU))
    assert e.value.kind == "out of bounds"


def test_an_unchecked_launch_finds_a_write_into_a_red_zone():
    plain = emulated_backend(Settings(checked=False))
    x, y = plain.asarray(np.ones(20, np.float32)), plain.empty((16,), np.float32)
    with pytest.raises(KernelFault, match=r"past the end of an array of shape \(16,\), float32.*, the argument y"):
        plain.launcher.launch("activation_forward<float>", 1, 32, (x, y, 20, RELU))


def test_a_checked_launch_refuses_to_read_what_nothing_wrote():
    checked = emulated_backend(Settings(checked=True))
    with pytest.raises(KernelFault, match=r"\d+: unary<float>: uninitialised: .* of a"):
        checked.unary("exp", checked.empty((5,), np.float32))
    assert checked.to_numpy(checked.unary("exp", checked.full((5,), 0.0, np.float32))).tolist() == [1] * 5


def test_an_argument_that_is_written_in_place_is_one_region():
    checked = emulated_backend(Settings(checked=True))
    a = checked.asarray(np.arange(6, dtype=np.float32))
    checked.binary("add", a, a, out=a)
    assert checked.to_numpy(a).tolist() == [0, 2, 4, 6, 8, 10]


def test_launches_are_counted():
    backend = emulated_backend(Settings())
    backend.unary("exp", backend.full((100,), 0.0, np.float32))
    totals = backend.launcher.totals
    assert totals["fill<float>"].stored == 400
    assert (totals["unary<float>"].loaded, totals["unary<float>"].stored, totals["unary<float>"].launches) == (
        400,
        400,
        1,
    )
    assert backend.launcher.covered == set()


def test_a_checked_launch_counts_what_it_does_with_each_argument():
    backend = emulated_backend(Settings(checked=True))
    x, scale = backend.asarray(np.ones((3, 5), np.float32)), backend.asarray(np.ones(1, np.float32))
    backend.binary("multiply", x, scale)
    counts = {t.name: (t.loaded, t.stored, t.read, t.written) for t in backend.launcher.last.regions}
    assert counts == {"a": (60, 0, 60, 0), "b": (60, 0, 4, 0), "y": (0, 60, 0, 60)}
    flags = backend.full((7,), 1, np.bool_)
    (filled,) = backend.launcher.last.regions
    assert (filled.stored, filled.written) == (7, 7)
    backend.concatenate([flags[1:], flags[:2]], 0)
    counts = {t.name: (t.loaded, t.stored, t.read, t.written) for t in backend.launcher.last.regions}
    assert counts == {"from": (2, 0, 2, 0), "to": (0, 2, 0, 2)}


def test_a_launch_that_is_not_checked_counts_in_all():
    backend = emulated_backend(Settings(checked=False))
    backend.full((100,), 0.0, np.float32)
    assert (backend.launcher.last.stored, backend.launcher.last.regions) == (400, ())


def test_allocations_are_counted():
    arrays = emulated_backend(Settings()).arrays
    x = arrays.asarray(np.zeros((3, 5), np.float32))
    arrays.empty((2,), np.float64)
    arrays.asarray(x)
    x.reshape(15)
    assert (arrays.allocations, arrays.allocated) == (2, 60 + 16)


def test_the_backend_describes_itself():
    backend = emulated_backend(Settings(checked=True, architecture="compute_90"))
    assert backend.name == "emulated"
    described = backend.describe()
    assert described["architecture"] == "compute_90"
    assert described["checks"] == "every access"
    assert isinstance(backend.empty((1,), np.float32), DeviceArray)


def test_the_environment_sets_how_kernels_run(monkeypatch):
    monkeypatch.setenv("GPUNET_EMULATOR_CHECKED", "1")
    monkeypatch.setenv("GPUNET_EMULATOR_SCHEDULE", "random:5")
    monkeypatch.setenv("GPUNET_EMULATOR_ARCH", "compute_90")
    assert Settings.from_environment() == Settings(True, parse_schedule("random:5"), "compute_90")
    monkeypatch.setenv("GPUNET_EMULATOR_CHECKED", "0")
    assert not Settings.from_environment().checked
    for text in ("slow", "fifo:1", "random:x"):
        with pytest.raises(ValueError, match="takes fifo, lifo, random or random:SEED"):
            parse_schedule(text)


@pytest.mark.parametrize("architecture", ["compute_75", "compute_90"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_architecture_rounds_alike(architecture, dtype, rng):
    """compute_75 has no instruction that rounds to bfloat16; code in NVIDIA's header does it."""
    backend = emulated_backend(Settings(architecture=architecture))
    a = np.concatenate([rng.normal(size=500) * 10.0 ** rng.integers(-9, 9, 500), [0, -0.0, np.inf, -np.inf, np.nan]])
    a = a.astype(np.float32)
    with np.errstate(over="ignore"):
        expected = a.astype(dtype)
    got = backend.to_numpy(backend.cast(backend.asarray(a), dtype))
    np.testing.assert_array_equal(got.astype(np.float32), expected.astype(np.float32))
