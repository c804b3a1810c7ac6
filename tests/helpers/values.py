"""Values that suit a test, and how two arrays are compared."""

import numpy as np

from gpunet import Tensor


def host(value, backend=None):
    """A tensor, or a raw array of `backend`, as a NumPy array."""
    if isinstance(value, Tensor):
        return value.numpy()
    return np.asarray(value) if backend is None else backend.to_numpy(value)


def relative_error(actual, expected):
    """‖actual - expected‖ / ‖expected‖ in float64; absolute where nothing is expected."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    norm = np.linalg.norm(expected)
    return float(np.linalg.norm(actual - expected) / (norm if norm > 0 else 1.0))


def same(actual, expected, tolerances):
    """Assert that a host array agrees with what a test expects, within the tolerance of its dtype.

    Inputs are of size one, so a result that cancelled to less is measured against 1 for each element.
    """
    tolerance = tolerances[actual.dtype.name]
    norm = np.linalg.norm(np.asarray(expected, np.float64))
    error = relative_error(actual, expected) * (norm if norm > 0 else 1.0)
    allowed = tolerance * max(norm, np.sqrt(actual.size))
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}: {tolerance:.3g} of the norm"


def apart(rng, shape, gap=0.01):
    """Random numbers around 0, no two closer than `gap` and none closer than half of it to 0: far from ties and kinks."""
    size = int(np.prod(shape))
    order = rng.permutation(size) - (size - 1) // 2 - 0.5
    return (gap * order + rng.uniform(-0.1, 0.1, size) * gap).reshape(shape)
