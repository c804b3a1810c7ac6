"""The values of `gpunet.arrays` against SciPy and formulas that share nothing with the backends, and gradients against
finite differences."""

import numpy as np
import pytest
from helpers.geometries import convolutions
from helpers.values import apart, relative_error
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import map_coordinates
from scipy.signal import convolve2d, correlate2d
from scipy.special import log_softmax

from gpunet import arrays as A

STEP = 1e-5


def padded(x, sides):
    return np.pad(x, ((0, 0), *sides, (0, 0)))


def spread(w, dilation):
    """Filters with zeros between their taps."""
    (dh, dw), (kh, kw) = dilation, w.shape[:2]
    wide = np.zeros((dh * (kh - 1) + 1, dw * (kw - 1) + 1, *w.shape[2:]))
    wide[::dh, ::dw] = w
    return wide


def correlated(x, w, geometry):
    """A convolution by `scipy.signal.correlate2d`, one image, channel and filter after another."""
    x, w = padded(x, geometry.padding), spread(w, geometry.dilation)
    taken, made = w.shape[2], w.shape[3] // geometry.groups
    y = [[sum(correlate2d(image[..., o // made * taken + c], w[..., c, o], "valid") for c in range(taken))
          for o in range(w.shape[3])] for image in x]  # fmt: skip
    return np.moveaxis(np.array(y), 1, -1)[:, :: geometry.stride[0], :: geometry.stride[1]]


@given(case=convolutions())
def test_a_convolution_is_scipys_correlation(case):
    rng = case.rng
    x, w, b = rng.normal(size=case.x_shape), rng.normal(size=case.w_shape), rng.normal(size=case.w_shape[3])
    y = A.conv2d(x, w, b, **case.arguments)
    assert relative_error(y, correlated(x, w, case.geometry) + b) <= 1e-12


@given(case=convolutions())
def test_the_gradients_of_a_convolution_are_its_adjoints(case):
    """<dy, conv(x, w)> is linear in x and in w, so that its gradients are exact without differences."""
    rng = case.rng
    x, w = rng.normal(size=case.x_shape), rng.normal(size=case.w_shape)
    dy = rng.normal(size=case.geometry.y_shape)
    dx = A.conv2d_input_grad(dy, w, case.x_shape, **case.arguments)
    dw, db = A.conv2d_weight_grad(dy, x, case.w_shape[:2], **case.arguments)
    through = float((dy * correlated(x, w, case.geometry)).sum())
    size = np.linalg.norm(dy) * np.linalg.norm(x) * np.linalg.norm(w)
    assert abs(float((dx * x).sum()) - through) <= 1e-12 * size
    assert abs(float((dw * w).sum()) - through) <= 1e-12 * size
    assert relative_error(db, dy.sum(axis=(0, 1, 2))) <= 1e-12


@pytest.mark.parametrize(
    ("stride", "padding", "extra"), [((2, 3), (1, 0), (1, 2)), (1, 0, 0), (2, ((1, 0), (0, 2)), 1)]
)
def test_a_transposed_convolution_is_a_full_convolution_of_spread_images(kind, rng, stride, padding, extra):
    x, w, b = rng.normal(size=(2, 3, 4, 2)), rng.normal(size=(3, 4, 5, 2)), rng.normal(size=5)
    (sh, sw), (eh, ew) = (s if isinstance(s, tuple) else (s, s) for s in (stride, extra))
    axes = padding if isinstance(padding, tuple) else (padding, padding)
    (top, bottom), (left, right) = (p if isinstance(p, tuple) else (p, p) for p in axes)
    wide = np.zeros((2, 2 * sh + 1 + eh, 3 * sw + 1 + ew, 2))
    wide[:, : 2 * sh + 1 : sh, : 3 * sw + 1 : sw] = x
    full = [[sum(convolve2d(image[..., i], w[..., o, i]) for i in range(2)) for o in range(5)] for image in wide]
    full = np.moveaxis(np.array(full), 1, -1)
    wanted = full[:, top : full.shape[1] - bottom, left : full.shape[2] - right] + b
    made = [kind.made(a.astype(kind.dtype)) for a in (x, w, b)]
    y = A.conv_transpose2d(*made, stride=stride, padding=padding, output_padding=extra)
    assert relative_error(kind.host(y), wanted) <= (1e-12 if kind.dtype == np.float64 else 1e-6)


def test_a_depthwise_convolution_filters_each_channel_by_itself(kind, rng):
    x, w = rng.normal(size=(2, 6, 7, 3)), rng.normal(size=(2, 3, 1, 6))
    y = A.depthwise_conv2d(*[kind.made(a.astype(kind.dtype)) for a in (x, w)])
    wanted = [[correlate2d(image[..., m // 2], w[..., 0, m], "valid") for m in range(6)] for image in x]
    assert relative_error(kind.host(y), np.moveaxis(wanted, 1, -1)) <= (1e-12 if kind.dtype == np.float64 else 1e-6)


def windows(x, size, stride, sides, fill):
    """(N, OH, OW, C, KH, KW)."""
    x = np.pad(x, ((0, 0), *sides, (0, 0)), constant_values=fill)
    return sliding_window_view(x, size, axis=(1, 2))[:, :: stride[0], :: stride[1]]


POOLS = st.tuples(st.tuples(st.integers(2, 3), st.integers(2, 4)), st.tuples(st.integers(1, 3), st.integers(1, 3)))


@given(pool=POOLS, padding=st.tuples(st.integers(0, 1), st.integers(0, 1)), seed=st.integers(0, 99))
def test_pools_are_maxima_and_means_of_windows(pool, padding, seed):
    size, stride = pool
    x = apart(np.random.default_rng(seed), (2, 7, 6, 3))
    sides = tuple((p, p) for p in padding)
    cut = windows(x, size, stride, sides, -np.inf)
    y, mask = A.max_pool2d(x, size, stride=stride, padding=padding, return_mask=True)
    flat = cut.reshape(*cut.shape[:4], -1)
    assert np.array_equal(y, flat.max(axis=-1))
    assert np.array_equal(mask, flat.argmax(axis=-1))
    assert np.array_equal(y, A.max_pool2d(x, size, stride=stride, padding=padding))
    scattered = A.max_unpool2d(y, mask, x.shape, size, stride=stride, padding=padding)
    won = (flat == flat.max(axis=-1, keepdims=True)).reshape(cut.shape)
    counts = np.zeros(np.pad(x, ((0, 0), *sides, (0, 0))).shape)
    for n, p, q, c in np.ndindex(*cut.shape[:4]):
        counts[n, p * stride[0] : p * stride[0] + size[0], q * stride[1] : q * stride[1] + size[1], c] += won[
            n, p, q, c
        ]
    counts = counts[:, padding[0] : padding[0] + 7, padding[1] : padding[1] + 6]
    assert relative_error(scattered, counts * x) <= 1e-12
    means = windows(x, size, stride, sides, 0.0).mean(axis=(-2, -1))
    assert relative_error(A.avg_pool2d(x, size, stride=stride, padding=padding), means) <= 1e-12


def test_batch_norm_is_its_formula_and_moves_the_running_moments(kind, rng):
    x, mean, var = rng.normal(2, 3, size=(2, 3, 5, 4)), rng.normal(size=4), rng.uniform(1, 2, 4)
    w, b = rng.normal(size=(2, 4))
    close = 1e-12 if kind.dtype == np.float64 else 1e-5
    made = [kind.made(a.astype(kind.dtype)) for a in (x, mean, var, w, b)]
    y = A.batch_norm(*made, training=False, eps=0.1)
    assert relative_error(kind.host(y), (x - mean) / np.sqrt(var + 0.1) * w + b) <= close
    y, m, v = A.batch_norm(*made, training=True, momentum=0.25, eps=0.1, return_moments=True)
    own, spread_ = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    assert relative_error(kind.host(y), (x - own) / np.sqrt(spread_ + 0.1) * w + b) <= close
    for got, wanted in (
        (m, own), (v, spread_), (made[1], 0.75 * mean + 0.25 * own), (made[2], 0.75 * var + 0.25 * spread_ * 30 / 29)
    ):  # fmt: skip
        assert relative_error(kind.host(got), wanted) <= close
    before = [kind.host(a).copy() for a in made[1:3]]
    A.batch_norm(kind.made(np.zeros((0, 4), kind.dtype)), *made[1:], training=True)
    assert all(np.array_equal(kind.host(a), b) for a, b in zip(made[1:3], before, strict=True))


def test_images_are_enlarged_as_numpy_and_scipy_do(kind, rng):
    x = rng.normal(size=(2, 3, 4, 3))
    given_x = kind.made(x.astype(kind.dtype))
    twice = x.repeat(2, axis=1).repeat(3, axis=2)
    assert np.array_equal(kind.host(A.upsample2d(given_x, (2, 3))), twice.astype(kind.dtype))
    places = [(np.arange(size) + 0.5) * n / size - 0.5 for size, n in ((7, 3), (5, 4))]
    corners = [np.linspace(0, n - 1, size) for size, n in ((7, 3), (5, 4))]
    for align, (rows, columns) in ((False, places), (True, corners)):
        y = A.upsample2d(given_x, size=(7, 5), mode="bilinear", align_corners=align)
        at = np.meshgrid(rows, columns, indexing="ij")
        wanted = [[map_coordinates(image[..., c], at, order=1, mode="nearest") for c in range(3)] for image in x]
        assert relative_error(kind.host(y), np.moveaxis(wanted, 1, -1)) <= (1e-12 if kind.dtype == np.float64 else 1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_cross_entropy_is_that_of_scipys_softmax(kind, rng, reduction):
    logits, labels, weight = rng.normal(size=(2, 3, 5)), rng.integers(0, 5, (2, 3)), rng.uniform(1, 2, 5)
    target = np.full((2, 3, 5), 0.2 / 5)
    np.put_along_axis(target, labels[..., None], 0.2 / 5 + 0.8, axis=-1)
    counted = labels != 3
    rows = -(target * weight * log_softmax(logits, axis=-1)).sum(axis=-1) * counted
    total = {"mean": rows.sum() / (weight[labels] * counted).sum(), "sum": rows.sum(), "none": rows}[reduction]
    made = kind.made(logits.astype(kind.dtype)), kind.made(labels), kind.made(weight.astype(kind.dtype))
    loss, dlogits = A.softmax_cross_entropy(*made, ignore_index=3, label_smoothing=0.2, reduction=reduction)
    assert loss.shape == total.shape
    assert dlogits.shape == logits.shape
    assert relative_error(kind.host(loss), total) <= (1e-12 if kind.dtype == np.float64 else 1e-6)


def test_a_label_of_a_device_is_not_read(kind):
    if kind.backend.name == "numpy":
        pytest.skip("NumPy's labels are checked")
    loss, _ = A.softmax_cross_entropy(kind.made(np.ones((2, 3), np.float32)), kind.made(np.array([0, 7])))
    assert np.isnan(kind.host(loss))


@pytest.mark.parametrize("transposes", [(False, False), (True, False), (False, True), (True, True)])
def test_a_product_is_a_sum_over_the_inner_axis(kind, rng, transposes):
    for batch in ((), (3,)):
        a, b = rng.normal(size=(*batch, 5, 4)), rng.normal(size=(*batch, 4, 6))
        given_a, given_b = (np.swapaxes(m, -1, -2) if t else m for m, t in zip((a, b), transposes, strict=True))
        made = [kind.made(m.astype(kind.dtype), strides="made") for m in (given_a, given_b)]
        y = A.matmul(*made, transpose_a=transposes[0], transpose_b=transposes[1])
        wanted = np.einsum("...mk,...kp->...mp", a, b)
        assert relative_error(kind.host(y), wanted) <= (1e-12 if kind.dtype == np.float64 else 1e-6)


# ---- gradients, by central differences along random directions


def slope(f, x, v, dy):
    """The derivative of <dy, f(x)> along v."""
    return float((dy * (f(x + STEP * v) - f(x - STEP * v))).sum() / (2 * STEP))


def agree(f, x, dy, dx, rng):
    for _ in range(3):
        v = np.clip(rng.normal(size=x.shape), -3, 3)
        assert slope(f, x, v, dy) == pytest.approx(float((dx * v).sum()), rel=1e-6, abs=1e-6 * np.linalg.norm(dx))


def test_the_gradient_of_max_pooling_is_the_scatter_by_its_mask(rng):
    options = {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}
    x = apart(rng, (2, 6, 5, 3))
    y, mask = A.max_pool2d(x, **options, return_mask=True)
    dy = rng.normal(size=y.shape)
    agree(lambda x: A.max_pool2d(x, **options), x, dy, A.max_unpool2d(dy, mask, x.shape, **options), rng)


@pytest.mark.parametrize("counted", [True, False])
def test_the_gradient_of_average_pooling(rng, counted):
    options = {"kernel_size": (3, 2), "stride": 2, "padding": 1, "count_padding": counted}
    x = rng.normal(size=(2, 6, 5, 3))
    dy = rng.normal(size=A.avg_pool2d(x, **options).shape)
    agree(lambda x: A.avg_pool2d(x, **options), x, dy, A.avg_pool2d_grad(dy, x.shape, **options), rng)


@pytest.mark.parametrize("training", [True, False])
def test_the_gradients_of_batch_norm(rng, training):
    x, w, b = rng.normal(1, 2, size=(3, 2, 4, 5)), rng.normal(size=5), rng.normal(size=5)
    running = rng.normal(size=5), rng.uniform(1, 2, 5)

    def f(x, w=w, b=b):
        return A.batch_norm(x, *[r.copy() for r in running], w, b, training=training, eps=0.3)

    mean, variance = (x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))) if training else running
    dy = rng.normal(size=x.shape)
    dx, dw, db = A.batch_norm_grad(dy, x, mean, variance, w, training=training, eps=0.3)
    agree(f, x, dy, dx, rng)
    agree(lambda w: f(x, w), w, dy, dw, rng)
    agree(lambda b: f(x, w, b), b, dy, db, rng)


@pytest.mark.parametrize("options", [{"scale_factor": 2}, {"size": (2, 9), "mode": "bilinear", "antialias": True}])
def test_the_gradient_of_upsampling(rng, options):
    x = rng.normal(size=(2, 3, 4, 3))
    dy = rng.normal(size=A.upsample2d(x, **options).shape)
    agree(lambda x: A.upsample2d(x, **options), x, dy, A.upsample2d_grad(dy, x.shape, **options), rng)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_gradient_of_the_cross_entropy(rng, reduction):
    x, labels = rng.normal(size=(2, 3, 4)), rng.integers(0, 4, (2, 3))
    options = {"label_smoothing": 0.1, "reduction": reduction, "ignore_index": 1}
    _, dx = A.softmax_cross_entropy(x, labels, **options)
    agree(lambda x: A.softmax_cross_entropy(x, labels, **options)[0], x, 1.0, dx, rng)


def test_the_gradients_of_a_transposed_convolution_are_convolutions(rng):
    x, w = rng.normal(size=(2, 3, 4, 3)), rng.normal(size=(3, 2, 5, 3))
    dy = rng.normal(size=A.conv_transpose2d(x, w, stride=2).shape)
    agree(lambda x: A.conv_transpose2d(x, w, stride=2), x, dy, A.conv2d(dy, w, stride=2), rng)
    dw, _ = A.conv2d_weight_grad(x, dy, (3, 2), stride=2, bias=False)
    agree(lambda w: A.conv_transpose2d(x, w, stride=2), w, dy, dw, rng)
