"""Batch and group norm in compiled loops, where their sums could lose digits."""

import numpy as np
import pytest

from gpunet.backends.contract import BatchNorm, GroupNorm, Moments
from gpunet.backends.numpy.backend import NumpyBackend
from gpunet.backends.numpy.compiled import library as compiled

needs_loops = pytest.mark.skipif(bool(compiled.why_unavailable()), reason=compiled.why_unavailable())


def far_from_its_sample(rng, c):
    """Pixels (2, 64, 64, C) around 1000, but around 0 wherever the loops look for a first guess at the mean of
    channels that fill a row."""
    x = rng.normal(size=(2 * 64 * 64, c)) + 1000
    x[::8] -= 1000
    return x.reshape(2, 64, 64, c).astype(np.float32)


@needs_loops
@pytest.mark.parametrize("shift", [0.0, 1e4])
@pytest.mark.parametrize("c", [1, 3, 64, 72, 200])
def test_moments_keep_their_digits_far_from_the_first_guess(rng, c, shift):
    for x in (far_from_its_sample(rng, c), (rng.normal(size=(2, 64, 64, c)) + shift).astype(np.float32)):
        running = Moments(np.zeros(c, np.float32), np.ones(c, np.float32))
        one, zero = np.ones(c, np.float32), np.zeros(c, np.float32)
        fast = NumpyBackend(threads=1, compiled=True)
        _, saved = fast.batch_norm_forward(x, one, zero, running, BatchNorm(training=True), None)
        exact = x.astype(np.float64)
        np.testing.assert_allclose(saved.mean, exact.mean(axis=(0, 1, 2)), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(saved.variance, exact.var(axis=(0, 1, 2)), rtol=5e-6)
        np.testing.assert_allclose(running.mean, 0.1 * exact.mean(axis=(0, 1, 2)), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(running.variance, 0.9 + 0.1 * exact.var(axis=(0, 1, 2), ddof=1), rtol=1e-5)
        _, of_groups = fast.group_norm_forward(x, one, zero, GroupNorm(num_groups=1))
        np.testing.assert_allclose(of_groups.mean[:, 0], exact.mean(axis=(1, 2, 3)), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(of_groups.variance[:, 0], exact.var(axis=(1, 2, 3)), rtol=5e-6)
