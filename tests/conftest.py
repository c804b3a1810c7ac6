"""One body, every backend: a test that takes `backend` runs once on each, one that takes `cuda_name` or `cuda_backend` once
on each that launches kernels. `helpers.backends` says which there are."""

import gc
import os

import before_numpy  # noqa: F401
import hypothesis
import numpy as np
import pytest
import standin
from helpers.backends import BACKENDS, CUDA, GPU_WARNINGS, check_asked, skip_unavailable

import gpunet as gp
from gpunet.backends import get_backend

if os.environ.get(standin.VARIABLE) == "1":
    from standin.install import install

    os.environ.update(standin.environment())
    install().present = True

os.environ.setdefault("GPUNET_PROGRESS", "0")  # what long work says would stand between the results

hypothesis.settings.register_profile(
    "gpunet", derandomize=True, database=None, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("gpunet")


def pytest_configure(config):
    check_asked()
    config.addinivalue_line("filterwarnings", "default:.* is used instead; GPUNET_CACHE can name another")
    # a checkout that can only be read
    config.addinivalue_line("filterwarnings", "ignore:could not create cache path:pytest.PytestCacheWarning")
    # JAX warns of every fork in a process in which it has computed; the children that tests fork do not use it
    config.addinivalue_line("filterwarnings", "ignore:.*JAX is multithreaded:RuntimeWarning")
    for warning in GPU_WARNINGS:
        config.addinivalue_line("filterwarnings", warning)


def pytest_report_header():
    return f"gpunet's backends: {', '.join(BACKENDS)}"


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request):
    """The backend under test; skipped, with the reason, where it cannot run."""
    return get_backend(skip_unavailable(request.param))


@pytest.fixture(scope="session", params=CUDA)
def cuda_name(request):
    """The name of the CUDA backend under test; skipped, with the reason, where it cannot run."""
    return skip_unavailable(request.param)


@pytest.fixture(scope="session")
def cuda_backend(cuda_name):
    """The CUDA backend under test."""
    return get_backend(cuda_name)


@pytest.fixture(scope="session")
def dtype(backend):
    """The widest float dtype that the backend computes in: float64 on a CPU, float32 on CUDA."""
    return np.dtype("float64" if "float64" in backend.dtypes else "float32")


@pytest.fixture(scope="module", autouse=True)
def _garbage_of_this_file():
    """Keep Python from looking for garbage among what was there before the tests of a file.

    The tests and modules of the session are a million objects, among which a `gc.collect()` in a test looked for a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def rng():
    """Random numbers that depend on nothing."""
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _fresh_seed():
    """Each test draws as a fresh process does, whatever ran before it."""
    gp.seed(0)
