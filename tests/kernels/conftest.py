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
        assert host.shape == expected.shape, f"got shape {host.shape}, expected {expected.shape}"
        finite = np.isfinite(expected)
        difference = _differences(host, expected)
        error = np.linalg.norm(difference[finite])
        allowed = tolerance * max(np.linalg.norm(expected[finite].astype(np.float64)), 1e-30)
        agree = error <= allowed and not difference[~finite].any()
        if not agree:
            norm = f"the norm of the differences is {error:.3g}, allowed is {allowed:.3g}"
            pytest.fail(f"{_largest(difference, host, expected)}; {norm}")

    return check


def _differences(got: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The absolute differences: 0 between equal infinities and between NaN, infinite from NaN to a number."""
    equal = (got == expected) | (np.isnan(got) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        difference = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    return np.where(equal, 0.0, np.where(np.isnan(difference), np.inf, difference))


def _largest(difference: np.ndarray, got: np.ndarray, expected: np.ndarray) -> str:
    """The element that differs most, in words."""
    at = tuple(int(i) for i in np.unravel_index(difference.argmax(), difference.shape))
    return (
        f"element {at} differs most: got {got[at]}, expected {expected[at]}, which is {difference[at]:.3g} apart; "
        f"{np.count_nonzero(difference)} of {difference.size} elements differ"
    )
