"""The fast CPU path against the reference over drawn geometries, with one thread and several."""

import os
import signal
import time

import numpy as np
import pytest
import tolerances
from helpers import same
from helpers.geometries import convolutions, pools
from hypothesis import given, settings
from hypothesis import strategies as st

import gpunet as gp
from gpunet.backends.contract import FUSED_POOL, Activation, Conv, Gate, Into, Product
from gpunet.backends.contract.arrays import BINARY
from gpunet.backends.numpy.backend import NumpyBackend
from gpunet.backends.numpy.conv import columns, depthwise, registry
from gpunet.backends.numpy.conv.subpixel import subpixel_geometry
from gpunet.backends.reference.backend import ReferenceBackend
from gpunet.geometry import Geometry

reference = ReferenceBackend()
dtypes = st.sampled_from(["float32", "float64"])
activations = st.sampled_from([None, "relu", "leaky_relu", "sigmoid", "tanh"])


@pytest.fixture(scope="module", params=[(1, 16), (2, 1), (3, 16)], ids=["1 thread", "2 threads, planes", "3 threads"])
def fast(request):
    """Also with the algorithm for few channels whatever the batch, because drawn batches are small; blocks are small too."""
    threads, fewest = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "FEWEST_IMAGES", fewest)
        patch.setattr(columns, "MATRIX_ELEMENTS", 1 << 17)
        patch.setattr(depthwise, "PADDED_ELEMENTS", 1 << 16)
        yield NumpyBackend(threads=threads)


def conv_results(backend, x, w, b, dy, g, activation, pool=None):
    """y, dx, dw, db; and dw, db added to what was there."""
    conv = Conv(g, activation, pool)
    y, mask = backend.conv2d_forward(x, w, b, conv)
    assert (mask is None) == (pool is None)
    gate = conv.gate(y, mask)
    assert (gate is None) == (activation is None and pool is None)
    dy = dy if pool is None else dy[:, : pool.y_shape[1], : pool.y_shape[2]].copy()
    dx = backend.conv2d_input_grad(dy, w, conv, gate)
    dw, db = backend.conv2d_weight_grad(dy, x, conv, gate)
    weight, bias = w.copy(), b.copy()
    added = backend.conv2d_weight_grad(dy, x, conv, gate, Into(weight, bias, add=True))
    assert added[0] is weight
    assert added[1] is bias
    return y, dx, dw, db, weight, bias


def pool_over(g):
    """The pool that can be fused into a convolution, None where its output is too small."""
    return Geometry.pool(g.y_shape, FUSED_POOL) if min(g.y_shape[1:3]) >= 2 else None


@given(case=convolutions(), dtype=dtypes, activation=activations, pooled=st.booleans())
@settings(max_examples=120)
def test_convolutions_agree_with_the_reference(fast, case, dtype, activation, pooled):
    g, rng = case.geometry, case.rng
    shapes = case.x_shape, case.w_shape, case.w_shape[3:], g.y_shape
    arrays = [rng.normal(size=s).astype(dtype) for s in shapes]
    kept = [a.copy() for a in arrays]
    options = activation and Activation(activation), pool_over(g) if pooled else None
    for actual, expected in zip(
        conv_results(fast, *arrays, g, *options), conv_results(reference, *arrays, g, *options), strict=True
    ):
        assert actual.dtype == dtype
        assert actual.flags.c_contiguous
        same(actual, expected, tolerances.BACKENDS)
    for array, before in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(array, before)  # primitives change no input


@given(case=pools(), dtype=dtypes)
@settings(max_examples=120)
def test_pools_agree_with_the_reference(fast, case, dtype):
    g, rng = case.geometry, case.rng
    x = rng.integers(0, 4, case.x_shape).astype(dtype)  # ties
    dy = rng.normal(size=g.y_shape).astype(dtype)
    y, mask = fast.max_pool2d_forward(x, g)
    expected, expected_mask = reference.max_pool2d_forward(x, g)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(mask, expected_mask)
    assert mask.dtype == expected_mask.dtype
    dx = fast.max_pool2d_backward(dy, mask, g)
    same(dx, reference.max_pool2d_backward(dy, mask, g), tolerances.BACKENDS)
    for count in (True, False):
        options = g, count
        same(fast.avg_pool2d_forward(x, *options), reference.avg_pool2d_forward(x, *options), tolerances.BACKENDS)
        same(fast.avg_pool2d_backward(dy, *options), reference.avg_pool2d_backward(dy, *options), tolerances.BACKENDS)


LARGE = [
    # batches that are cut into parts, one for each thread, and into blocks that fit a cache, both with a remainder
    ((53, 15, 14, 8), (3, 3, 8, 12), {"padding": "same"}),
    ((53, 15, 14, 8), (3, 3, 4, 12), {"stride": 2, "groups": 2}),
    ((37, 27, 28, 1), (5, 5, 1, 7), {"padding": 2}),
    ((41, 17, 16, 10), (1, 1, 10, 24), {}),
    ((41, 17, 16, 10), (1, 1, 10, 24), {"stride": 2}),
    ((37, 17, 16, 12), (3, 3, 12, 7), {"padding": 1}),
    ((37, 17, 16, 12), (2, 4, 12, 5), {"stride": (1, 2), "padding": ((2, 0), (1, 3)), "dilation": (3, 1)}),
    ((41, 16, 17, 10), (2, 3, 10, 9), {"stride": (2, 1), "padding": ((0, 1), (2, 1)), "dilation": (1, 2)}),
    # windows of whole strides, whose input gradient is a convolution, cut at its borders
    ((33, 18, 21, 18), (4, 2, 18, 20), {"stride": 2, "padding": ((1, 2), (0, 1))}),
    ((21, 23, 22, 32), (6, 4, 16, 36), {"stride": (3, 2), "padding": ((5, 1), (3, 2)), "groups": 2}),
    # one filter for each channel
    ((53, 15, 14, 24), (3, 3, 1, 24), {"padding": "same", "groups": 24}),
    (
        (41, 16, 17, 10),
        (3, 2, 1, 10),
        {"stride": (1, 3), "padding": ((0, 1), (2, 1)), "dilation": (2, 2), "groups": 10},
    ),
    (
        (37, 17, 16, 12),
        (2, 5, 1, 12),
        {"stride": (3, 2), "padding": ((2, 0), (1, 3)), "dilation": (1, 3), "groups": 12},
    ),
]


def test_strided_gradients_are_convolutions_where_that_is_the_lesser_work():
    def turned(extent, window, **options):
        return subpixel_geometry(Geometry.conv((1, extent, extent, 16), (window, window, 16, 16), **options))

    assert turned(32, 4, stride=2, padding=1).y_shape == (1, 17, 17, 64)
    assert turned(32, 2, stride=2).y_shape == (1, 16, 16, 64)
    assert turned(8, 4, stride=2, padding=1) is None
    assert turned(32, 3, stride=2, padding=1) is None
    assert turned(32, 2, stride=2, dilation=2) is None


@pytest.mark.parametrize("pooled", [False, True], ids=["", "pooled"])
@pytest.mark.parametrize(("x_shape", "w_shape", "options"), LARGE)
def test_large_batches_agree_with_the_reference_and_with_themselves(fast, rng, x_shape, w_shape, options, pooled):
    g = Geometry.conv(x_shape, w_shape, **options)
    arrays = [rng.normal(size=s).astype(np.float32) for s in (x_shape, w_shape, w_shape[3:], g.y_shape)]
    fused = Activation("relu"), pool_over(g) if pooled else None
    once, again = (conv_results(fast, *arrays, g, *fused) for _ in range(2))
    for first, second in zip(once, again, strict=True):
        np.testing.assert_array_equal(first, second)  # bit for bit
    exact = conv_results(reference, *(a.astype(np.float64) for a in arrays), g, *fused)
    for actual, expected in zip(once, exact, strict=True):
        same(actual, expected, tolerances.BACKENDS)


@pytest.mark.parametrize("options", [{}, {"stride": 1}, {"stride": 3, "padding": 1}])
def test_large_pools_agree_with_the_reference_and_with_themselves(fast, rng, options):
    g = Geometry.pool((43, 29, 30, 9), 2, **options)
    x, dy = rng.normal(size=g.x_shape).astype(np.float32), rng.normal(size=g.y_shape).astype(np.float32)
    (y, mask), (y2, mask2) = (fast.max_pool2d_forward(x, g) for _ in range(2))
    expected, expected_mask = reference.max_pool2d_forward(x, g)
    for array in (y, y2):
        np.testing.assert_array_equal(array, expected)
    for array in (mask, mask2):
        np.testing.assert_array_equal(array, expected_mask)
    dx, dx2 = (fast.max_pool2d_backward(dy, mask, g) for _ in range(2))
    np.testing.assert_array_equal(dx, dx2)
    same(dx, reference.max_pool2d_backward(dy, mask, g), tolerances.BACKENDS)
    average = g, False
    same(fast.avg_pool2d_forward(x, *average), reference.avg_pool2d_forward(x, *average), tolerances.BACKENDS)
    same(fast.avg_pool2d_backward(dy, *average), reference.avg_pool2d_backward(dy, *average), tolerances.BACKENDS)


def test_nan_reaches_every_part_of_a_large_batch(fast, rng):
    g = Geometry.pool((43, 30, 30, 9), 2)
    x = rng.normal(size=g.x_shape).astype(np.float32)
    for i in (0, 20, 42):
        x[i, 17, 8, 3] = np.nan
    y, mask = fast.max_pool2d_forward(x, g)
    expected, expected_mask = reference.max_pool2d_forward(x, g)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(mask, expected_mask)
    assert np.isnan(y).sum() == 3


@pytest.mark.parametrize("transposes", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_matrix_products_agree_with_the_reference(fast, rng, transposes, dtype):
    m, k, p = 300, 70, 130
    a = rng.normal(size=(k, m) if transposes[0] else (m, k)).astype(dtype)
    b = rng.normal(size=(p, k) if transposes[1] else (k, p)).astype(dtype)
    gate_y = rng.normal(size=a.shape).astype(dtype)
    before = rng.normal(size=(m, p)).astype(dtype)
    variants = [
        {},
        {"bias": rng.normal(size=p).astype(dtype)},
        {"bias": rng.normal(size=p).astype(dtype), "activation": Activation("relu")},
        {"gate": Gate(gate_y, Activation("leaky_relu", 0.2))},
        {"gate": Gate(gate_y, Activation("relu")), "out": True},
        {"out": True, "add": True},
    ]
    for options in variants:
        results = []
        for backend in (fast, reference):
            given_out = {"out": before.copy()} if options.get("out") else {}
            y = backend.matmul(a, b, Product(*transposes, **{**options, **given_out}))
            if given_out:
                assert y is given_out["out"]
            results.append(y)
        same(*results, tolerances.BACKENDS)


@pytest.mark.parametrize("compiled", [False, None])
@pytest.mark.parametrize("channels", [(8, 12), (24, 40)])  # by images innermost, and by a matrix of windows
def test_results_do_not_depend_on_the_threads(rng, channels, compiled):
    g = Geometry.conv((253, 15, 14, channels[0]), (3, 3, *channels), padding="same")
    arrays = [rng.normal(size=s).astype(np.float32) for s in (g.x_shape, g.w_shape, (channels[1],), g.y_shape)]
    expected, *others = (
        conv_results(NumpyBackend(threads=n, compiled=compiled), *arrays, g, None) for n in (1, 2, 2, 3)
    )
    for results in others:
        for first, second in zip(expected, results, strict=True):
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("shape", [(700, 900, 800), (3, 70_000, 5), (2000, 40, 3)])
def test_products_do_not_depend_on_the_threads(rng, shape):
    m, k, n = shape
    a, b = rng.normal(size=(m, k)).astype(np.float32), rng.normal(size=(k, n)).astype(np.float32)
    expected, *others = (NumpyBackend(threads=n, compiled=False).matmul(a, b) for n in (1, 2, 3))
    for y in others:
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("c", [1, 2, 3, 40, 5000])
def test_values_of_channels_meet_all_pixels(rng, name, c):
    a, b = (np.abs(rng.normal(size=s)).astype(np.float32) for s in ((2, 17, 31, c), (c,)))
    expected, backend = getattr(np, name)(a, b), NumpyBackend()
    np.testing.assert_array_equal(backend.binary(name, a, b), expected)
    other = backend.binary(name, a[:, ::2], b)
    np.testing.assert_array_equal(other, expected[:, ::2])
    y = backend.binary(name, a, b, out=a)
    assert y is a
    np.testing.assert_array_equal(a, expected)


@pytest.mark.parametrize(("given", "kind"), [(0, ValueError), (-1, ValueError)])
def test_a_bad_number_of_threads_is_named(given, kind):
    with pytest.raises(kind, match=f"NumpyBackend: threads is {given} but must be at least 1"):
        NumpyBackend(threads=given)


def test_the_environment_sets_the_number_of_threads(monkeypatch):
    monkeypatch.setenv("GPUNET_NUM_THREADS", "3")
    assert NumpyBackend().threads == 3
    monkeypatch.setenv("GPUNET_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="NumpyBackend: GPUNET_NUM_THREADS is 'many' but takes an integer"):
        NumpyBackend()


def test_describe_names_threads_and_blas():
    described = NumpyBackend(threads=2).describe()
    assert described["threads"] == "2"
    assert set(described) >= {"device", "numpy", "blas"}


def test_training_on_two_backends_gives_the_same_losses(backend, rng):
    losses = {}
    x, labels = rng.normal(size=(16, 12, 12, 1)).astype(np.float32), rng.integers(0, 3, 16)
    for name in ("reference", backend):
        gp.seed(1)
        model = gp.models.lenet((12, 12, 1), num_classes=3).to(name)
        optimizer = gp.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        curve = losses[gp.get_backend(name).name + str(len(losses))] = []
        for _ in range(10):
            optimizer.zero_grad()
            loss = gp.functional.cross_entropy(model(x), labels)
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
    first, second = losses.values()
    np.testing.assert_allclose(second, first, rtol=tolerances.LOSS_CURVE)
    assert first[-1] < 0.9 * first[0]


@pytest.mark.parametrize("channels", [3, 40])
def test_another_pool_than_the_fused_one_is_refused(channels):
    geometry = Geometry.conv((20, 9, 9, channels), (3, 3, channels, 4))
    for pool in (Geometry.pool(geometry.y_shape, 3), Geometry.pool(geometry.y_shape, 2, stride=1)):
        with pytest.raises(ValueError, match="conv2d: pool is .* only 2x2 windows"):
            Conv(geometry, None, pool)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process")
def test_a_forked_process_computes_too(rng):
    backend = NumpyBackend(2)
    x, w = rng.normal(size=(64, 28, 28, 8)).astype(np.float32), rng.normal(size=(3, 3, 8, 8)).astype(np.float32)
    geometry = Geometry.conv(x.shape, w.shape)
    expected, _ = backend.conv2d_forward(x, w, None, Conv(geometry))
    child = os.fork()
    if child == 0:
        same_bits = np.array_equal(backend.conv2d_forward(x, w, None, Conv(geometry))[0], expected)
        os._exit(0 if same_bits else 1)
    deadline = time.monotonic() + 30
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)
    assert ended[1] == 0
