import subprocess
import sys
from types import SimpleNamespace

import pytest

from gpunet.backends import get_backend, why_unavailable
from gpunet.errors import BackendError


def fake_cupy(monkeypatch, *, devices=0, driver=0, error=None):
    class CUDARuntimeError(RuntimeError):
        pass

    def count():
        if error:
            raise CUDARuntimeError(error)
        return devices

    runtime = SimpleNamespace(getDeviceCount=count, driverGetVersion=lambda: driver, CUDARuntimeError=CUDARuntimeError)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))


def test_a_device_that_answers_is_available(monkeypatch):
    fake_cupy(monkeypatch, devices=1, driver=13000)
    assert why_unavailable("cuda") == ""


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"error": "cudaErrorInsufficientDriver: too old"}, "needs an NVIDIA driver, and none answers"),
        (
            {"error": "cudaErrorInsufficientDriver: too old", "driver": 12040},
            "newer NVIDIA driver than this one, of CUDA 12.4",
        ),
        ({"error": "cudaErrorNoDevice: none", "driver": 13000}, "the driver shows no device (cudaErrorNoDevice: none)"),
        ({"driver": 13000}, "the driver shows no device:"),
    ],
)
def test_the_message_names_what_is_missing_and_how_to_install(monkeypatch, state, reason):
    fake_cupy(monkeypatch, **state)
    why = why_unavailable("cuda")
    assert reason in why
    assert 'pip install "gpunet[cuda13]"' in why
    assert "\n" not in why


def test_without_cupy_the_message_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "CUDA needs CuPy" in why_unavailable("cuda")
    with pytest.raises(BackendError, match="CUDA needs CuPy"):
        get_backend("cuda:7")


def test_cupy_is_not_imported_before_it_is_asked_for():
    modules = "gpunet.backends.cuda.backend, gpunet.cuda.gate, gpunet.cuda.cupy_arrays"
    code = f"import sys, {modules}; assert 'cupy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
