import numpy as np
import pytest
import tolerances
from helpers import apart, check_gradients, gradients, host, same
from helpers.geometries import convolutions
from hypothesis import given, settings
from scipy.signal import convolve, correlate

import gpunet as gp
from gpunet import functional as F
from gpunet.backends.contract import ACTIVATIONS

KINKS = np.array([-3, -1, 0, 1, 3, 6])


def dilate(a, steps, axes):
    """Zeros between the entries of two axes, so that neighbours come to stand `steps` apart."""
    shape = list(a.shape)
    at = [slice(None)] * a.ndim
    for axis, step in zip(axes, steps, strict=True):
        shape[axis] = (a.shape[axis] - 1) * step + 1
        at[axis] = slice(None, None, step)
    spread = np.zeros(shape, a.dtype)
    spread[tuple(at)] = a
    return spread


def per_group(groups, channels):
    each = channels // groups
    return [slice(i * each, (i + 1) * each) for i in range(groups)]


def scipy_conv(x, w, b, g):
    """The convolution, image by image and filter by filter, as SciPy's direct correlation."""
    padded = np.pad(x, ((0, 0), *g.padding, (0, 0)))
    spread = dilate(w, g.dilation, (0, 1))
    y = np.zeros(g.y_shape)
    for taken, made in zip(per_group(g.groups, x.shape[3]), per_group(g.groups, g.filters), strict=True):
        for n in range(len(x)):
            for o in range(made.start, made.stop):
                full = correlate(padded[n, :, :, taken], spread[:, :, :, o], "valid", method="direct")[..., 0]
                y[n, :, :, o] = full[:: g.stride[0], :: g.stride[1]][: g.y_shape[1], : g.y_shape[2]]
    return y if b is None else y + b


def scipy_gradients(x, w, dy, g):
    """dx as SciPy's full convolution with the filters, dw as its correlation of x with dy: both by definition."""
    (top, bottom), (left, right) = g.padding
    n, h, width, c = x.shape
    padded = np.pad(x, ((0, 0), *g.padding, (0, 0)))
    spread_w, spread_dy = dilate(w, g.dilation, (0, 1)), dilate(dy, g.stride, (1, 2))
    dx, dw = np.zeros((n, top + h + bottom, left + width + right, c)), np.zeros(w.shape)
    for taken, made in zip(per_group(g.groups, c), per_group(g.groups, g.filters), strict=True):
        for i in range(n):
            for o in range(made.start, made.stop):
                one = spread_dy[i, :, :, o]
                for k in range(w.shape[2]):
                    channel = taken.start + k
                    full = convolve(one, spread_w[:, :, k, o], "full", method="direct")
                    dx[i, : full.shape[0], : full.shape[1], channel] += full
                    taps = correlate(padded[i, :, :, channel], one, "valid", method="direct")
                    dw[:, :, k, o] += taps[:: g.dilation[0], :: g.dilation[1]][: w.shape[0], : w.shape[1]]
    return dx[:, top : top + h, left : left + width], dw, dy.sum(axis=(0, 1, 2))


@given(case=convolutions())
@settings(max_examples=100)
def test_conv2d_and_its_gradients_are_scipys(backend, dtype, case):
    g, rng = case.geometry, case.rng
    x, w, b = rng.normal(size=case.x_shape), rng.normal(size=case.w_shape), rng.normal(size=case.w_shape[3])
    dy = rng.normal(size=g.y_shape)
    x, w, b, dy = (a.astype(dtype) for a in (x, w, b, dy))
    y, (dx, dw, db) = gradients(
        lambda x, w, b: F.conv2d(x, w, b, **case.arguments), (x, w, b), lambda _: dy, backend=backend, dtype=dtype
    )
    same(y, scipy_conv(x, w, b, g), tolerances.ORACLE)
    expected = scipy_gradients(x, w, dy, g)
    for actual, oracle in zip((dx, dw, db), expected, strict=True):
        same(actual, oracle, tolerances.ORACLE)


@given(case=convolutions())
@settings(max_examples=250)
def test_conv2d_gradients_match_finite_differences(backend, case):
    rng = case.rng
    inputs = rng.normal(size=case.x_shape), rng.normal(size=case.w_shape), rng.normal(size=case.w_shape[3])
    check_gradients(lambda x, w, b: F.conv2d(x, w, b, **case.arguments), inputs, backend=backend, rng=rng)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((2, 6, 5, 3), (3, 2, 3, 4), {"padding": 1}),
        ((2, 7, 6, 4), (3, 3, 2, 6), {"stride": 2, "groups": 2}),
        ((3, 5, 4, 3), (1, 1, 3, 5), {}),
    ],
)
def test_conv2d_gradients_pass_through_a_fused_activation(backend, rng, activation, x_shape, w_shape, options):
    while True:  # inputs whose pre-activations all lie far from the kinks
        x, w, b = rng.normal(size=x_shape), rng.normal(size=w_shape), rng.normal(size=w_shape[3])
        with gp.no_grad():
            z = F.conv2d(gp.tensor(x, backend="reference"), w, b, **options).numpy()
        if np.abs(z[..., None] - KINKS).min() > 2e-4:
            break
    check_gradients(
        lambda x, w, b: F.conv2d(x, w, b, activation=activation, **options), (x, w, b), backend=backend, rng=rng
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_fused_activation_is_the_activation_after_it(backend, dtype, rng, activation):
    x, w, b = (rng.normal(size=s).astype(dtype) for s in ((2, 6, 5, 3), (3, 3, 3, 4), (4,)))
    after = getattr(F, activation)
    upstream = rng.normal(size=(2, 4, 3, 4)).astype(dtype)
    fused = gradients(
        lambda *a: F.conv2d(*a, activation=activation), (x, w, b), lambda _: upstream, backend=backend, dtype=dtype
    )
    plain = gradients(lambda *a: after(F.conv2d(*a)), (x, w, b), lambda _: upstream, backend=backend, dtype=dtype)
    same(fused[0], plain[0], tolerances.BACKENDS)
    for one, other in zip(fused[1], plain[1], strict=True):
        same(one, other, tolerances.BACKENDS)


RESIDUALS = [
    # x, w, options: every algorithm, every epilogue
    ((2, 6, 5, 3), (3, 2, 3, 4), {"padding": 1}),
    ((2, 7, 6, 4), (3, 3, 2, 6), {"stride": 2, "groups": 2}),
    ((2, 5, 4, 3), (1, 1, 3, 5), {}),
    ((2, 5, 6, 4), (3, 3, 1, 4), {"padding": 1, "groups": 4}),
    ((17, 5, 4, 2), (3, 3, 2, 3), {"padding": 1}),
    ((2, 6, 7, 16), (3, 3, 16, 8), {"pool": 2, "padding": 1}),
]


@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize(("x_shape", "w_shape", "options"), RESIDUALS)
def test_a_residual_is_added_before_the_activation(backend, dtype, rng, x_shape, w_shape, options, activation):
    x, w, b = (rng.normal(size=s).astype(dtype) for s in (x_shape, w_shape, w_shape[3:]))
    plain = {name: value for name, value in options.items() if name != "pool"}

    def apart(x, w, b, residual):
        y = F.conv2d(x, w, b, **plain) + residual
        y = y if activation is None else getattr(F, activation)(y)
        return F.max_pool2d(y, 2) if "pool" in options else y

    given = [gp.tensor(a, backend=backend) for a in (x, w, b)]
    residual = rng.normal(size=F.conv2d(*given, **plain).shape).astype(dtype)
    upstream = rng.normal(size=apart(*given, residual).shape).astype(dtype)
    of_one, of_many = (
        gradients(f, (x, w, b, residual), lambda _: upstream, backend=backend, dtype=dtype)
        for f in (lambda x, w, b, r: F.conv2d(x, w, b, residual=r, activation=activation, **options), apart)
    )
    for one, other in zip((of_one[0], *of_one[1]), (of_many[0], *of_many[1]), strict=True):
        same(one, other, tolerances.BACKENDS)


@pytest.mark.parametrize("activation", [None, "tanh"])
def test_gradients_with_a_residual_match_finite_differences(backend, rng, activation):
    inputs = [rng.normal(size=s) for s in ((2, 5, 4, 3), (3, 3, 3, 2), (2,), (2, 5, 4, 2))]
    check_gradients(
        lambda x, w, b, r: F.conv2d(x, w, b, residual=r, activation=activation, padding=1),
        inputs, backend=backend, rng=rng,
    )  # fmt: skip


def test_leaves_share_no_gradient_with_a_residual(backend, rng):
    shapes = (1, 4, 3, 2), (1, 1, 2, 2), (1, 4, 3, 2)
    arrays = [rng.normal(size=s).astype(np.float32) for s in shapes]
    x, w, residual = (gp.tensor(a, backend=backend, requires_grad=True) for a in arrays)
    y = F.conv2d(x, w, residual=residual)
    dy = gp.tensor(rng.normal(size=y.shape).astype(np.float32), backend=backend)
    before = dy.numpy().copy()
    y.backward(dy)
    F.conv2d(x, w, residual=residual).backward(dy)  # adds to what the leaves hold
    np.testing.assert_array_equal(dy.numpy(), before)
    np.testing.assert_array_equal(host(residual.grad, backend), 2 * before)


def test_a_residual_of_another_shape_is_refused(backend):
    x, w = (gp.tensor(np.ones(s, np.float32), backend=backend) for s in ((1, 4, 4, 2), (3, 3, 2, 5)))
    message = r"conv2d: residual has shape \(1, 4, 4, 2\) but the convolution makes \(1, 2, 2, 5\)"
    with pytest.raises(ValueError, match=message):
        F.conv2d(x, w, residual=x)


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_conv2d_computes_only_the_gradients_that_are_needed(backend, dtype, rng, needed):
    shapes = (2, 6, 5, 3), (3, 3, 3, 4), (4,)
    arrays = [rng.normal(size=s).astype(dtype) for s in shapes]
    tensors = [gp.tensor(a, backend=backend, requires_grad=i in needed) for i, a in enumerate(arrays)]
    upstream = rng.normal(size=(2, 4, 3, 4)).astype(dtype)
    F.conv2d(*tensors).backward(upstream)
    _, expected = gradients(F.conv2d, arrays, lambda _: upstream, backend=backend, dtype=dtype)
    for i, t in enumerate(tensors):
        assert (t.grad is not None) == (i in needed)
        if t.grad is not None:
            same(host(t.grad, backend), expected[i], tolerances.BACKENDS)


def test_conv2d_of_an_impulse_is_the_filter_not_the_flipped_one(backend, rng):
    w = rng.normal(size=(3, 2, 1, 1)).astype(np.float32)
    x = np.zeros((1, 5, 3, 1), np.float32)
    x[0, 2, 1, 0] = 1
    y = F.conv2d(gp.tensor(x, backend=backend), w).numpy()  # y[p, q] = w[2 - p, 1 - q]
    np.testing.assert_allclose(y[0, :, :, 0], w[::-1, ::-1, 0, 0], rtol=1e-6)


def test_conv2d_takes_inputs_that_lie_anywhere_in_memory(backend, rng):
    big = rng.normal(size=(3, 27, 27, 1)).astype(np.float32)
    w = rng.normal(size=(3, 3, 1, 10)).astype(np.float32)
    aligned = F.conv2d(gp.tensor(big[1:].copy(), backend=backend), w).numpy()
    np.testing.assert_array_equal(F.conv2d(gp.tensor(big, backend=backend)[1:], w).numpy(), aligned)
    turned = np.asfortranarray(big[1:])
    np.testing.assert_array_equal(F.conv2d(gp.tensor(turned, backend=backend), w).numpy(), aligned)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize(("window", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_conv2d_passes_nan_to_every_window_that_sees_it(backend, rng, activation, window, stride):
    x = rng.normal(size=(2, 7, 6, 3)).astype(np.float32)
    w = rng.normal(size=(window, window, 3, 5)).astype(np.float32)
    x[1, 3, 2, 1] = np.nan
    tensors = [gp.tensor(a, backend=backend, requires_grad=True) for a in (x, w)]
    y = F.conv2d(*tensors, stride=stride, activation=activation)
    sees = np.zeros(y.shape, bool)
    for p in range(y.shape[1]):
        for q in range(y.shape[2]):
            sees[1, p, q] = 0 <= 3 - p * stride < window and 0 <= 2 - q * stride < window
    np.testing.assert_array_equal(np.isnan(y.numpy()), sees)
    upstream = rng.normal(size=y.shape).astype(np.float32)
    p, q, o = np.unravel_index(
        np.abs(y.numpy()[0] - 0.5).argmin(), y.shape[1:]
    )  # every activation lets a gradient through
    upstream[0, p, q, o] = np.nan
    y.backward(upstream)
    dx, dw = (np.isnan(host(t.grad, backend)) for t in tensors)
    reached = np.zeros(x.shape[1:3], bool)
    reached[p * stride : p * stride + window, q * stride : q * stride + window] = True
    np.testing.assert_array_equal(dx[0].all(axis=2), reached)
    np.testing.assert_array_equal(dx[0].any(axis=2), reached)
    taps = [i for i in range(window) if (3 - i) % stride == 0], [j for j in range(window) if (2 - j) % stride == 0]
    expected = np.zeros(w.shape, bool)
    expected[np.ix_(*taps, [1], range(5))] = True  # the taps that met the NaN pixel, in its channel
    expected[..., o] = True
    expected |= activation in ("sigmoid", "tanh")  # whose slope is NaN where the output is
    np.testing.assert_array_equal(dw, expected)


def test_linear_gradients_match_finite_differences(backend, rng):
    for shape in ((5, 7), (7,), (2, 3, 7)):
        inputs = rng.normal(size=shape), rng.normal(size=(7, 4)), rng.normal(size=4)
        check_gradients(F.linear, inputs, backend=backend, rng=rng)
        check_gradients(lambda x, w, b: F.linear(x, w, b, activation="tanh"), inputs, backend=backend, rng=rng)
        check_gradients(F.linear, inputs[:2], backend=backend, rng=rng)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_linear_gradients_pass_through_a_fused_kink(backend, rng, activation):
    x = np.eye(6, 5) + 0.01 * rng.normal(size=(6, 5))
    w = apart(rng, (5, 7), gap=0.2)
    check_gradients(lambda x, w: F.linear(x, w, activation=activation), (x, w), backend=backend, rng=rng)


def test_linear_is_the_matrix_product(backend, dtype, rng):
    x, w, b = (rng.normal(size=s).astype(dtype) for s in ((2, 3, 7), (7, 4), (4,)))
    y = F.linear(gp.tensor(x, backend=backend), w, b)
    same(y.numpy(), x.astype(np.float64) @ w + b, tolerances.ORACLE)


def test_linear_passes_nan(backend, rng):
    x, w = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=(3, 5)).astype(np.float32)
    x[2, 1] = np.nan
    for activation in (None, *ACTIVATIONS):
        y = F.linear(gp.tensor(x, backend=backend), w, activation=activation).numpy()
        np.testing.assert_array_equal(np.isnan(y).all(axis=1), [False, False, True, False])
        np.testing.assert_array_equal(np.isnan(y).any(axis=1), [False, False, True, False])


@given(case=convolutions())
@settings(max_examples=60)
def test_a_fused_pool_is_the_pool_of_the_activated_convolution(backend, dtype, case):
    if min(case.geometry.y_shape[1:3]) < 2:
        return
    rng = case.rng
    x, w, b = (rng.normal(size=s).astype(dtype) for s in (case.x_shape, case.w_shape, case.w_shape[3:]))
    drawn = {}

    def results(f):
        return gradients(
            f, (x, w, b), lambda shape: drawn.setdefault(shape, rng.normal(size=shape)), backend=backend, dtype=dtype
        )

    fused = results(lambda x, w, b: F.conv2d(x, w, b, activation="tanh", pool=2, **case.arguments))
    apart = results(lambda x, w, b: F.max_pool2d(F.tanh(F.conv2d(x, w, b, **case.arguments)), 2))
    same(fused[0], apart[0], tolerances.BACKENDS)
    for one, other in zip(fused[1], apart[1], strict=True):
        same(one, other, tolerances.BACKENDS)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_gradients_through_a_fused_pool(backend, rng, activation):
    x, w, b = apart(rng, (2, 7, 8, 3)), rng.normal(size=(3, 2, 3, 5)), rng.normal(size=5)
    check_gradients(
        lambda x, w, b: F.conv2d(x, w, b, padding=1, activation=activation, pool=2), (x, w, b), backend=backend, rng=rng
    )


@pytest.mark.parametrize("pool", [3, (1, 2), (2, 3)])
def test_a_pool_of_another_window_is_pooled_after(backend, rng, pool):
    x, w = gp.tensor(rng.normal(size=(2, 7, 9, 3)), backend=backend, dtype="float32"), rng.normal(size=(2, 2, 3, 4))
    expected = F.max_pool2d(F.conv2d(x, w, activation="relu"), pool)
    np.testing.assert_array_equal(F.conv2d(x, w, activation="relu", pool=pool).numpy(), expected.numpy())


@pytest.mark.parametrize(
    ("pool", "error", "message"),
    [
        (0, ValueError, "conv2d: pool must be at least 1, got 0"),
        ((2, 2, 2), ValueError, "conv2d: pool must be one integer or two"),
        (1.5, TypeError, "conv2d: pool must be an integer, got 1.5"),
        (9, ValueError, "conv2d: a window of 9 pixels is larger"),
    ],
)
def test_a_bad_pool_is_refused(rng, pool, error, message):
    x = gp.tensor(rng.normal(size=(1, 6, 6, 1)))
    with pytest.raises(error, match=message):
        F.conv2d(x, rng.normal(size=(3, 3, 1, 2)), pool=pool)
