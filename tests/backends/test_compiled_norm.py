"""Batch and group norm on the NumPy backend, in compiled loops and without, where their sums could lose digits."""

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


@pytest.mark.parametrize("loops", [pytest.param(True, marks=needs_loops), False], ids=["compiled", "NumPy alone"])
@pytest.mark.parametrize("shift", [0.0, 1.5, 1e2, 1e4])
@pytest.mark.parametrize("c", [1, 3, 64, 72, 200])
def test_moments_keep_their_digits_far_from_the_first_guess(rng, c, shift, loops):
    for x in (far_from_its_sample(rng, c), (rng.normal(size=(2, 64, 64, c)) + shift).astype(np.float32)):
        running = Moments(np.zeros(c, np.float32), np.ones(c, np.float32))
        one, zero = np.ones(c, np.float32), np.zeros(c, np.float32)
        fast = NumpyBackend(threads=1, compiled=loops)
        _, saved = fast.batch_norm_forward(x, one, zero, running, BatchNorm(training=True), None)
        exact = x.astype(np.float64)
        np.testing.assert_allclose(saved.mean, exact.mean(axis=(0, 1, 2)), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(saved.variance, exact.var(axis=(0, 1, 2)), rtol=5e-6)
        np.testing.assert_allclose(running.mean, 0.1 * exact.mean(axis=(0, 1, 2)), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(running.variance, 0.9 + 0.1 * exact.var(axis=(0, 1, 2), ddof=1), rtol=1e-5)
        _, of_groups = fast.group_norm_forward(x, one, zero, GroupNorm(num_groups=1))
        np.testing.assert_allclose(of_groups.mean[:, 0], exact.mean(axis=(1, 2, 3)), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(of_groups.variance[:, 0], exact.var(axis=(1, 2, 3)), rtol=5e-6)


@pytest.mark.parametrize("loops", [pytest.param(True, marks=needs_loops), False], ids=["compiled", "NumPy alone"])
@pytest.mark.parametrize("shift", [0.0, 1.5, 1e2])
@pytest.mark.parametrize("c", [3, 64])
def test_the_sums_of_gradients_keep_their_digits(rng, c, shift, loops):
    x, dy = (
        (rng.normal(size=(2, 64, 64, c)) + shift).astype(np.float32),
        rng.normal(size=(2, 64, 64, c)).astype(np.float32),
    )
    exact = x.astype(np.float64)
    mean, variance = exact.mean(axis=(0, 1, 2)), exact.var(axis=(0, 1, 2))
    saved, one, norm = Moments(np.float32(mean), np.float32(variance)), np.ones(c, np.float32), BatchNorm(training=True)
    _, dw, db, _ = NumpyBackend(threads=1, compiled=loops).batch_norm_backward(dy, x, None, one, 0 * one, saved, norm)
    # of the mean as float32 has it
    expected = (dy * (exact - np.float32(mean))).sum(axis=(0, 1, 2)) / np.sqrt(variance + norm.eps)
    np.testing.assert_allclose(dw, expected, rtol=1e-5, atol=5e-4)
    np.testing.assert_allclose(db, dy.sum(axis=(0, 1, 2), dtype=np.float64), rtol=1e-5, atol=5e-4)


@pytest.mark.parametrize("loops", [pytest.param(True, marks=needs_loops), False], ids=["compiled", "NumPy alone"])
def test_a_variance_is_found_where_squares_are_too_large_for_float32(rng, loops):
    x = (5e19 + 1e17 * rng.normal(size=(4, 32, 32, 3))).astype(np.float32)
    running, one = Moments(np.zeros(3, np.float32), np.ones(3, np.float32)), np.ones(3, np.float32)
    backend = NumpyBackend(threads=1, compiled=loops)
    y, saved = backend.batch_norm_forward(x, one, 0 * one, running, BatchNorm(training=True), None)
    np.testing.assert_allclose(saved.variance, x.var(axis=(0, 1, 2), dtype=np.float64), rtol=1e-4)
    np.testing.assert_allclose(y.std(axis=(0, 1, 2)), 1, rtol=1e-4)
