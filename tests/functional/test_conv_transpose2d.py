"""Transposed convolution: against its definition, finite differences, and what it is the transpose of."""

import numpy as np
import pytest
import tolerances
from helpers import check_gradients, gradients, same

import gpunet as gp
from gpunet import functional as F
from gpunet import nn
from gpunet.backends import get_backend

# x, (KH, KW), O, options: height unlike width, channels unlike filters, gaps, overlaps, groups
CASES = [
    ((2, 3, 5, 4), (2, 2), 3, {"stride": 2}),
    ((2, 4, 3, 3), (3, 3), 2, {"stride": 2, "padding": 1, "output_padding": 1}),
    ((1, 5, 4, 6), (3, 2), 4, {"stride": (1, 3), "padding": (1, 0), "output_padding": (0, 2), "groups": 2}),
    ((2, 3, 4, 5), (4, 3), 7, {"stride": (3, 2), "padding": ((2, 1), (0, 1)), "dilation": (1, 2)}),
    ((1, 3, 2, 2), (2, 2), 3, {"stride": 3}),  # pixels that no window reaches
    ((1, 4, 6, 2), (1, 1), 5, {}),
    ((2, 3, 5, 17), (4, 4), 11, {"stride": 2, "padding": "same"}),
]


def sides(padding):
    if isinstance(padding, int):
        return (padding,) * 2, (padding,) * 2
    return tuple(p if isinstance(p, tuple) else (p, p) for p in padding)


def both(value):
    return value if isinstance(value, tuple) else (value, value)


def by_definition(x, w, b, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    """Each pixel of x adds the filters, times itself, to a window of y; then the padding is cut off."""
    (sy, sx), (dy, dx), extra = both(stride), both(dilation), both(output_padding)
    kh, kw, each, inputs = w.shape
    n, h, width, _ = x.shape
    if padding == "same":
        total = [dy * (kh - 1) + 1 - sy, dx * (kw - 1) + 1 - sx]
        padding = tuple((t // 2, t - t // 2) for t in total)
    (top, bottom), (left, right) = sides(padding)
    full = np.zeros((n, (h - 1) * sy + dy * (kh - 1) + 1, (width - 1) * sx + dx * (kw - 1) + 1, each * groups))
    per = inputs // groups
    for g in range(groups):
        taken, made = slice(g * per, (g + 1) * per), slice(g * each, (g + 1) * each)
        for p in range(h):
            for q in range(width):
                for i in range(kh):
                    for j in range(kw):
                        full[:, p * sy + i * dy, q * sx + j * dx, made] += x[:, p, q, taken] @ w[i, j, :, taken].T
    full = np.pad(full, ((0, 0), (0, extra[0]), (0, extra[1]), (0, 0)))
    return full[:, top : full.shape[1] - bottom, left : full.shape[2] - right] + b


def drawn(rng, x_shape, window, filters, options):
    groups = options.get("groups", 1)
    shapes = x_shape, (*window, filters // groups, x_shape[3]), (filters,)
    return [rng.normal(size=shape) for shape in shapes]


@pytest.mark.parametrize(("x_shape", "window", "filters", "options"), CASES)
def test_values_are_those_of_the_definition(backend, dtype, rng, x_shape, window, filters, options):
    x, w, b = (a.astype(dtype) for a in drawn(rng, x_shape, window, filters, options))
    y = F.conv_transpose2d(gp.tensor(x, backend=backend), w, b, **options)
    expected = by_definition(*(a.astype(np.float64) for a in (x, w, b)), **options)
    assert y.shape == expected.shape
    same(y.numpy(), expected, tolerances.ORACLE)


@pytest.mark.parametrize(("x_shape", "window", "filters", "options"), CASES)
def test_gradients_match_finite_differences(backend, rng, x_shape, window, filters, options):
    inputs = drawn(rng, x_shape, window, filters, options)
    check_gradients(lambda x, w, b: F.conv_transpose2d(x, w, b, **options), inputs, backend=backend, rng=rng)


def test_it_is_the_transpose_of_the_convolution(backend, dtype, rng):
    """<conv(v), x> = <v, conv_transpose(x)> for every v and x."""
    x, w, v = rng.normal(size=(2, 4, 3, 5)), rng.normal(size=(3, 2, 4, 5)), rng.normal(size=(2, 8, 6, 4))
    x, w, v = (gp.tensor(a.astype(dtype), backend=backend) for a in (x, w, v))
    options = {"stride": 2, "padding": ((1, 0), (0, 1))}
    there = F.conv2d(v, w, **options).numpy().astype(np.float64)
    back = F.conv_transpose2d(x, w, output_padding=(0, 1), **options).numpy().astype(np.float64)
    assert (back.shape, there.shape) == (v.shape, x.shape)
    np.testing.assert_allclose((there * x.numpy()).sum(), (back * v.numpy()).sum(), rtol=1e-5)


def test_nan_comes_out_where_it_went_in(backend, dtype):
    x = np.zeros((1, 3, 3, 2), dtype)
    x[0, 1, 1, 0] = np.nan
    y = F.conv_transpose2d(gp.tensor(x, backend=backend), np.ones((2, 2, 3, 2), dtype), stride=2).numpy()
    expected = np.zeros((6, 6), bool)
    expected[2:4, 2:4] = True
    np.testing.assert_array_equal(np.isnan(y[0]), np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options", "message"),
    [
        ((3, 3, 2), (2, 2, 3, 2), {}, "x has shape (3, 3, 2) but takes 4 axes"),
        (
            (1, 3, 3, 4),
            (2, 2, 3, 2),
            {},
            "weight is (2, 2, 3, 2) but x (1, 3, 3, 4) takes (KH, KW, O // groups, 4)",
        ),
        (
            (1, 3, 3, 2),
            (2, 2, 3, 2),
            {"stride": 2, "output_padding": 2},
            "output_padding is 2 but must be from 0 to below",
        ),
        (
            (1, 3, 3, 2),
            (2, 2, 3, 2),
            {"stride": 2, "padding": "same", "output_padding": (0, 1)},
            'output_padding is (0, 1) but must be 0 with padding "same"',
        ),
        ((1, 1, 1, 2), (2, 2, 3, 2), {"padding": 1}, "padding 1 leaves nothing of x (1, 1, 1, 2) with windows (2, 2)"),
    ],
)
def test_what_does_not_fit_raises(x_shape, w_shape, options, message):
    with pytest.raises(ValueError, match="^conv_transpose2d: ") as caught:
        F.conv_transpose2d(gp.tensor(np.zeros(x_shape)), np.zeros(w_shape), **options)
    assert message in str(caught.value)


def test_bias_that_does_not_fit_raises():
    with pytest.raises(ValueError, match=r"conv_transpose2d: bias has shape \(2,\) but takes \(3,\)"):
        F.conv_transpose2d(gp.tensor(np.zeros((1, 2, 2, 2))), np.zeros((2, 2, 3, 2)), np.zeros(2))


def test_layer_computes_the_operation_with_its_own_weights(backend, rng):
    layer = nn.ConvTranspose2d(4, 6, (3, 2), stride=2, padding=(1, 0), output_padding=1, groups=2).to(backend)
    assert (layer.weight.shape, layer.bias.shape) == ((3, 2, 3, 4), (6,))
    layer.bias.data = backend.asarray(rng.normal(size=6), np.float32)
    x = rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
    expected = by_definition(
        x.astype(float), layer.weight.numpy().astype(float), layer.bias.numpy(), stride=2, padding=(1, 0),
        output_padding=1, groups=2,
    )  # fmt: skip
    same(layer(x).numpy(), expected, tolerances.ORACLE)


def test_layer_trains_in_an_optimizers_arena(backend, rng):
    """The gradient is written into the arena, and added to there where a weight is used twice."""
    layer = nn.ConvTranspose2d(2, 2, 3, padding=1)
    x, dy = rng.normal(size=(1, 4, 5, 2)).astype(np.float32), rng.normal(size=(1, 4, 5, 2)).astype(np.float32)
    layer.to(backend)
    optimizer = gp.optim.SGD(layer.parameters(), lr=0.0)
    optimizer.zero_grad()
    layer(layer(x)).backward(dy)
    twice = gradients(
        lambda x, w: F.conv_transpose2d(F.conv_transpose2d(x, w, padding=1), w, padding=1),
        (x, layer.weight.numpy()), lambda _: dy, backend=get_backend("reference"), dtype=np.float64,
    )[1][1]  # fmt: skip
    same(backend.to_numpy(layer.weight.grad), twice, tolerances.BACKENDS)


def test_summary_counts_the_layers_parameters_and_operations():
    (row,) = gp.summary(nn.Sequential(nn.ConvTranspose2d(8, 4, 2, stride=2)), (5, 7, 8)).rows
    assert (row.output_shape, row.parameters, row.formula) == ((10, 14, 4), 132, "2·2·4·8+4")
    assert row.flops == 5 * 7 * 8 * 2 * 2 * 4 * 2 + 10 * 14 * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, "groups=3 must divide"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"padding": -1}, "negative"),
    ],
)
def test_layer_with_bad_options_raises_when_it_is_made(options, message):
    with pytest.raises(ValueError, match=f"ConvTranspose2d: .*{message}"):
        nn.ConvTranspose2d(4, 4, 2, **options)


def test_the_layer_refuses_an_output_padding_that_has_no_place():
    with pytest.raises(ValueError, match='ConvTranspose2d: output_padding is 1 but must be 0 with padding "same"'):
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding="same", output_padding=1)
    with pytest.raises(ValueError, match="ConvTranspose2d: output_padding is 2 but must be from 0 to below stride"):
        nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=2)
    assert nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=np.int64(1)).output_padding == (1, 1)
