"""Upsampling, padding and adaptive pooling: against SciPy, np.pad and their definitions, and finite differences."""

import numpy as np
import pytest
import tolerances
from helpers import apart, check_gradients, host, same
from scipy import ndimage

import gpunet as gp
from gpunet import functional as F
from gpunet import nn

# H and W unlike, up and down, by whole numbers and not; with few channels and with four
SIZES = [((4, 6), (8, 12)), ((5, 3), (7, 9)), ((7, 8), (3, 5)), ((6, 5), (6, 11)), ((1, 4), (3, 1))]


def at(n, m, align_corners=False):
    """Where the m outputs of an axis lie among n pixels."""
    if align_corners:
        return np.arange(m) * ((n - 1) / (m - 1) if m > 1 else 0)
    return (np.arange(m) + 0.5) * n / m - 0.5


def interpolated(x, rows, columns):
    """x (N, H, W, C) between its pixels; beyond the border, the border's."""
    grid = np.meshgrid(rows, columns, indexing="ij")
    planes = [
        ndimage.map_coordinates(x[n, :, :, c].astype(np.float64), grid, order=1, mode="nearest")
        for n, c in np.ndindex(len(x), x.shape[3])
    ]
    return np.stack(planes).reshape(len(x), x.shape[3], len(rows), len(columns)).transpose(0, 2, 3, 1)


def pooled(x, size, reduce):
    """Windows of adaptive pooling, by their definition."""
    (h, w), (oh, ow) = x.shape[1:3], size
    y = np.zeros((len(x), *size, x.shape[3]))
    for p, q in np.ndindex(*size):
        rows = slice(int(np.floor(p * h / oh)), int(np.ceil((p + 1) * h / oh)))
        columns = slice(int(np.floor(q * w / ow)), int(np.ceil((q + 1) * w / ow)))
        y[:, p, q] = reduce(x[:, rows, columns], axis=(1, 2))
    return y


@pytest.mark.parametrize(("extents", "size"), SIZES)
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("align_corners", [False, True])
def test_bilinear_upsampling_interpolates(backend, dtype, rng, extents, size, channels, align_corners):
    x = rng.normal(size=(2, *extents, channels)).astype(dtype)
    y = F.upsample2d(gp.tensor(x, backend=backend), size=size, mode="bilinear", align_corners=align_corners)
    places = (at(n, m, align_corners) for n, m in zip(extents, size, strict=True))
    same(y.numpy(), interpolated(x, *places), tolerances.ORACLE)


@pytest.mark.parametrize(("extents", "size"), SIZES)
def test_nearest_upsampling_takes_the_pixel_before(backend, dtype, rng, extents, size):
    x = rng.normal(size=(2, *extents, 3)).astype(dtype)
    y = F.upsample2d(gp.tensor(x, backend=backend), size=size)
    rows, columns = (np.arange(m) * n // m for n, m in zip(extents, size, strict=True))
    np.testing.assert_array_equal(y.numpy(), x[:, rows][:, :, columns])


def test_a_scale_is_a_factor_of_each_extent(backend, rng):
    x = gp.tensor(rng.normal(size=(1, 5, 6, 2)).astype(np.float32), backend=backend)
    np.testing.assert_array_equal(F.upsample2d(x, 2).numpy(), x.numpy().repeat(2, axis=1).repeat(2, axis=2))
    assert F.upsample2d(x, (1.5, 0.5), mode="bilinear").shape == (1, 7, 3, 2)
    rows, columns = (np.arange(7) + 0.5) / 1.5 - 0.5, (np.arange(3) + 0.5) / 0.5 - 0.5
    expected = interpolated(x.numpy(), rows, columns)
    same(F.upsample2d(x, (1.5, 0.5), mode="bilinear").numpy(), expected, tolerances.ORACLE)
    np.testing.assert_array_equal(F.upsample2d(x, 1, mode="bilinear").numpy(), x.numpy())


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize(("extents", "size"), SIZES)
def test_upsampling_gradients_match_finite_differences(backend, rng, extents, size, channels):
    x = rng.normal(size=(2, *extents, channels))
    for options in ({}, {"mode": "bilinear"}, {"mode": "bilinear", "align_corners": True}):
        check_gradients(lambda x, o=options: F.upsample2d(x, size=size, **o), [x], backend=backend, rng=rng)


MODES = {"zero": "constant", "reflect": "reflect", "edge": "edge"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", [0, 2, (1, 3), ((0, 3), (2, 1))])
def test_padding_is_numpys(backend, dtype, rng, mode, padding):
    x = rng.normal(size=(2, 4, 5, 3)).astype(dtype)
    rows, columns = padding if isinstance(padding, tuple) else (padding, padding)
    expected = np.pad(x, ((0, 0), np.broadcast_to(rows, 2), np.broadcast_to(columns, 2), (0, 0)), MODES[mode])
    np.testing.assert_array_equal(F.pad2d(gp.tensor(x, backend=backend), padding, mode=mode).numpy(), expected)
    check_gradients(lambda x: F.pad2d(x, padding, mode=mode), [x], backend=backend, rng=rng)


@pytest.mark.parametrize("size", [1, 2, (3, 4), (4, 8), (5, 3), (9, 10)])
def test_adaptive_pooling_covers_the_image(backend, dtype, rng, size):
    x = apart(rng, (2, 6, 8, 3)).astype(dtype)
    t, both = gp.tensor(x, backend=backend), size if isinstance(size, tuple) else (size, size)
    same(F.adaptive_avg_pool2d(t, size).numpy(), pooled(x, both, np.mean), tolerances.ORACLE)
    np.testing.assert_array_equal(F.adaptive_max_pool2d(t, size).numpy(), pooled(x, both, np.max).astype(dtype))


@pytest.mark.parametrize("size", [1, (3, 4), (4, 3), (5, 3), (7, 2)])
def test_adaptive_pooling_gradients_match_finite_differences(backend, rng, size):
    x = apart(rng, (2, 6, 8, 2))
    for pool in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d):
        check_gradients(lambda x, pool=pool: pool(x, size), [x], backend=backend, rng=rng)


@pytest.mark.parametrize("size", [(None, 2), (3, None), (None, None), None])
def test_adaptive_pooling_keeps_an_extent_that_is_none(backend, rng, size):
    x = gp.tensor(rng.normal(size=(2, 6, 8, 3)).astype(np.float32), backend=backend)
    both = size or (None, None)
    expected = both[0] or 6, both[1] or 8
    for pool, layer in ((F.adaptive_avg_pool2d, nn.AdaptiveAvgPool2d), (F.adaptive_max_pool2d, nn.AdaptiveMaxPool2d)):
        y = pool(x, size).numpy()
        np.testing.assert_array_equal(y, pool(x, expected).numpy())
        np.testing.assert_array_equal(y, layer(size)(x).numpy())


@pytest.mark.parametrize("scale", [np.float32(2), np.int64(2), (np.float64(2), 2)])
def test_numpys_numbers_are_scales(scale):
    x = gp.tensor(np.arange(12.0).reshape(1, 2, 3, 2))
    np.testing.assert_array_equal(F.upsample2d(x, scale).numpy(), F.upsample2d(x, 2).numpy())


def test_adaptive_max_pooling_prefers_the_first_of_equals(backend, rng):
    """Also where a window was filled up with its last pixels: the gradient of none arrives twice."""
    x = rng.integers(0, 2, (3, 5, 7, 4)).astype(np.float32)
    dy = rng.integers(1, 9, (3, 3, 4, 4)).astype(np.float32)
    expected = np.zeros_like(x)
    for i in np.ndindex(*dy.shape):
        rows = range(i[1] * 5 // 3, -(-(i[1] + 1) * 5 // 3))
        columns = range(i[2] * 7 // 4, -(-(i[2] + 1) * 7 // 4))
        pixels = [(r, c) for r in rows for c in columns]
        best = max(pixels, key=lambda pixel, i=i: x[i[0], *pixel, i[3]])  # the first of them
        expected[i[0], *best, i[3]] += dy[i]
    t = gp.tensor(x, backend=backend, requires_grad=True)
    F.adaptive_max_pool2d(t, (3, 4)).backward(dy)
    np.testing.assert_array_equal(host(t.grad, backend), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_reach_only_what_is_made_of_them(backend, value):
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 1, 1, 0] = value
    t = gp.tensor(x, backend=backend)

    def reached(y):
        return {tuple(int(n) for n in where) for where in np.argwhere(~np.isfinite(y.numpy()[0, :, :, 0]))}

    assert reached(F.upsample2d(t, 2)) == {(p, q) for p in (2, 3) for q in (2, 3)}
    assert reached(F.upsample2d(t, 2, mode="bilinear")) == {(p, q) for p in range(1, 5) for q in range(1, 5)}
    assert reached(F.pad2d(t, 1)) == {(2, 2)}
    assert reached(F.adaptive_avg_pool2d(t, 2)) == {(0, 0)}
    assert reached(F.adaptive_max_pool2d(t, 3)) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    x = gp.tensor(np.zeros((1, 2, 2, 1), np.float32), backend=backend, requires_grad=True)
    dy = np.zeros((1, 4, 4, 1), np.float32)
    dy[0, 0, 0, 0] = value
    F.upsample2d(x, 2, mode="bilinear").backward(dy)
    assert np.argwhere(~np.isfinite(host(x.grad, backend))).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: F.upsample2d(x),
            "upsample2d: takes exactly one of scale_factor and size, got None and None",
        ),
        (lambda x: F.upsample2d(x, 2, size=3), "upsample2d: takes exactly one of scale_factor and size"),
        (lambda x: F.upsample2d(x, 0), "upsample2d: scale_factor must be one or two positive numbers, got 0"),
        (lambda x: F.upsample2d(x, True), "upsample2d: scale_factor must be one or two positive numbers, got True"),
        (lambda x: F.upsample2d(x, "2"), "upsample2d: scale_factor must be one or two positive numbers, got '2'"),
        (
            lambda x: F.upsample2d(x, (1, 2, 3)),
            "upsample2d: scale_factor must be one or two positive numbers, got (1, 2, 3)",
        ),
        (lambda x: F.upsample2d(x, 0.1), "upsample2d: scale_factor 0.1 leaves no pixels of x (1, 3, 4, 2)"),
        (lambda x: F.upsample2d(x, size=0), "upsample2d: size must be at least 1, got 0"),
        (lambda x: F.upsample2d(x, 2, mode="cubic"), "upsample2d: mode is 'cubic' but takes one of nearest, bilinear"),
        (lambda x: F.upsample2d(x, 2, align_corners=True), "upsample2d: align_corners goes with mode 'bilinear'"),
        (lambda x: F.upsample2d(x[0], 2), "upsample2d: x has shape (3, 4, 2) but takes 4 axes (N, H, W, C)"),
        (lambda x: F.pad2d(x, 1, mode="wrap"), "pad2d: mode is 'wrap' but takes one of zero, reflect, edge"),
        (lambda x: F.pad2d(x, "same"), "pad2d: padding is 'same' but takes numbers of pixels"),
        (lambda x: F.pad2d(x, -1), "pad2d: padding must not be negative, got -1"),
        (lambda x: F.pad2d(x, 3, mode="reflect"), "must be smaller than the image it reflects, x (1, 3, 4, 2)"),
        (lambda x: F.adaptive_avg_pool2d(x, 0), "adaptive_avg_pool2d: output_size must be at least 1, got 0"),
        (lambda x: F.adaptive_max_pool2d(x, (None, 0)), "adaptive_max_pool2d: output_size must be at least 1, got 0"),
        (
            lambda x: F.adaptive_max_pool2d(x, (1, None, 3)),
            "adaptive_max_pool2d: output_size must be one integer or two",
        ),
        (lambda x: F.adaptive_max_pool2d(x, (1, 2, 3)), "adaptive_max_pool2d: output_size must be one integer or two"),
    ],
)
def test_what_does_not_fit_raises(call, message):
    with pytest.raises(ValueError, match="^(upsample|pad|adaptive)") as caught:
        call(gp.tensor(np.zeros((1, 3, 4, 2))))
    assert message in str(caught.value)
