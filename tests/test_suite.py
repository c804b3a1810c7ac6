"""The suite itself: the backends that it is asked to test, and the warnings that fail it."""

import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from helpers.backends import BACKENDS, CUDA, GPU_WARNINGS, HOST, VARIABLE, names_in, why_untestable

TESTS = Path(__file__).parent
NAMING = {"check", "emulator", "bench", "standin", "helpers", "parity", "reliability", "test_suite.py"}
"""Where tests are about the emulated device or its speed, where it is said which backends there are, and scripts."""


def test_devices_are_added_to_the_host_and_the_emulated_one():
    assert names_in("cuda, cuda:1,,cuda") == ("cuda", "cuda:1")
    assert names_in("") == ()
    assert BACKENDS[: len(HOST) + 1] == (*HOST, "emulated")
    assert BACKENDS[len(HOST) :] == CUDA == names_in(f"emulated {os.environ.get(VARIABLE, '')}")


def test_a_test_runs_on_each_of_them(request, cuda_name, cuda_backend):
    assert cuda_name in CUDA
    assert cuda_name in request.node.name  # for -k
    assert cuda_backend.name == cuda_name.partition(":")[0]


@pytest.mark.parametrize(
    ("name", "why"),
    [("gpu", 'takes reference, numpy, emulated, cuda, "cuda:1"'), ("numpy", "no CUDA backend"), ("cuda:99", "CUDA")],
)
def test_what_cannot_be_tested_stops_the_session_and_says_why(name, why):
    assert why in why_untestable(name)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", TESTS / "test_imports.py"]
    done = subprocess.run(command, env={**os.environ, VARIABLE: name}, capture_output=True, text=True)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {VARIABLE} names '{name}', which cannot be tested: {why_untestable(name)}" in done.stderr


def warn_as(module, message):
    """Raise a UserWarning from a module of that name."""
    exec("import warnings; warnings.warn(message)", {"__name__": module, "message": message})


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            "cupy._environment",
            "\n----\n\n  CuPy may not function correctly because multiple CuPy packages are installed",
        ),
        (
            "gpunet.cuda.cupy_arrays",
            "Using synchronous transfer as pinned memory (64 bytes) could not be allocated. This",
        ),
        ("cuda.pathfinder", "Multiple CUDA environment variables are set but differ:\n  CUDA_PATH=a\n  CUDA_HOME=b"),
    ],
)
def test_a_warning_that_is_named_is_shown_and_any_other_is_an_error(module, message):
    assert all(GPU_WARNINGS.values())
    with warnings.catch_warnings(record=True) as caught:
        warn_as(module, message)
    assert [str(warning.message) for warning in caught] == [message]
    for other in ("cupy._core", "gpunet.cuda.cupy_arrays"):
        with pytest.raises(UserWarning, match="CuPy says something new"):
            warn_as(other, "CuPy says something new")


def test_no_test_names_the_emulated_device_where_any_cuda_backend_would_do():
    for path in TESTS.rglob("*.py"):
        text = path.read_text()
        if path.relative_to(TESTS).parts[0] not in NAMING and "needs_emulator" not in text:
            assert not re.search("""["']emulated["']""", text), (
                f"{path.name}: take the fixture cuda_name or cuda_backend"
            )


@pytest.mark.skipif(not (TESTS.parent / ".gitignore").exists(), reason="not a checkout: there is no .gitignore")
def test_what_examples_write_unasked_stands_in_a_folder_that_git_ignores():
    ignored = (TESTS.parent / ".gitignore").read_text().split()
    examples = sorted((TESTS.parent / "examples").glob("*.py"))
    pattern = r'"--output",[^\n]*default=(?:Path\()?"([^"]+)"'
    outputs = [name for path in examples for name in re.findall(pattern, path.read_text())]
    assert len(outputs) >= 6
    assert [name for name in outputs if f"{name.split('/')[0]}/" not in ignored] == []


READ_ONLY = """
set -e
mount --bind . . && mount -o remount,ro,bind . && cd "$PWD"
if touch x 2>/dev/null; then exit 1; fi
python="$1"; out="$2"
"$python" -m pytest -q tests/test_geometry.py tests/backends/test_permutation.py
"$python" -m gpunet info
"$python" -m gpunet summary lenet
"$python" -m gpunet train --epochs 1 --backend numpy --output "$out/run"
"$python" -m gpunet eval "$out/run/best.safetensors" --backend numpy
"$python" -m gpunet check --stages environment --backend emulated
"""


@pytest.mark.slow
def test_a_checkout_that_can_only_be_read_is_enough(tmp_path):
    """For the suite and the commands; root may write everywhere, but not into what is mounted read-only."""
    mounting = ["unshare", "--mount", "--map-root-user", "sh", "-c", "mount --bind . ."]
    if not shutil.which("unshare") or subprocess.run(mounting, cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("this system lets us mount nothing")
    checkout, temporary = tmp_path / "checkout", tmp_path / "temporary"
    temporary.mkdir()
    checkout.mkdir()
    for name in ("gpunet", "kernels", "tests", "pyproject.toml"):
        source = TESTS.parent / name
        if source.is_dir():
            shutil.copytree(source, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, checkout / name)
    before = sorted(checkout.rglob("*"))
    environment = {**os.environ, "PYTHONPATH": str(checkout), "TMPDIR": str(temporary)}
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", READ_ONLY, "sh", sys.executable, temporary]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(checkout.rglob("*")) == before
    assert list(temporary.glob("gpunet-check-*/record.jsonl"))
