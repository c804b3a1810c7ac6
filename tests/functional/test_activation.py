import re

import numpy as np
import pytest
import scipy.special
import tolerances
from helpers import apart, check_gradients, gradients, host, same

import gpunet as gp
from gpunet import functional as F
from gpunet.backends.base import Activation
from gpunet.backends.numpy_gelu import normal_cdf

ORACLES = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "sigmoid": scipy.special.expit,
    "tanh": np.tanh,
    "gelu": lambda x: x * scipy.special.ndtr(x),
    "softmax": lambda x: scipy.special.softmax(x, axis=-1),
    "log_softmax": lambda x: scipy.special.log_softmax(x, axis=-1),
}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("shape", [(3, 5), (7,), (2, 3, 4, 5)])
def test_activations_and_their_gradients(backend, dtype, rng, name, shape):
    x = apart(rng, shape, gap=0.05).astype(dtype)
    y = getattr(F, name)(gp.tensor(x, backend=backend))
    same(y.numpy(), ORACLES[name](x.astype(np.float64)), tolerances.ORACLE)
    check_gradients(getattr(F, name), [x], backend=backend, rng=rng)


@pytest.mark.parametrize("slope", [0.2, 1.5])
def test_leaky_relu_takes_its_slope(backend, dtype, rng, slope):
    x = apart(rng, (4, 5)).astype(dtype)
    y = F.leaky_relu(gp.tensor(x, backend=backend), slope)
    same(y.numpy(), np.where(x > 0, x, slope * x.astype(np.float64)), tolerances.ORACLE)
    check_gradients(lambda x: F.leaky_relu(x, slope), [x], backend=backend, rng=rng)


@pytest.mark.parametrize(("name", "at_zero"), [("relu", 0), ("leaky_relu", 0.01)])
def test_zero_counts_as_negative(backend, name, at_zero):
    x = gp.tensor([-1.0, -0.0, 0.0, 1.0], backend=backend, requires_grad=True)
    getattr(F, name)(x).backward(np.ones(4, np.float32))
    np.testing.assert_allclose(host(x.grad, backend), [at_zero, at_zero, at_zero, 1], rtol=1e-6)


@pytest.mark.parametrize("slope", [1e-6, 0.01, 0.3, 100.0])
def test_the_slope_of_leaky_relu_is_exact(backend, slope):
    x = gp.tensor([-3.0, 2.0], backend=backend, requires_grad=True)
    F.leaky_relu(x, slope).backward(np.array([3, 5], np.float32))
    np.testing.assert_allclose(host(x.grad, backend), [3 * slope, 5], rtol=1e-6)


@pytest.mark.parametrize("name", ORACLES)
def test_activations_pass_nan_forward_and_backward(backend, name):
    x = gp.tensor([[1.0, -1.0, 2.0], [1.0, np.nan, -2.0]], backend=backend, requires_grad=True)
    y = getattr(F, name)(x)
    row = name.endswith("softmax")
    np.testing.assert_array_equal(np.isnan(y.numpy()), [[False] * 3, [row, True, row]])
    upstream = np.array([[np.nan, 1, 1], [1, 1, 1]], np.float32)
    y.backward(upstream)
    assert np.isnan(host(x.grad, backend)[0, 0])
    if not row:
        assert not np.isnan(host(x.grad, backend)[0, 1:]).any()


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh"])
def test_a_nan_output_keeps_its_gradient_visible(backend, name):
    x = gp.tensor([np.nan, 1.0], backend=backend, requires_grad=True)
    getattr(F, name)(x).backward(np.array([np.nan, 1], np.float32))
    assert np.isnan(host(x.grad, backend)[0])


@pytest.mark.parametrize("name", ORACLES)
def test_extreme_inputs_neither_overflow_nor_warn(backend, name):
    x = np.array([[-1000, -90, 0, 90, 1000]], np.float32)
    y, (dx,) = gradients(getattr(F, name), [x], lambda s: np.ones(s, np.float32), backend=backend, dtype="float32")
    expected = ORACLES[name](x.astype(np.float64))
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-38)
    assert np.isfinite(dx).all()


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh"])
def test_infinite_inputs_have_their_limits(backend, name):
    x = np.array([-np.inf, np.inf], np.float32)
    limits = {"relu": [0, np.inf], "leaky_relu": [-np.inf, np.inf], "sigmoid": [0, 1], "tanh": [-1, 1]}[name]
    np.testing.assert_array_equal(getattr(F, name)(gp.tensor(x, backend=backend)).numpy(), limits)


def test_softmax_gives_a_masked_class_no_share(backend):
    x = gp.tensor([[1.0, -np.inf, 2.0]], backend=backend, requires_grad=True)
    y = F.softmax(x)
    assert y.numpy()[0, 1] == 0
    np.testing.assert_allclose(y.numpy().sum(), 1, rtol=1e-6)
    y.backward(np.array([[1, 2, 3]], np.float32))
    assert np.isfinite(host(x.grad, backend)).all()


def test_large_arrays_agree_with_the_reference(backend, rng):
    # large enough to be cut into parts and blocks
    x = rng.normal(size=(3, 5, 50_021)).astype(np.float32)
    upstream = rng.normal(size=x.shape).astype(np.float32)
    for name in ("relu", "leaky_relu", "sigmoid", "tanh"):
        here, there = (
            gradients(getattr(F, name), [x], lambda _: upstream, backend=b, dtype="float32")
            for b in (backend, gp.get_backend("reference"))
        )
        same(here[0], there[0], tolerances.BACKENDS)
        same(here[1][0], there[1][0], tolerances.BACKENDS)


def test_bad_activations_are_named(backend):
    x = gp.tensor(np.ones((1, 3, 3, 1), np.float32), backend=backend)
    with pytest.raises(ValueError, match=re.escape("conv2d: activation is 'gelu' but takes one of relu, leaky_relu")):
        F.conv2d(x, np.ones((2, 2, 1, 1)), activation="gelu")
    with pytest.raises(ValueError, match="linear: activation is 'softmax' but takes one of"):
        F.linear(x, np.ones((1, 1)), activation="softmax")
    with pytest.raises(ValueError, match="activation: name is 'gelu' but takes one of"):
        Activation("gelu")
    for slope in (0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=f"leaky_relu: negative_slope is {slope} but must be positive"):
            F.leaky_relu(x, slope)
    for f in (F.softmax, F.log_softmax):
        with pytest.raises(ValueError, match="softmax: x has no axes but takes at least one, the classes"):
            f(F.sum(x))


def test_gelu_is_exact_far_from_zero_too(backend, dtype):
    x = np.concatenate([np.linspace(-12, 12, 4801), [-30, 30, -0.0, 1e-30, -1e-30, np.nan]]).astype(dtype)
    wide = x.astype(np.float64)
    expected = wide * scipy.special.ndtr(wide)
    slope = scipy.special.ndtr(wide) + wide * np.exp(-wide * wide / 2) / np.sqrt(2 * np.pi)
    t = gp.tensor(x, backend=backend, requires_grad=True)
    y = F.gelu(t)
    y.backward(np.ones(x.shape, dtype))
    relative, smallest = (1e-12, 1e-300) if dtype == np.float64 else (2e-5, 1e-30)
    np.testing.assert_allclose(y.numpy(), expected, rtol=relative, atol=smallest)
    np.testing.assert_allclose(host(t.grad, backend), slope, rtol=relative, atol=1e-7 * relative / 1e-5)


def test_numpys_normal_distribution_is_scipys_to_the_last_digits(rng):
    x = np.concatenate([rng.normal(size=50_000) * 3, np.linspace(-37, 9, 50_001)])
    exact = scipy.special.ndtr(x)
    near = np.abs(x) < 6
    assert np.abs(normal_cdf(x) - exact).max() < 1e-15
    np.testing.assert_allclose(normal_cdf(x)[near], exact[near], rtol=2e-14)
    single = x.astype(np.float32)
    np.testing.assert_allclose(normal_cdf(single), scipy.special.ndtr(single.astype(np.float64)), rtol=0, atol=2e-7)


def test_gelu_of_nothing_is_nothing(backend):
    t = gp.tensor(np.zeros((0, 3), np.float32), backend=backend, requires_grad=True)
    y = F.gelu(t)
    y.backward(np.zeros((0, 3), np.float32))
    assert y.shape == t.grad.shape == (0, 3)
