"""Resampling and filters of each place on the device: against the reference, and where their tables are sent."""

import numpy as np
import pytest
import tolerances
from recording import recording_backend

import gpunet as gp
from gpunet import functional as F
from gpunet.backends.contract import Into
from gpunet.geometry import Geometry
from gpunet.resampling import averaged, linear, nearest, padded

TABLES = [
    (linear(5, 10), linear(7, 9, align_corners=True)),
    (nearest(5, 12), padded(7, 3, 2, "reflect")),
    (averaged(5, 3), padded(7, 0, 2, "zero")),
    (nearest(5, 2), averaged(7, 1)),
]


@pytest.fixture(params=["float32", "float16", "bfloat16"])
def element(request):
    """A dtype that is stored, and the error that storing it once may cost."""
    return np.dtype(request.param), tolerances.NARROW.get(request.param, 2e-6)


def check(backend, got, expected, tolerance):
    """NaN in place, a small error elsewhere."""
    host = backend.to_numpy(got).astype(np.float64)
    assert host.shape == expected.shape
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(host[~finite], expected[~finite])
    assert np.linalg.norm(host[finite] - expected[finite]) <= tolerance * np.linalg.norm(expected[finite])


@pytest.mark.parametrize("channels", [3, 4, 8])
@pytest.mark.parametrize("tables", range(len(TABLES)))
def test_resampling_agrees_with_the_reference(device_backend, reference, rng, element, tables, channels):
    dtype, tolerance = element
    for rows, columns in (TABLES[tables], tuple(taps.transposed for taps in TABLES[tables])):
        x = rng.normal(size=(2, rows.extent, columns.extent, channels)).astype(dtype)
        x[1, 0, -1, 2] = np.nan
        got = device_backend.resample2d(device_backend.asarray(x), rows, columns)
        assert got.dtype == dtype
        check(device_backend, got, reference.resample2d(x.astype(np.float64), rows, columns), tolerance)


LONG = [  # extents of the image and of the result, channels, and how many launches
    ((37, 40), (1, 1), 3, 1), ((7, 7), (1, 1), 8, 1), ((41, 30), (3, 2), 4, 1), ((9, 8), (1, 2), 136, 1),
    ((20, 25), (1, 1), 132, 2), ((20, 20), (1, 1), 35, 2),
]  # fmt: skip


@pytest.mark.parametrize(("extents", "outputs", "channels", "launches"), LONG)
@pytest.mark.parametrize("shift", [0, 1])
def test_long_sums_are_shared_by_the_threads_of_a_block(
    device_backend, reference, rng, element, extents, outputs, channels, launches, shift
):
    dtype, tolerance = element
    rows, columns = (averaged(n, m) for n, m in zip(extents, outputs, strict=True))
    flat = (rng.normal(size=shift + 2 * extents[0] * extents[1] * channels) + 3).astype(dtype)
    flat[-2 * channels] = np.nan
    x = flat[shift:].reshape(2, *extents, channels)
    got = device_backend.resample2d(device_backend.asarray(flat)[shift:].reshape(x.shape), rows, columns)
    assert got.dtype == dtype
    check(device_backend, got, reference.resample2d(x.astype(np.float64), rows, columns), tolerance)
    recorded = recording_backend()
    recorded.resample2d(recorded.asarray(flat)[shift:].reshape(x.shape), rows, columns)
    assert len(recorded.launcher.kernels) == launches
    assert all(kernel.startswith("resample2d_long<") for kernel in recorded.launcher.kernels)


def test_a_long_sum_keeps_its_digits(device_backend):
    """A float accumulator would lose half of them among 60,000 terms; and one seed gives one result, bit for bit."""
    x = (1e4 + np.arange(250 * 240, dtype=np.float32) % 1000).reshape(1, 250, 240, 1)
    tables = averaged(250, 1), averaged(240, 1)
    one, other = (device_backend.to_numpy(device_backend.resample2d(device_backend.asarray(x), *tables)) for _ in "ab")
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(one.item(), x.astype(np.float64).mean(), rtol=3e-7)


def test_many_results_are_sums_of_a_thread_each():
    backend = recording_backend()
    x = backend.empty((512, 4, 4, 1024), np.float32)
    backend.resample2d(x, averaged(4, 1), averaged(4, 1))
    backend.resample2d(x[:8], averaged(4, 1), averaged(4, 1))
    backend.resample2d(x[:0], averaged(4, 1), averaged(4, 1))
    assert backend.launcher.kernels == ["resample2d<float, 4>", "resample2d_long<float, float, 4>"]


@pytest.mark.parametrize("shift", [0, 1])
def test_resampling_looks_at_alignment(shift, rng):
    backend = recording_backend()
    flat = backend.asarray(rng.normal(size=shift + 140).astype(np.float32))[shift:]
    backend.resample2d(flat.reshape(1, 5, 7, 4), *TABLES[0])
    assert backend.launcher.kernels == [f"resample2d<float, {1 if shift else 4}>"]


STRIDED = {"stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2)}
LOCAL = [  # x, filter, options, and by how many elements each array misses alignment
    ((3, 7, 6, 2), (3, 2, 2, 5), {}, 0), ((3, 7, 6, 2), (3, 2, 2, 5), STRIDED, 0),
    ((9, 4, 3, 8), (2, 3, 8, 12), {"padding": 1}, 0), ((9, 4, 3, 8), (2, 3, 8, 12), {"padding": 1}, 1),
    ((67, 3, 3, 4), (2, 2, 4, 36), {}, 0),  # more images than a block takes, more outputs than it holds filters of
    ((2, 3, 3, 37), (2, 2, 37, 3), {}, 0),  # more channels than stand side by side
]  # fmt: skip


@pytest.mark.parametrize(("x_shape", "filters", "options", "shift"), LOCAL)
def test_local_convolutions_agree_with_the_reference(
    device_backend, reference, rng, element, x_shape, filters, options, shift
):
    dtype, tolerance = element
    g = Geometry.conv(x_shape, filters, **options)
    shapes = g.x_shape, (*g.y_shape[1:3], *g.w_shape), (*g.y_shape[1:3], filters[3]), g.y_shape
    x, w, b, dy = (rng.normal(size=shape).astype(dtype) for shape in shapes)
    column = 3 if options == STRIDED else 1
    x[1, 1, 1, 1] = dy[0, 1, column, 2] = (
        np.nan
    )  # of a window inside the image: what NaN times padding is, is left open
    calls = ("forward", (x, w, b)), ("forward", (x, w, None)), ("input_grad", (dy, w)), ("weight_grad", (dy, x))

    def on(a):
        return device_backend.asarray(np.concatenate([np.zeros(shift, dtype), a.ravel()]))[shift:].reshape(a.shape)

    for name, arrays in calls:
        got = getattr(device_backend, f"local_conv2d_{name}")(*(None if a is None else on(a) for a in arrays), g)
        wide = (None if a is None else a.astype(np.float64) for a in arrays)
        expected = getattr(reference, f"local_conv2d_{name}")(*wide, g)
        if name == "weight_grad":  # float32 from float32 or 16 bits
            assert got[0].dtype == got[1].dtype == np.float32
            for one, other in zip(got, expected, strict=True):
                check(device_backend, one, other, 2e-6)
        else:
            assert got.dtype == dtype
            check(device_backend, got, expected, tolerance)


@pytest.mark.parametrize("into", ["both", "w", "b"])
def test_local_weight_gradients_accumulate(device_backend, reference, rng, into):
    g = Geometry.conv((2, 4, 5, 3), (2, 2, 3, 4))
    dy, x = (rng.normal(size=shape).astype(np.float32) for shape in (g.y_shape, g.x_shape))
    dw, db = reference.local_conv2d_weight_grad(dy, x, g)
    on = device_backend.asarray
    weight = on(np.ones_like(dw)) if into != "b" else None
    bias = on(np.ones_like(db)) if into != "w" else None
    got = device_backend.local_conv2d_weight_grad(on(dy), on(x), g, Into(weight, bias, add=True))
    check(device_backend, got[0], dw + (into != "b"), 2e-6)
    check(device_backend, got[1], db + (into != "w"), 2e-6)


def test_tables_are_sent_once(rng):
    backend = recording_backend()
    x = backend.asarray(rng.normal(size=(1, 5, 7, 4)).astype(np.float32))
    for _ in range(2):
        backend.resample2d(x, *TABLES[0])
    (*_, first), (*_, second) = backend.launcher.launches
    assert all(a is b for a, b in zip(first[1:7], second[1:7], strict=True))


def test_a_captured_resampling_sends_nothing(cuda_backend, rng):
    """Forward and backward are recorded after they ran once, and follow their input in a replay."""
    recorder = cuda_backend.recorder()
    given = recorder.feed((1, 5, 7, 4), np.float32)
    x = gp.tensor(given.device, backend=cuda_backend, requires_grad=True)

    def work():
        x.zero_grad()
        y = F.adaptive_max_pool2d(F.pad2d(F.upsample2d(x, size=(9, 8), mode="bilinear"), 1, mode="edge"), 4)
        y.backward(y)
        return y.data, x.grad

    def send():
        given.host[...] = rng.normal(size=given.host.shape)
        with recorder.current():
            given.send()

    send()
    with recorder.current():
        work()
    graph, (y, dx) = recorder.record(work)
    send()
    with recorder.current():
        graph.launch()
    replayed = cuda_backend.to_numpy(y), cuda_backend.to_numpy(dx)
    for got, expected in zip(replayed, work(), strict=True):
        np.testing.assert_array_equal(got, cuda_backend.to_numpy(expected))


def test_shapes_that_do_not_fit_are_refused_before_a_launch(rng):
    backend = recording_backend()
    x = backend.asarray(np.ones((2, 5, 7, 3), np.float32))
    with pytest.raises(ValueError, match=r"resample2d: x has shape \(2, 5, 7, 3\) but takes \(2, 7, 5, 3\)"):
        backend.resample2d(x, linear(7, 3), linear(5, 3))
    g = Geometry.conv(x.shape, (2, 2, 3, 4))
    with pytest.raises(
        ValueError, match=r"local_conv2d_forward: w has shape \(2, 2, 3, 4\) but takes \(4, 6, 2, 2, 3, 4\)"
    ):
        backend.local_conv2d_forward(x, backend.asarray(np.ones((2, 2, 3, 4), np.float32)), None, g)
    dy, bias = (backend.asarray(np.ones(shape, np.float32)) for shape in (g.y_shape, (4,)))
    with pytest.raises(ValueError, match=r"local_conv2d_weight_grad: bias has shape \(4,\) but takes \(4, 6, 4\)"):
        backend.local_conv2d_weight_grad(dy, x, g, Into(bias=bias))
    assert not backend.launcher.kernels
