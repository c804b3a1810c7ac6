"""Kernels that store 16 bits and add up in float32, against the reference in float64 on inputs of those bits."""

from dataclasses import replace

import numpy as np
import pytest
import tolerances
from recording import recording_backend

from gpunet.backends.contract.activation import ACTIVATIONS, INPUT_ACTIVATIONS, Activation, InputActivation
from gpunet.backends.contract.conv import FUSED_POOL, Conv
from gpunet.backends.contract.gradients import Gate, Into
from gpunet.backends.contract.loss import CrossEntropy
from gpunet.backends.contract.matmul import Product
from gpunet.backends.contract.norm import BatchNorm, GroupNorm, Moments
from gpunet.geometry import Geometry
from gpunet.random import Stream

RELU, TANH = Activation("relu"), Activation("tanh")
SPECIAL = np.float32(
    [0.0, -0.0, 1.0, -2.5, np.nan, np.inf, -np.inf, 65504.0, 65519.0, 65520.0, 3e38, 6e-8, 1e-8, 1e-30]
)


@pytest.fixture(params=["float16", "bfloat16"])
def narrow(request):
    """A dtype of 16 bits."""
    return np.dtype(request.param)


@pytest.fixture
def rounded(narrow, rng):
    """Standard normal numbers that the dtype holds."""
    return lambda *shape: rng.normal(size=shape).astype(narrow)


@pytest.fixture
def compare(device_backend, reference, narrow):
    """Run a primitive here and, in float64, on the reference; assert that the results agree and are of the right dtype."""

    def run(primitive, *arrays, single=False, **options):
        def changed(value, change):
            if isinstance(value, np.ndarray):
                return change(value)
            if isinstance(value, Gate | CrossEntropy):
                return type(value)(*(changed(part, change) for part in value))
            if isinstance(value, Product):
                return replace(value, bias=changed(value.bias, change), gate=changed(value.gate, change))
            return value

        def wide(a):
            return a.astype(np.float64) if a.dtype == narrow else a

        with np.errstate(all="ignore"):
            expected = getattr(reference, primitive)(
                *(changed(a, wide) for a in arrays), **{k: changed(v, wide) for k, v in options.items()}
            )
        on = device_backend.asarray
        got = getattr(device_backend, primitive)(
            *(changed(a, on) for a in arrays), **{k: changed(v, on) for k, v in options.items()}
        )
        pairs = zip(*(r if isinstance(r, tuple) else (r,) for r in (got, expected)), strict=True)
        for mine, theirs in pairs:
            assert (mine is None) == (theirs is None)
            if theirs is None:
                continue
            host = device_backend.to_numpy(mine)
            if theirs.dtype == np.float64:
                assert host.dtype == (np.float32 if single or not theirs.ndim else narrow)
            agree(host, theirs, 1e-5 if host.dtype == np.float32 else tolerances.NARROW[narrow.name])
        return got

    return run


def agree(got, expected, tolerance):
    """NaN and infinities in place, a small error elsewhere."""
    got, finite = got.astype(np.float64), np.isfinite(expected)
    np.testing.assert_array_equal(got[~finite], expected[~finite])
    error = np.linalg.norm(got[finite] - expected[finite])
    assert error <= tolerance * max(np.linalg.norm(expected[finite]), 1e-30), error / np.linalg.norm(expected[finite])


@pytest.mark.parametrize("activation", [None, TANH], ids=str)
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((2, 7, 8, 3), (3, 3, 3, 5), {}),
        ((2, 9, 7, 4), (3, 2, 4, 20), {"padding": "same"}),
        ((1, 11, 10, 20), (3, 3, 20, 68), {"padding": 1}),
        ((2, 8, 9, 8), (3, 3, 4, 40), {"groups": 2, "padding": 1, "stride": 2}),
        ((2, 13, 12, 6), (3, 2, 6, 17), {"dilation": (2, 3), "padding": 2}),
    ],
)
def test_convolutions(compare, rounded, x_shape, w_shape, options, activation):
    g = Geometry.conv(x_shape, w_shape, **options)
    x, w, b, dy = rounded(*x_shape), rounded(*w_shape), rounded(w_shape[3]), rounded(*g.y_shape)
    compare("conv2d_forward", x, w, b, Conv(g, activation))
    compare("conv2d_forward", x, w, b, Conv(g, activation), dy)  # as a residual
    gate = Gate(np.tanh(dy), activation) if activation else None
    compare("conv2d_input_grad", dy, w, Conv(g, activation), gate)
    compare("conv2d_weight_grad", dy, x, Conv(g, activation), gate, single=True)


def test_a_pool_is_fused(compare, device_backend, reference, rounded, rng):
    g = Geometry.conv((2, 7, 9, 4), (3, 2, 4, 20), padding="same")
    conv = Conv(g, RELU, Geometry.pool(g.y_shape, FUSED_POOL))
    x, w = (np.round(rounded(*shape) * 2) for shape in (g.x_shape, g.w_shape))  # ties, and sums that are exact
    x[0, 1, 2, 1] = np.nan
    compare("conv2d_forward", x, w, rounded(20), conv)  # the mask too
    x[0, 1, 2, 1] = 1
    mask = rng.integers(0, 4, conv.y_shape).astype(np.uint8)
    y, dy = np.tanh(rounded(*conv.y_shape)), rounded(*conv.y_shape)
    for gate in (Gate(y, RELU, mask), Gate(None, None, mask)):  # and has the same digits as behind it
        compare("conv2d_input_grad", dy, w, conv, gate)
        compare("conv2d_weight_grad", dy, x, conv, gate, single=True)

    on, host = device_backend.asarray, device_backend.to_numpy  # any other activation is undone and rounded
    device_gate = Gate(on(y.astype(dy.dtype)), TANH, on(mask))
    opened, _ = device_backend.open_pool(on(dy), conv, device_gate)
    before = reference.activation_backward(dy.astype(np.float64), y.astype(dy.dtype).astype(np.float64), TANH)
    expected = reference.max_pool2d_backward(before, mask, conv.pool)
    assert opened.dtype == dy.dtype
    agree(host(opened), expected, tolerances.NARROW[dy.dtype.name])
    for operation, other in (("conv2d_input_grad", on(w)), ("conv2d_weight_grad", on(x))):
        fused = getattr(device_backend, operation)(on(dy), other, conv, device_gate)
        apart = getattr(device_backend, operation)(opened, other, conv)
        for mine, theirs in zip(*(r if isinstance(r, tuple) else (r,) for r in (fused, apart)), strict=True):
            np.testing.assert_array_equal(host(mine), host(theirs))


@pytest.mark.parametrize("transposed", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize(("m", "k", "p"), [(65, 33, 66), (36, 20, 68), (20, 100, 10)])
def test_products(compare, rounded, m, k, p, transposed):
    a, b = rounded(*((k, m) if transposed[0] else (m, k))), rounded(*((p, k) if transposed[1] else (k, p)))
    compare("matmul", a, b, Product(*transposed, rounded(p), RELU, Gate(np.tanh(rounded(*a.shape)), TANH)))


def test_a_sum_is_float32_until_it_is_rounded_once(device_backend, narrow):
    # 256 + 1 is 256 again in bfloat16, and 2048 + 1 is 2048 in float16
    ones = np.ones((1, 4096)).astype(narrow)
    got = device_backend.matmul(device_backend.asarray(ones), device_backend.asarray(ones.T.copy()))
    assert float(device_backend.to_numpy(got)[0, 0]) == 4096
    g = Geometry.conv((4096, 1, 1, 1), (1, 1, 1, 1))
    dy = device_backend.asarray(np.ones(g.y_shape).astype(narrow))
    dw, db = device_backend.conv2d_weight_grad(dy, dy, Conv(g))
    assert (device_backend.to_numpy(dw).item(), device_backend.to_numpy(db).item()) == (4096, 4096)


def test_weight_gradients_accumulate_in_float32(device_backend, reference, narrow, rounded, rng):
    g = Geometry.conv((2, 7, 6, 4), (3, 3, 4, 20))
    dy, x, old = rounded(*g.y_shape), rounded(*g.x_shape), rng.normal(size=g.w_shape).astype(np.float32)
    out = device_backend.asarray(old)
    on = device_backend.asarray
    device_backend.conv2d_weight_grad(on(dy), on(x), Conv(g), into=Into(out, add=True))
    dw, _ = reference.conv2d_weight_grad(dy.astype(np.float64), x.astype(np.float64), Conv(g))
    agree(device_backend.to_numpy(out), old + dw, 1e-6)


@pytest.mark.parametrize("channels", [3, 8])
@pytest.mark.parametrize("window", [3, (5, 4), (17, 16), (258, 256)])
def test_pools(compare, rounded, rng, narrow, channels, window):
    extents = (9, 8) if window in (3, (5, 4)) else (window[0] + 1, window[1] + 2)
    g = Geometry.pool((1, *extents, channels), window, stride=2, padding=1 if window == 3 else 0)
    x = rng.integers(0, 9, g.x_shape).astype(narrow)
    x[0, 1, 1, 0] = np.nan
    _, mask = compare("max_pool2d_forward", x, g)
    assert mask.dtype == g.mask_dtype
    mask = rng.integers(0, 9, g.y_shape).astype(g.mask_dtype)
    compare("max_pool2d_backward", rounded(*g.y_shape), mask, g)
    if g.mask_dtype == np.uint8:  # a 66,048th of a gradient has too few bits left in float16
        compare("avg_pool2d_forward", x, g, False)
        compare("avg_pool2d_backward", rounded(*g.y_shape), g, True)


@pytest.mark.parametrize("shape", [(2, 9, 7, 8), (33, 35), (3, 23, 17, 24), (300, 264)])
def test_batch_norm_keeps_its_channels_in_float32(device_backend, reference, narrow, rounded, rng, shape):
    x, residual, dy = rounded(*shape), rounded(*shape), rounded(*shape)
    gamma, beta, mean = rng.normal(size=(3, shape[-1])).astype(np.float32)
    norm = BatchNorm(training=True, eps=1e-3, activation=TANH, residual=True)
    results = []
    for backend, kind in ((reference, np.float64), (device_backend, None)):
        arrays = [x, gamma, beta, mean.copy(), mean**2 + 1, residual, dy]
        on = [backend.asarray(a if kind is None else a.astype(kind)) for a in arrays]
        y, saved = backend.batch_norm_forward(*on[:3], Moments(*on[3:5]), norm, on[5])
        gate = backend.asarray(np.tanh(dy) if kind is None else np.tanh(dy).astype(kind))
        grads = backend.batch_norm_backward(on[6], on[0], gate, *on[1:3], saved, norm)
        results.append([backend.to_numpy(a) for a in (y, *saved, on[3], on[4], *grads)])
    dtypes = [narrow, *["float32"] * 4, narrow, "float32", "float32", narrow]
    for expected, got, dtype in zip(*results, dtypes, strict=True):
        assert got.dtype == dtype
        agree(got, expected, tolerances.NARROW.get(got.dtype.name, 1e-5))


@pytest.mark.parametrize(("shape", "groups"), [((3, 5, 4, 16), 2), ((3, 5, 4, 9), 3), ((40, 33), 1), ((2, 270, 12), 4)])
def test_group_norm_keeps_float32_for_groups_and_channels(device_backend, reference, narrow, rounded, shape, groups):
    x, dy, norm = rounded(*shape), rounded(*shape), GroupNorm(groups, 1e-3)
    gamma, beta = (rounded(shape[-1]).astype(np.float32) for _ in range(2))
    results = []
    for backend, kind in ((reference, np.float64), (device_backend, None)):
        on = [backend.asarray(a if kind is None else a.astype(kind)) for a in (x, gamma, beta, dy)]
        y, saved = backend.group_norm_forward(*on[:3], norm)
        grads = backend.group_norm_backward(on[3], on[0], on[1], saved, norm)
        results.append([backend.to_numpy(a) for a in (y, *saved, *grads)])
    dtypes = [narrow, "float32", "float32", narrow, "float32", "float32"]
    for expected, got, dtype in zip(*results, dtypes, strict=True):
        assert got.dtype == dtype
        agree(got, expected, tolerances.NARROW.get(got.dtype.name, 1e-5))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_gives_its_loss_in_float32(compare, rounded, rng, smoothing):
    labels, weight = rng.integers(0, 33, 19).astype(np.int32), rng.uniform(0.5, 2, 33).astype(np.float32)
    logits = rounded(19, 33)
    options = CrossEntropy(weight, smoothing, ignore_index=int(labels[2]))
    loss, dlogits, _ = compare("softmax_cross_entropy", logits, labels, options)
    assert (loss.dtype, dlogits.dtype) == (np.float32, logits.dtype)


def test_elementwise(compare, narrow, rounded, rng):
    with np.errstate(over="ignore"):
        special = SPECIAL.astype(narrow)
    for activation in (RELU, Activation("leaky_relu", 0.2), *map(Activation, ACTIVATIONS[2:])):
        compare("activation_forward", special, activation)
        compare("activation_backward", rounded(3, 5), np.tanh(rounded(3, 5)), activation)
    for activation in map(InputActivation, INPUT_ACTIVATIONS):
        compare("input_activation_forward", special[:6], activation)
        compare("input_activation_backward", rounded(3, 5), 4 * rounded(3, 5), activation)
    for name in ("negative", "abs", "sign"):
        compare("unary", name, special)
    for name in ("add", "multiply", "divide"):
        compare("binary", name, rounded(4, 1, 5), rounded(3, 1))
    stream = Stream(7, 1, 2, 3, 4)
    for shape in ((7, 33), (9, 136)):  # the second one by eight, and more than a warp draws at once
        compare("dropout_forward", rounded(*shape), 0.3, stream=stream)
    compare("transpose", rounded(3, 5), (1, 0))
    compare("take", rounded(3, 5), np.int64([2, 0, 2]))


@pytest.mark.parametrize("source", ["float32", "float16", "bfloat16"])
def test_a_cast_rounds_to_the_nearest_as_numpy_does(device_backend, narrow, source, rng):
    a = np.concatenate([SPECIAL, rng.normal(size=2000) * 10.0 ** rng.integers(-9, 9, 2000)])
    with np.errstate(over="ignore"):
        a = a.astype(np.float32).astype(source)
        expected = a.astype(np.float32).astype(narrow)
    got = device_backend.to_numpy(device_backend.cast(device_backend.asarray(a), narrow))
    assert got.dtype == narrow
    np.testing.assert_array_equal(got.astype(np.float32), expected.astype(np.float32))
    back = device_backend.to_numpy(device_backend.cast(device_backend.asarray(got), np.float32))
    np.testing.assert_array_equal(back, expected.astype(np.float32))


def test_a_cast_to_its_own_dtype_is_the_array_itself(device_backend, narrow):
    a = device_backend.asarray(np.ones(3, narrow))
    assert device_backend.cast(a, narrow) is a
    with pytest.raises(TypeError, match="cast: dtype is float64 but CUDA computes in float32, float16, bfloat16"):
        device_backend.cast(a, np.float64)


@pytest.mark.parametrize(("shift", "vector"), [(0, 4), (1, 1), (2, 1), (4, 4)])
def test_a_product_loads_four_elements_from_eight_bytes_on(narrow, shift, vector):
    backend = recording_backend().twin(tile=(64, 64))
    flat = backend.arrays.asarray(np.ones(shift + 96, narrow))[shift:]
    backend.matmul(flat.reshape(8, 12), backend.arrays.asarray(np.ones((12, 20), narrow)))
    kind = {"float16": "half", "bfloat16": "bfloat16"}[narrow.name]
    assert backend.launcher.kernels[0].startswith(f"matmul_tiled<{kind}, 64, 64, 4, 4, {vector}, ")


@pytest.mark.parametrize(("shift", "channels", "vector"), [(0, 8, 8), (8, 8, 8), (4, 8, 1), (1, 8, 1), (0, 12, 1)])
def test_kernels_bound_by_memory_load_eight_elements_from_sixteen_bytes_on(narrow, shift, channels, vector):
    backend = recording_backend()
    x = backend.arrays.asarray(np.ones(shift + 128 * channels, narrow))[shift:].reshape(2, 8, 8, channels)
    gate = backend.arrays.asarray(np.ones(x.shape, narrow))
    pool, norm = Geometry.pool(x.shape, 2), BatchNorm(training=True, activation=RELU)
    y, mask = backend.max_pool2d_forward(x, pool)
    backend.avg_pool2d_forward(x, pool, True)
    running = Moments(*(backend.arrays.asarray(np.ones(channels, np.float32)) for _ in range(2)))
    _, saved = backend.batch_norm_forward(x, None, None, running, norm, gate)
    backend.batch_norm_backward(gate, x, gate, None, None, saved, norm)
    backend.dropout_forward(x, 0.5, stream=Stream(7, 1, 2, 3, 4))
    by_piece = [name for name in backend.launcher.kernels if not name.endswith("_merge")]
    assert len(by_piece) == 7
    assert [name for name in by_piece if not name.endswith(f", {vector}>")] == (
        ["dropout<half, 8>" if narrow == np.float16 else "dropout<bfloat16, 8>"] if channels == 12 else []
    )
    backend.max_pool2d_backward(y, mask, pool)  # y and the mask are aligned, whatever x is
    assert backend.launcher.kernels[-1].endswith(f"uint8, {8 if channels == 8 else 1}>")


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("count", [5, 8, 4099])
def test_elements_are_taken_by_eight_and_the_others_one_by_one(device_backend, narrow, rng, shift, count):
    def given(dtype):
        host = rng.normal(size=shift + count).astype(dtype)
        return host[shift:].astype(np.float32), device_backend.asarray(host)[shift:]

    (x, on_x), (y, on_y), (single, on_single) = given(narrow), given(narrow), given(np.float32)
    for got, expected in (
        (device_backend.activation_forward(on_x, RELU), np.maximum(x, 0)),
        (device_backend.activation_backward(on_x, on_y, RELU), np.where(y > 0, x, 0)),
        (device_backend.input_activation_forward(on_x, InputActivation("hard_swish")), x * np.clip(x + 3, 0, 6) / 6),
        (device_backend.input_activation_backward(on_y, on_x, InputActivation("hard_swish")), y * hard_slope(x)),
        (device_backend.binary("add", on_x, on_y), x + y),
        (device_backend.scale(on_x, None, 3.0), 3 * x),
        (device_backend.cast(on_x, np.float32), x),
        (device_backend.cast(on_single, narrow), single),
    ):
        dtype = narrow if got.dtype == narrow else np.float32
        np.testing.assert_array_equal(device_backend.to_numpy(got), expected.astype(dtype))


def hard_slope(x):
    return np.where(x <= -3, 0, np.where(x >= 3, 1, (x + 1.5) / 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 7, 8), (7, 8)),
        ((5, 16), (5, 1)),
        ((5, 1), (5, 16)),
        ((4, 6, 8), (4, 1, 8)),
        ((9, 12), (12,)),
        ((24,), (1,)),
    ],
)
@pytest.mark.parametrize("name", ["subtract", "divide", "maximum"])
def test_arrays_that_are_repeated_are_taken_by_eight_where_rows_allow_it(compare, rounded, a, b, name):
    first = rounded(*a)
    first.flat[3] = np.nan
    compare("binary", name, first, rounded(*b))


@pytest.mark.parametrize("shift", [1, 4])
def test_any_alignment_is_taken(device_backend, reference, narrow, rounded, shift):
    g = Geometry.conv((2, 6, 6, 4), (3, 3, 4, 20))
    flat, w = rounded(shift + 288), rounded(3, 3, 4, 20)
    x = device_backend.asarray(flat)[shift:].reshape(g.x_shape)
    got, _ = device_backend.conv2d_forward(x, device_backend.asarray(w), None, Conv(g))
    expected, _ = reference.conv2d_forward(
        flat[shift:].reshape(g.x_shape).astype(np.float64), w.astype(np.float64), None, Conv(g)
    )
    agree(device_backend.to_numpy(got), expected, tolerances.NARROW[narrow.name])


def test_what_does_not_fit_is_refused(device_backend, narrow):
    on = device_backend.asarray
    x, w = on(np.ones((1, 4, 4, 3), narrow)), on(np.ones((3, 3, 3, 5), np.float32))
    g = Geometry.conv(x.shape, w.shape)
    with pytest.raises(TypeError, match=f"conv2d_forward: w is float32 but x is {narrow.name}: CUDA takes one dtype"):
        device_backend.conv2d_forward(x, w, None, Conv(g))
    with pytest.raises(TypeError, match=f"conv2d_weight_grad: weight is {narrow.name} but CUDA computes in float32"):
        device_backend.conv2d_weight_grad(
            on(np.ones(g.y_shape, narrow)), x, Conv(g), into=Into(on(np.ones(g.w_shape, narrow)))
        )
    with pytest.raises(TypeError, match=f"sum: a is {narrow.name} but CUDA computes in float32$"):
        device_backend.sum(x, (0,))
    c = on(np.ones(3, narrow))
    with pytest.raises(TypeError, match="batch_norm_forward: weight is"):
        device_backend.batch_norm_forward(x, c, c, Moments(c, c), BatchNorm(training=True), None)
