import re

import numpy as np
import pytest
import scipy.special
import tolerances
from helpers import apart, check_gradients, gradients, host, same

import gpunet as gp
from gpunet import functional as F
from gpunet.backends.contract import ACTIVATIONS, INPUT_ACTIVATIONS, Activation, InputActivation
from gpunet.backends.numpy.activation import normal_cdf

ORACLES = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "sigmoid": scipy.special.expit,
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "gelu": lambda x: x * scipy.special.ndtr(x),
    "silu": lambda x: x * scipy.special.expit(x),
    "softplus": lambda x: np.logaddexp(0, x),
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "softmax": lambda x: scipy.special.softmax(x, axis=-1),
    "log_softmax": lambda x: scipy.special.log_softmax(x, axis=-1),
}
KINKS = (1, 3, 6)
"""Where some of them turn, apart from 0, on either side of it."""


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("shape", [(3, 5), (7,), (2, 3, 4, 5)])
def test_activations_and_their_gradients(backend, dtype, rng, name, shape):
    for gap in (0.05, 1.03):  # near 0, and beyond the limits of the hard ones
        x = apart(rng, shape, gap=gap).astype(dtype)
        x += np.where(np.isin(np.abs(np.rint(x)), KINKS) & (np.abs(x - np.rint(x)) < 0.01), 0.02, 0)
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


AT_KINKS = [  # PyTorch's, but for NaN
    (F.elu, [0.0, -0.0], [1, 1]),
    (lambda x: F.elu(x, 0.3), [0.0, -0.0, 1e-20], [0.3, 0.3, 1]),
    (F.relu6, [0.0, 6.0, 5.999999, 1e-20], [0, 0, 1, 1]),
    (F.hard_tanh, [-1.0, 1.0, 0.9999999], [0, 0, 1]),
    (F.hard_sigmoid, [-3.0, 3.0, -2.999999, 2.999999], [0, 0, 1 / 6, 1 / 6]),
    (F.hard_swish, [-3.0, 3.0, 0.0], [0, 1, 0.5]),
    (lambda x: F.prelu(x, [0.3]), [0.0, -0.0, 1e-20, -1e-20], [0.3, 0.3, 1, 0.3]),
]


@pytest.mark.parametrize(("f", "x", "slopes"), AT_KINKS)
def test_gradients_at_the_kinks(backend, f, x, slopes):
    t = gp.tensor(np.float32(x), backend=backend, requires_grad=True)
    f(t).backward(np.full(len(x), 2, np.float32))
    np.testing.assert_allclose(host(t.grad, backend), 2 * np.float32(slopes), rtol=1e-6)


@pytest.mark.parametrize("alpha", [1e-3, 0.4, 2.5])
def test_elu_takes_its_alpha(backend, dtype, rng, alpha):
    x = apart(rng, (4, 5), gap=0.3).astype(dtype)
    y = F.elu(gp.tensor(x, backend=backend), alpha)
    same(y.numpy(), np.where(x > 0, x, alpha * np.expm1(x.astype(np.float64))), tolerances.ORACLE)
    check_gradients(lambda x: F.elu(x, alpha), [x], backend=backend, rng=rng)


@pytest.mark.parametrize("beta", [0.1, 7.0])
def test_softplus_takes_its_beta(backend, dtype, rng, beta):
    x = apart(rng, (4, 5), gap=0.9).astype(dtype)
    y = F.softplus(gp.tensor(x, backend=backend), beta)
    same(y.numpy(), np.logaddexp(0, beta * x.astype(np.float64)) / beta, tolerances.ORACLE)
    check_gradients(lambda x: F.softplus(x, beta), [x], backend=backend, rng=rng)


@pytest.mark.parametrize(("low", "high"), [(-0.3, 0.7), (0.2, 1.0), (-2.0, -0.5)])
def test_hard_tanh_takes_its_limits(backend, dtype, rng, low, high):
    x = apart(rng, (4, 7), gap=0.13).astype(dtype)
    x += np.where(np.minimum(np.abs(x - low), np.abs(x - high)) < 0.01, 0.02, 0)
    same(F.hard_tanh(gp.tensor(x, backend=backend), low, high).numpy(), np.clip(x, low, high), tolerances.ORACLE)
    check_gradients(lambda x: F.hard_tanh(x, low, high), [x], backend=backend, rng=rng)


@pytest.mark.parametrize(
    ("shape", "slopes"), [((4, 5), 1), ((4, 5), 5), ((2, 3, 4, 6), 6), ((2, 3, 4, 6), 1), ((7,), 7)]
)
def test_prelu_learns_a_slope_for_all_or_one_a_channel(backend, dtype, rng, shape, slopes):
    x, w = apart(rng, shape, gap=0.05).astype(dtype), rng.normal(size=slopes).astype(dtype)
    y = F.prelu(gp.tensor(x, backend=backend), gp.tensor(w, backend=backend))
    same(y.numpy(), np.where(x > 0, x, w * x.astype(np.float64)), tolerances.ORACLE)
    check_gradients(F.prelu, [x, w], backend=backend, rng=rng)


def test_prelu_passes_what_is_not_finite(backend):
    x = gp.tensor(np.float32([-np.inf, np.inf, np.nan, 1]), backend=backend, requires_grad=True)
    y = F.prelu(x, np.float32([0.5]))
    np.testing.assert_array_equal(y.numpy(), np.float32([-np.inf, np.inf, np.nan, 1]))
    y.backward(np.float32([1, 1, 1, np.nan]))
    np.testing.assert_array_equal(host(x.grad, backend), np.float32([0.5, 1, 1, np.nan]))


@pytest.mark.parametrize("slope", [1e-6, 0.01, 0.3, 100.0])
def test_the_slope_of_leaky_relu_is_exact(backend, slope):
    x = gp.tensor([-3.0, 2.0], backend=backend, requires_grad=True)
    F.leaky_relu(x, slope).backward(np.array([3, 5], np.float32))
    np.testing.assert_allclose(host(x.grad, backend), [3 * slope, 5], rtol=1e-6)


@pytest.mark.parametrize("name", ORACLES)
def test_activations_pass_nan_forward_and_backward(backend, name):
    x = gp.tensor([[0.5, -1.0, 2.0], [1.0, np.nan, -2.0]], backend=backend, requires_grad=True)
    y = getattr(F, name)(x)
    row = name.endswith("softmax")
    np.testing.assert_array_equal(np.isnan(y.numpy()), [[False] * 3, [row, True, row]])
    upstream = np.array([[np.nan, 1, 1], [1, 1, 1]], np.float32)
    y.backward(upstream)
    assert np.isnan(host(x.grad, backend)[0, 0])
    if not row:
        assert not np.isnan(host(x.grad, backend)[0, 1:]).any()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_nan_output_keeps_its_gradient_visible(backend, name):
    x = gp.tensor([np.nan, 1.0], backend=backend, requires_grad=True)
    getattr(F, name)(x).backward(np.array([np.nan, 1], np.float32))
    assert np.isnan(host(x.grad, backend)[0])


@pytest.mark.parametrize("name", ORACLES)
def test_extreme_inputs_neither_overflow_nor_warn(backend, name):
    x = np.array([[-1000, -90, 0, 90, 1000]], np.float32)
    y, (dx,) = gradients(getattr(F, name), [x], lambda s: np.ones(s, np.float32), backend=backend, dtype="float32")
    expected = ORACLES[name](x.astype(np.float64))
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-37)
    assert np.isfinite(dx).all()


@pytest.mark.parametrize("name", [*ACTIVATIONS, "softplus", "hard_swish"])
def test_infinite_inputs_have_their_limits(backend, name):
    x = np.array([-np.inf, np.inf], np.float32)
    limits = {
        "relu": [0, np.inf], "leaky_relu": [-np.inf, np.inf], "sigmoid": [0, 1], "tanh": [-1, 1], "elu": [-1, np.inf],
        "relu6": [0, 6], "hard_tanh": [-1, 1], "hard_sigmoid": [0, 1], "softplus": [0, np.inf], "hard_swish": [0, np.inf],
    }[name]  # fmt: skip
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
    for name in (*ACTIVATIONS, *INPUT_ACTIVATIONS):
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
    for value in (0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=f"leaky_relu: negative_slope is {value} but must be positive"):
            F.leaky_relu(x, value)
        with pytest.raises(ValueError, match=f"elu: alpha is {value} but must be positive"):
            F.elu(x, value)
        with pytest.raises(ValueError, match=f"softplus: beta is {value} but must be positive"):
            F.softplus(x, value)
    for high in (-1, float("nan")):
        with pytest.raises(ValueError, match=f"hard_tanh: min_val is -1.0 but must be less than max_val {high}"):
            F.hard_tanh(x, max_val=high)
    with pytest.raises(ValueError, match="activation: name is 'relu' but takes one of gelu"):
        InputActivation("relu")
    for w in (np.ones(2), np.ones((1, 1)), 0.25):
        with pytest.raises(
            ValueError, match=r"prelu: weight has shape .* but x \(1, 3, 3, 1\) takes \(1,\) or one slope per"
        ):
            F.prelu(x, w)
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
    np.testing.assert_allclose(normal_cdf(single), scipy.special.ndtr(single.astype(np.float64)), rtol=0, atol=2.5e-7)


@pytest.mark.parametrize("name", [*ACTIVATIONS, *INPUT_ACTIVATIONS])
def test_an_activation_of_nothing_is_nothing(backend, name):
    t = gp.tensor(np.zeros((0, 3), np.float32), backend=backend, requires_grad=True)
    y = getattr(F, name)(t)
    y.backward(np.zeros((0, 3), np.float32))
    assert y.shape == t.grad.shape == (0, 3)
