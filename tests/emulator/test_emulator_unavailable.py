"""What the emulated backend says if it cannot run."""

import shutil
import sys
import tomllib
from pathlib import Path

import pytest

import gpunet as gp
from gpunet import cli
from gpunet.backends import why_unavailable
from gpunet.backends.registry import _make
from gpunet.emulator import build
from gpunet.nvrtc import compiler


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(compiler, "why_unavailable", lambda: "")


def test_another_system_is_named(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "runs on Linux on x86-64, and this is darwin on" in why_unavailable("emulated")


def test_another_processor_is_named(monkeypatch):
    monkeypatch.setattr(build.platform, "machine", lambda: "aarch64")
    assert why_unavailable("emulated").endswith("on aarch64")


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("CXX", "strange-c++")
    assert (
        "needs a C++ compiler, and strange-c++ is not found: install it (Debian, Ubuntu: apt-get install g++"
        in why_unavailable("emulated")
    )


def test_missing_nvrtc_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(compiler, "why_unavailable", lambda: f"NVRTC is not installed: {compiler.INSTALL}")
    why = why_unavailable("emulated")
    assert why.startswith("the CUDA emulator needs NVRTC: ")
    assert 'pip install "gpunet[emulator]"' in why
    assert cli.main(["info"]) == 0
    assert f"emulated: not available: {why}" in capsys.readouterr().out
    with pytest.raises(gp.BackendError, match="the CUDA emulator needs NVRTC"):
        _make.__wrapped__("emulated", 0)  # not from the cache of backends


def test_the_extras_pin_one_cuda_release():
    """Emulator, gate and CuPy compile with one NVRTC, and pip can install all three."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]

    def pins(extra):
        found = dict(requirement.split("==") for requirement in extras[extra] if "==" in requirement)
        return {name.partition("[")[0]: release for name, release in found.items()}

    assert pins("cuda13") == {"cuda-toolkit": "13.0.*", "cuda-bindings": "13.0.*"}
    # the first release of the disassembler that is a wheel; it needs nothing and reads 13.0's
    # cubins
    disassembler = {"nvidia-cuda-nvdisasm": "13.2.*"}
    assert pins("emulator") == pins("cuda13") | disassembler
    assert set(pins("cuda12").values()) == {"12.9.*"}
    (toolkit,) = (r for r in extras["emulator"] if r.startswith("cuda-toolkit"))
    assert toolkit in extras["cuda13"]
    assert set(toolkit.partition("[")[2].partition("]")[0].split(",")) == {"nvrtc", "cudart", "crt"}
    assert any("cuda13,emulator" in requirement for requirement in extras["test"])
