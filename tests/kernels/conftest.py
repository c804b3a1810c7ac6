"""Fixtures that run a test on every device and with both variants of a kernel."""

from collections.abc import Callable

import numpy as np
import pytest

from gpunet.backends.cuda.backend import CudaBackend
from gpunet.backends.reference.backend import ReferenceBackend


@pytest.fixture(params=["fast", "simple"])
def device_backend(request: pytest.FixtureRequest, cuda_backend: CudaBackend) -> CudaBackend:
    """The CUDA backend, with the kernels that it selects and with the simple variants."""
    if request.param == "fast":
        return cuda_backend
    return CudaBackend(cuda_backend.arrays, cuda_backend.launcher, simple=True, name=cuda_backend.name)


@pytest.fixture
def reference() -> ReferenceBackend:
    return ReferenceBackend()


@pytest.fixture
def normal(rng: np.random.Generator) -> Callable[..., np.ndarray]:
    """Return standard normal float32 numbers of a shape."""
    return lambda *shape: rng.normal(size=shape).astype(np.float32)


@pytest.fixture
def agrees(device_backend: CudaBackend) -> Callable[..., None]:
    """Assert that an array has the reference's NaN and infinities, and a small error elsewhere."""

    def check(got: object, expected: np.ndarray, tolerance: float = 2e-6) -> None:
        host = device_backend.to_numpy(got)
        assert host.shape == expected.shape
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(host[~finite], expected[~finite])
        error = np.linalg.norm((host[finite] - expected[finite]).astype(np.float64))
        assert error <= tolerance * max(np.linalg.norm(expected[finite].astype(np.float64)), 1e-30)

    return check
