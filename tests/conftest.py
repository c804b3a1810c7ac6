"""One body, every backend: a test that takes `backend` runs once on each of `BACKENDS`."""

import os

import hypothesis
import numpy as np
import pytest
import standin

import gpunet as gp
from gpunet.backends import get_backend, why_unavailable

if os.environ.get(standin.VARIABLE) == "1":
    from standin.install import install

    os.environ.update(standin.environment())
    install().present = True

BACKENDS = ["reference", "numpy", "emulated"]

hypothesis.settings.register_profile(
    "gpunet", derandomize=True, database=None, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("gpunet")


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request):
    """The backend under test; skipped, with the reason, where it cannot run."""
    why = why_unavailable(request.param)
    if why:
        pytest.skip(why)
    return get_backend(request.param)


@pytest.fixture(scope="session")
def dtype(backend):
    """The widest float dtype that the backend computes in."""
    return np.dtype("float64" if "float64" in backend.dtypes else "float32")


@pytest.fixture
def rng():
    """Random numbers that depend on nothing."""
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _fresh_seed():
    """Each test draws as a fresh process does, whatever ran before it."""
    gp.seed(0)
