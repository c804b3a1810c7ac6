"""Group and layer normalisation: values by the formula in float64, gradients by finite differences."""

import re

import numpy as np
import pytest
import tolerances
from helpers import check_gradients, host, same
from helpers.backends import CUDA, skip_unavailable
from hypothesis import given, settings
from hypothesis import strategies as st

import gpunet as gp
from gpunet import functional as F
from gpunet.backends.numpy import norm as numpy_norm

CASES = [  # shape, groups
    ((2, 5, 4, 6), 1), ((2, 5, 4, 6), 3), ((3, 3, 5, 4), 4), ((5, 8), 2), ((4, 7, 3), 1), ((1, 6, 7, 16), 2), ((2, 1, 1, 8), 1),
]  # fmt: skip


def oracle(x, weight, bias, groups, eps):
    x = np.asarray(x, np.float64)
    parts = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    moments = parts.mean(axis=(1, 3), keepdims=True), parts.var(axis=(1, 3), keepdims=True)
    return ((parts - moments[0]) / np.sqrt(moments[1] + eps)).reshape(x.shape) * weight + bias


@pytest.mark.parametrize(("shape", "groups"), CASES)
def test_groups_of_a_sample_are_normalised(backend, dtype, rng, shape, groups):
    x = (3 * rng.normal(size=shape) + 2).astype(dtype)
    weight, bias = rng.normal(size=(2, shape[-1])).astype(dtype)
    y = F.group_norm(gp.tensor(x, backend=backend), groups, weight, bias, eps=1e-2)
    same(y.numpy(), oracle(x, weight, bias, groups, 1e-2), tolerances.BACKENDS)
    plain = F.group_norm(gp.tensor(x, backend=backend), groups)
    same(plain.numpy(), oracle(x, 1, 0, groups, 1e-5), tolerances.BACKENDS)


@pytest.mark.parametrize(("shape", "groups"), CASES)
def test_gradients_match_finite_differences(backend, rng, shape, groups):
    inputs = [rng.normal(size=shape), *rng.normal(size=(2, shape[-1]))]
    check_gradients(lambda x, g, b: F.group_norm(x, groups, g, b, eps=0.1), inputs, backend=backend, rng=rng)
    check_gradients(lambda x: F.group_norm(x, groups, eps=0.1), inputs[:1], backend=backend, rng=rng)
    check_gradients(lambda x, b: F.group_norm(x, groups, None, b, eps=0.1), inputs[::2], backend=backend, rng=rng)


@pytest.mark.parametrize(
    ("shape", "axes"), [((4, 7), 1), ((2, 3, 4, 5), 1), ((2, 3, 4, 5), 3), ((6,), 1), ((3, 2, 4), 2)]
)
def test_layer_norm_normalises_the_last_axes(backend, dtype, rng, shape, axes):
    x = (2 * rng.normal(size=shape) - 1).astype(dtype)
    weight, bias = rng.normal(size=(2, *shape[-axes:])).astype(dtype)
    over = tuple(range(-axes, 0))
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(over, keepdims=True)) / np.sqrt(wide.var(over, keepdims=True) + 1e-3) * weight + bias
    y = F.layer_norm(gp.tensor(x, backend=backend), shape[-axes:], weight, bias, eps=1e-3)
    same(y.numpy(), expected, tolerances.BACKENDS)
    inputs = [x, weight, bias]
    check_gradients(lambda x, g, b: F.layer_norm(x, shape[-axes:], g, b, eps=0.1), inputs, backend=backend, rng=rng)


@given(
    n=st.integers(1, 4), h=st.integers(1, 9), w=st.integers(1, 9), groups=st.integers(1, 5), each=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1), affine=st.booleans(),
)  # fmt: skip
@settings(max_examples=60)
def test_every_backend_agrees_with_the_reference(backend, dtype, n, h, w, groups, each, seed, affine):
    rng = np.random.default_rng(seed)
    shape, c = (n, h, w, groups * each), groups * each
    x, dy, parameters = (
        rng.normal(size=shape).astype(dtype),
        rng.normal(size=shape).astype(dtype),
        rng.normal(size=(2, c)),
    )

    def run(on, kind):
        given = [gp.tensor(a.astype(kind), backend=on, requires_grad=True) for a in (x, *parameters.astype(dtype))]
        y = F.group_norm(given[0], groups, *(given[1:] if affine else ()), eps=0.1)
        y.backward(dy.astype(kind))
        return [host(y), *(host(t.grad, on) for t in given if t.grad is not None)]

    for got, expected in zip(run(backend, dtype), run(gp.get_backend("reference"), np.float64), strict=True):
        same(got, expected, {"float32": 2e-5, "float64": 1e-11})


@pytest.mark.parametrize(("shape", "groups"), [((70, 33, 31, 8), 4), ((9000, 48), 1), ((3, 150, 151, 16), 16)])
def test_large_inputs_are_normalised_in_parts(rng, monkeypatch, shape, groups):
    monkeypatch.setattr(numpy_norm, "NORM_BLOCK", 1 << 17)
    x = (rng.normal(size=shape) + 10 * np.arange(shape[-1])).astype(np.float32)
    dy, weight = rng.normal(size=shape).astype(np.float32), rng.normal(size=shape[-1]).astype(np.float32)
    assert x.size > 2 * numpy_norm.NORM_BLOCK
    results = []
    for backend, kind in ((gp.get_backend("numpy"), np.float32), (gp.get_backend("reference"), np.float64)):
        given = [gp.tensor(a.astype(kind), backend=backend, requires_grad=True) for a in (x, weight)]
        y = F.group_norm(given[0], groups, given[1])
        y.backward(dy.astype(kind))
        results.append([y.numpy(), *(t.grad for t in given)])
    for got, expected in zip(*results, strict=True):
        same(got, expected, {"float32": 5e-5})


def test_moments_are_exact_far_from_zero(backend, rng):
    x = (rng.normal(size=(3, 5, 6, 8)) + 4096).astype(np.float32)
    y = F.group_norm(gp.tensor(x, backend=backend), 2)
    same(y.numpy(), oracle(x, 1, 0, 2, 1e-5), {"float32": 5e-4})  # the mean itself is rounded to 2^-11


@pytest.mark.parametrize("on", ["numpy", *CUDA])
@pytest.mark.parametrize(("shape", "groups"), [((2, 64, 64, 4), 1), ((2, 64, 64, 33), 3), ((3, 100_000), 1)])
def test_the_mean_of_many_elements_far_from_zero_is_rounded_but_once(rng, on, shape, groups):
    """A plain sum in float32 is off by more than a rounding of the mean; a second sum, of the differences, corrects it."""
    x = (rng.normal(size=shape) + 1000).astype(np.float32)
    y = F.group_norm(gp.tensor(x, backend=skip_unavailable(on)), groups).numpy()
    half_a_step = np.spacing(np.float32(1000)) / 2
    assert np.abs(y - oracle(x, 1, 0, groups, 1e-5)).max() < half_a_step + 3e-6


def test_equal_elements_give_zero(backend):
    x = np.full((2, 3, 4, 4), 0.1, np.float32)
    y = F.group_norm(gp.tensor(x, backend=backend), 2, None, np.float32([1, 2, 3, 4]))
    np.testing.assert_allclose(y.numpy(), np.broadcast_to(np.float32([1, 2, 3, 4]), x.shape), atol=1e-4)


def test_nan_stays_in_its_group(backend, rng):
    x = rng.normal(size=(2, 3, 4, 6)).astype(np.float32)
    x[1, 2, 3, 0] = np.nan
    weight = gp.tensor(np.ones(6, np.float32), backend=backend, requires_grad=True)
    t = gp.tensor(x, backend=backend, requires_grad=True)
    y = F.group_norm(t, 3, weight)
    y.backward(np.ones(x.shape, np.float32))
    for a in (y.numpy(), host(t.grad, backend)):
        assert np.isnan(a[1, ..., :2]).all()
        assert np.isfinite(a[0]).all()
        assert np.isfinite(a[1, ..., 2:]).all()
    assert list(np.isnan(host(weight.grad, backend))) == [True, True, False, False, False, False]


def test_a_second_use_adds_to_the_gradients(backend, rng):
    model = gp.nn.GroupNorm(2, 4).to(backend)
    gp.optim.SGD(model.parameters(), lr=0.1)
    x, dy = (rng.normal(size=(2, 3, 3, 4)).astype(np.float32) for _ in range(2))
    once = []
    for times in (1, 2):
        for p in model.parameters():
            p.grad = None
        for _ in range(times):
            model(gp.tensor(x, backend=backend)).backward(dy)
        once.append([host(p.grad, backend).copy() for p in model.parameters()])
    for one, two in zip(*once, strict=True):
        np.testing.assert_allclose(two, 2 * one, rtol=1e-5)


def test_no_samples_are_normalised_to_none(backend):
    x, weight = (gp.tensor(np.ones(s, np.float32), backend=backend, requires_grad=True) for s in ((0, 3, 3, 4), 4))
    y = F.group_norm(x, 2, weight)
    y.backward(np.ones(x.shape, np.float32))
    assert y.shape == x.grad.shape == x.shape
    np.testing.assert_array_equal(host(weight.grad, backend), 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: F.group_norm(x, 4), "group_norm: num_groups=4 must divide the channels of x (2, 5, 6)"),
        (lambda x: F.group_norm(x, 0), "group_norm: num_groups must be at least 1, got 0"),
        (lambda x: F.group_norm(x[0, 0], 2), "group_norm: x has shape (6,) but takes (N, …, C) without empty samples"),
        (lambda x: F.group_norm(x[:, :0], 2), "group_norm: x has shape (2, 0, 6) but takes (N, …, C)"),
        (lambda x: F.group_norm(x, 2, np.ones(5)), "group_norm: weight has shape (5,) but x (2, 5, 6) takes (6,)"),
        (lambda x: F.group_norm(x, 2, None, np.ones((1, 6))), "group_norm: bias has shape (1, 6) but x (2, 5, 6)"),
        (lambda x: F.group_norm(x, 2, eps=-1), "group_norm: eps is -1 but must be at least 0"),
        (
            lambda x: F.layer_norm(x, (3, 2, 5, 6)),
            "layer_norm: x has shape (2, 5, 6) but its last axes must be normalized_shape (3, 2, 5, 6)",
        ),
        (
            lambda x: F.layer_norm(x, 5),
            "layer_norm: x has shape (2, 5, 6) but its last axes must be normalized_shape (5,)",
        ),
        (lambda x: F.layer_norm(x, (5, 0)), "layer_norm: normalized_shape must be at least 1, got 0"),
        (lambda x: F.layer_norm(x, 6, eps=-1), "layer_norm: eps is -1 but must be at least 0"),
        (
            lambda x: F.layer_norm(x, (5, 6), np.ones(6)),
            "layer_norm: weight has shape (6,) but x (2, 5, 6) takes (5, 6)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(backend, call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(gp.tensor(np.ones((2, 5, 6), np.float32), backend=backend))
