"""Locally connected layers: against their definition, convolutions whose filters are all one, and finite differences."""

import numpy as np
import pytest
import tolerances
from helpers import check_gradients, gradients, same

import gpunet as gp
from gpunet import functional as F
from gpunet import nn
from gpunet.backends import get_backend
from gpunet.geometry import Geometry

# x, (KH, KW), O, options: height unlike width, channels unlike filters, gaps, overlaps, one image
CASES = [
    ((2, 5, 6, 3), (3, 2), 4, {}),
    ((3, 6, 5, 2), (2, 3), 5, {"stride": (2, 1), "padding": ((1, 0), (2, 1))}),
    ((1, 7, 4, 4), (2, 2), 3, {"stride": 3}),
    ((2, 4, 5, 1), (3, 3), 2, {"padding": "same", "stride": 2}),
    ((2, 3, 3, 2), (1, 1), 3, {}),
]


def by_definition(x, w, b, g):
    padded = np.pad(x, ((0, 0), *g.padding, (0, 0)))
    y = np.zeros(g.y_shape)
    for p, q in np.ndindex(*g.y_shape[1:3]):
        top, left = p * g.stride[0], q * g.stride[1]
        window = padded[:, top : top + g.window[0], left : left + g.window[1]]
        y[:, p, q] = np.tensordot(window, w[p, q], axes=3) + b[p, q]
    return y


def drawn(rng, x_shape, window, filters, options):
    g = Geometry.conv(x_shape, (*window, x_shape[3], filters), **options)
    places = g.y_shape[1:3]
    return g, [rng.normal(size=shape) for shape in (x_shape, (*places, *g.w_shape), (*places, filters))]


@pytest.mark.parametrize(("x_shape", "window", "filters", "options"), CASES)
def test_each_pixel_has_filters_of_its_own(backend, dtype, rng, x_shape, window, filters, options):
    g, arrays = drawn(rng, x_shape, window, filters, options)
    x, w, b = (a.astype(dtype) for a in arrays)
    y = F.locally_connected2d(gp.tensor(x, backend=backend), w, b, **options)
    same(y.numpy(), by_definition(*(a.astype(np.float64) for a in (x, w, b)), g), tolerances.ORACLE)


@pytest.mark.parametrize(("x_shape", "window", "filters", "options"), CASES)
def test_gradients_match_finite_differences(backend, rng, x_shape, window, filters, options):
    _, arrays = drawn(rng, x_shape, window, filters, options)
    check_gradients(lambda x, w, b: F.locally_connected2d(x, w, b, **options), arrays, backend=backend, rng=rng)
    check_gradients(lambda x, w: F.locally_connected2d(x, w, **options), arrays[:2], backend=backend, rng=rng)


@pytest.mark.parametrize(("x_shape", "window", "filters", "options"), CASES)
def test_filters_that_are_all_one_make_a_convolution(backend, dtype, rng, x_shape, window, filters, options):
    g, (x, w, b) = drawn(rng, x_shape, window, filters, options)
    one, shared, dy = w[0, 0], b[0, 0], rng.normal(size=g.y_shape)

    def run(f, w, b):
        return gradients(f, [x, w, b], lambda _: dy, backend=backend, dtype=dtype)

    y, (dx, dw, db) = run(
        lambda x, w, b: F.locally_connected2d(x, w, b, **options),
        np.broadcast_to(one, w.shape), np.broadcast_to(shared, b.shape),
    )  # fmt: skip
    expected, (ex, ew, eb) = run(lambda x, w, b: F.conv2d(x, w, b, **options), one, shared)
    for got, wanted in ((y, expected), (dx, ex), (dw.sum(axis=(0, 1)), ew), (db.sum(axis=(0, 1)), eb)):
        same(got, wanted, tolerances.BACKENDS)


def test_nan_comes_out_where_it_went_in(backend, dtype):
    x = np.zeros((2, 4, 4, 2), dtype)
    x[1, 1, 2, 0] = np.nan
    y = F.locally_connected2d(gp.tensor(x, backend=backend), np.ones((3, 3, 2, 2, 2, 3), dtype)).numpy()
    expected = np.zeros((2, 3, 3, 3), bool)
    expected[1, 0:2, 1:3] = True
    np.testing.assert_array_equal(np.isnan(y), expected)


@pytest.mark.parametrize(
    ("w_shape", "b_shape", "message"),
    [
        ((2, 2, 3, 4), None, "weight has shape (2, 2, 3, 4) but takes 6 axes (OH, OW, KH, KW, C, O)"),
        ((3, 4, 2, 2, 2, 5), None, "x has 3 channels but weight expects 2"),
        ((4, 3, 2, 2, 3, 5), None, "has filters for (4, 3) pixels, but x gives (3, 4)"),
        ((3, 4, 2, 2, 3, 5), (5,), "bias has shape (5,) but takes (3, 4, 5)"),
        ((3, 4, 9, 2, 3, 5), None, "a window of 9 pixels is larger than the padded height of x"),
    ],
)
def test_what_does_not_fit_raises(w_shape, b_shape, message):
    with pytest.raises(ValueError, match="^locally_connected2d: ") as caught:
        F.locally_connected2d(
            gp.tensor(np.zeros((1, 4, 5, 3))), np.zeros(w_shape), None if b_shape is None else np.zeros(b_shape)
        )
    assert message in str(caught.value)


def test_layer_computes_the_operation_with_its_own_weights(backend, rng):
    layer = nn.LocallyConnected2d((5, 6, 3), 4, (3, 2), stride=(2, 1), padding=1).to(backend)
    assert (layer.weight.shape, layer.bias.shape) == ((3, 7, 3, 2, 3, 4), (3, 7, 4))
    assert np.ptp(layer.weight.numpy(), axis=(0, 1)).min() > 0  # no two places alike
    layer.bias.data = backend.asarray(rng.normal(size=(3, 7, 4)), np.float32)
    x = rng.normal(size=(2, 5, 6, 3)).astype(np.float32)
    g = Geometry.conv(x.shape, (3, 2, 3, 4), stride=(2, 1), padding=1)
    same(layer(x).numpy(), by_definition(x, layer.weight.numpy(), layer.bias.numpy(), g), tolerances.ORACLE)


def test_layer_trains_in_an_optimizers_arena(backend, rng):
    """The gradient is written into the arena, and added to there where a weight is used twice."""
    layer = nn.LocallyConnected2d((4, 5, 2), 2, 3, padding=1)
    layer.to(backend)
    x, dy = (rng.normal(size=(2, 4, 5, 2)).astype(np.float32) for _ in range(2))
    optimizer = gp.optim.SGD(layer.parameters(), lr=0.0)
    optimizer.zero_grad()
    layer(layer(x)).backward(dy)

    def twice(x, w, b):
        return F.locally_connected2d(F.locally_connected2d(x, w, b, padding=1), w, b, padding=1)

    inputs = x, layer.weight.numpy(), layer.bias.numpy()
    _, (_, dw, db) = gradients(twice, inputs, lambda _: dy, backend=get_backend("reference"), dtype=np.float64)
    same(backend.to_numpy(layer.weight.grad), dw, tolerances.BACKENDS)
    same(backend.to_numpy(layer.bias.grad), db, tolerances.BACKENDS)


def test_summary_counts_the_layers_parameters_and_operations():
    (row,) = gp.summary(nn.Sequential(nn.LocallyConnected2d((5, 7, 8), 4, 2)), (5, 7, 8)).rows
    assert (row.output_shape, row.parameters, row.formula) == ((4, 6, 4), 24 * (2 * 2 * 8 + 1) * 4, "4·6·(2·2·8+1)·4")
    assert row.flops == 4 * 6 * 4 * (2 * 2 * 2 * 8 + 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((4, 5), 3, 2), "in_shape is (4, 5) but takes (H, W, C)"),
        (((4, 5, 3), 0, 2), "out_channels must be at least 1, got 0"),
        (((4, 5, 3), 2, 6), "a window of 6 pixels is larger"),
    ],
)
def test_layer_with_bad_options_raises_when_it_is_made(arguments, message):
    with pytest.raises(ValueError, match="^LocallyConnected2d: ") as caught:
        nn.LocallyConnected2d(*arguments)
    assert message in str(caught.value)
