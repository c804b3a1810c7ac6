import numpy as np
import pytest
import tolerances
from helpers import apart, check_gradients, host, same
from helpers.geometries import pools
from hypothesis import given, settings

import gpunet as gp
from gpunet import functional as F
from gpunet.geometry import Geometry


def windows(x, g):
    """((n, p, q, c), values by position) of every window; only the positions inside the image."""
    h, w = x.shape[1:3]
    for i in np.ndindex(*g.y_shape):
        values = {}
        for a in range(g.window[0]):
            for b in range(g.window[1]):
                row, column = (
                    i[1] * g.stride[0] + a - g.padding[0][0],
                    i[2] * g.stride[1] + b - g.padding[1][0],
                )
                if 0 <= row < h and 0 <= column < w:
                    values[a * g.window[1] + b] = x[i[0], row, column, i[3]]
        yield i, values


def brute_max(x, g):
    """The largest of each window and its position: the first of equals, the first NaN before all, padding never."""
    y, mask = np.zeros(g.y_shape), np.zeros(g.y_shape, int)
    for i, values in windows(x, g):
        nans = [p for p, v in values.items() if np.isnan(v)]
        largest = None if nans else max(values.values())
        mask[i] = nans[0] if nans else next(p for p, v in values.items() if v == largest)
        y[i] = values[mask[i]]
    return y, mask


def brute_average(x, g, count_padding):
    y = np.zeros(g.y_shape)
    for i, values in windows(x, g):
        y[i] = sum(values.values()) / (g.window[0] * g.window[1] if count_padding else len(values))
    return y


@given(case=pools())
@settings(max_examples=80)
def test_max_pool2d_takes_the_first_largest_of_each_window(backend, case):
    g, rng = case.geometry, case.rng
    x = rng.choice([-np.inf, -1.0, 0.0, 1.0, np.nan], p=[0.3, 0.2, 0.2, 0.2, 0.1], size=case.x_shape).astype(np.float32)
    expected, expected_mask = brute_max(x, g)
    y, mask = (host(a, backend) for a in backend.max_pool2d_forward(backend.asarray(x), g))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(mask, expected_mask)
    assert mask.dtype == g.mask_dtype
    np.testing.assert_array_equal(
        F.max_pool2d(gp.tensor(x, backend=backend), case.window, **case.arguments).numpy(), expected
    )


@given(case=pools())
@settings(max_examples=300)
def test_max_pool2d_gradient_matches_finite_differences(backend, case):
    rng = case.rng
    check_gradients(
        lambda x: F.max_pool2d(x, case.window, **case.arguments), [apart(rng, case.x_shape)], backend=backend, rng=rng
    )


@given(case=pools())
@settings(max_examples=60)
def test_max_pool2d_gradient_goes_to_the_winner_of_each_window(backend, case):
    g, rng = case.geometry, case.rng
    x = rng.integers(0, 3, case.x_shape).astype(np.float32)  # ties everywhere
    dy = rng.integers(-9, 9, g.y_shape).astype(np.float32)  # whole numbers: sums are exact in any order
    expected = np.zeros(case.x_shape, np.float32)
    for i, position in np.ndenumerate(brute_max(x, g)[1]):
        row = i[1] * g.stride[0] + position // g.window[1] - g.padding[0][0]
        column = i[2] * g.stride[1] + position % g.window[1] - g.padding[1][0]
        expected[i[0], row, column, i[3]] += dy[i]
    t = gp.tensor(x, backend=backend, requires_grad=True)
    F.max_pool2d(t, case.window, **case.arguments).backward(dy)
    np.testing.assert_array_equal(host(t.grad, backend), expected)


@given(case=pools())
@settings(max_examples=60)
def test_avg_pool2d_counts_padding_or_not(backend, dtype, case):
    x = case.rng.normal(size=case.x_shape).astype(dtype)
    t = gp.tensor(x, backend=backend)
    for count in (True, False):
        y = F.avg_pool2d(t, case.window, count_padding=count, **case.arguments)
        same(y.numpy(), brute_average(x, case.geometry, count), tolerances.ORACLE)
    usual = F.avg_pool2d(t, case.window, **case.arguments)
    counted = case.arguments["padding"] != "same"
    same(usual.numpy(), brute_average(x, case.geometry, counted), tolerances.ORACLE)


@given(case=pools())
@settings(max_examples=300)
def test_avg_pool2d_gradient_matches_finite_differences(backend, case):
    rng = case.rng
    x = rng.normal(size=case.x_shape)
    check_gradients(lambda x: F.avg_pool2d(x, case.window, **case.arguments), [x], backend=backend, rng=rng)


def test_avg_pool2d_gradient_without_counting_padding(backend, rng):
    x = rng.normal(size=(2, 6, 5, 3))
    f = lambda x: F.avg_pool2d(x, (3, 2), stride=(2, 1), padding=((1, 2), (0, 1)), count_padding=False)  # noqa: E731
    check_gradients(f, [x], backend=backend, rng=rng)


@pytest.mark.parametrize("padding", [((1, 0), (0, 0)), ((0, 1), (1, 1)), 1])
@pytest.mark.parametrize("window", [2, 3])
def test_padding_never_wins_even_against_minus_infinity(backend, window, padding):
    x = gp.tensor(np.full((1, 4, 5, 2), -np.inf, np.float32), backend=backend, requires_grad=True)
    y = F.max_pool2d(x, window, padding=padding)
    assert (y.numpy() == -np.inf).all()
    y.backward(np.ones(y.shape, np.float32))
    assert host(x.grad, backend).sum() == y.size  # every window's gradient arrived at a pixel


def test_2x2_max_pool2d_prefers_each_position_in_order(backend):
    g = Geometry.pool((1, 2, 2, 81), 2)
    x = np.array([(a, b, c, d) for a in range(3) for b in range(3) for c in range(3) for d in range(3)], np.float32)
    x = np.ascontiguousarray(x.T.reshape(1, 2, 2, 81))
    x[x == 0] = np.nan
    y, mask = (host(a, backend) for a in backend.max_pool2d_forward(backend.asarray(x), g))
    expected, expected_mask = brute_max(x, g)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(mask, expected_mask)


@pytest.mark.parametrize(
    ("x_shape", "window", "dtype"),
    [((2, 16, 16, 3), 16, "uint8"), ((1, 17, 18, 3), (17, 16), "uint16"), ((1, 258, 257, 1), (257, 256), "int32")],
)
def test_global_max_pool2d_names_positions_beyond_a_byte(backend, rng, x_shape, window, dtype):
    g = Geometry.pool(x_shape, window, stride=1)
    x = apart(rng, x_shape).astype(np.float32)
    y, mask = backend.max_pool2d_forward(backend.asarray(x), g)
    assert np.dtype(mask.dtype) == dtype
    kh, kw = g.window
    for i in np.ndindex(*g.y_shape):
        patch = x[i[0], i[1] : i[1] + kh, i[2] : i[2] + kw, i[3]]
        assert host(mask, backend)[i] == patch.argmax()
        assert host(y, backend)[i] == patch.max()
    dy = np.ones(g.y_shape, np.float32)
    dx = host(backend.max_pool2d_backward(backend.asarray(dy), mask, g), backend)
    assert dx.sum() == dy.size
    assert dx.reshape(len(x), -1, x_shape[3]).argmax(axis=1).shape == (len(x), x_shape[3])


def test_avg_pool2d_passes_nan_to_the_windows_that_see_it(backend, rng):
    x = rng.normal(size=(1, 6, 6, 2)).astype(np.float32)
    x[0, 2, 3, 1] = np.nan
    y = F.avg_pool2d(gp.tensor(x, backend=backend), 2).numpy()
    expected = np.zeros((1, 3, 3, 2), bool)
    expected[0, 1, 1, 1] = True
    np.testing.assert_array_equal(np.isnan(y), expected)


def test_pool_gradients_pass_nan(backend, rng):
    x = rng.normal(size=(1, 4, 4, 1)).astype(np.float32)
    for pool in (F.max_pool2d, F.avg_pool2d):
        t = gp.tensor(x, backend=backend, requires_grad=True)
        pool(t, 3, stride=1).backward(np.array([[np.nan, 1], [1, 1]], np.float32).reshape(1, 2, 2, 1))
        assert np.isnan(host(t.grad, backend)[0, :3, :3]).any()
        assert not np.isnan(host(t.grad, backend)[0, 3]).any()
