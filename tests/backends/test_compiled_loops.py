"""The compiled loops of the NumPy backend: where they are used, and that they give what NumPy alone gives."""

import os
import platform
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.backends.contract import (
    FUSED_POOL,
    RULES,
    Activation,
    BatchNorm,
    Conv,
    CrossEntropy,
    Gate,
    GroupNorm,
    Guard,
    InputActivation,
    Into,
    LinearGrad,
    Moments,
    Product,
    Segments,
)
from gpunet.backends.numpy.backend import NumpyBackend
from gpunet.backends.numpy.compiled import library as compiled
from gpunet.geometry import Geometry
from gpunet.random import Stream
from gpunet.resampling import linear, nearest, smooth

PLAIN = NumpyBackend(threads=1, compiled=False)
needs_loops = pytest.mark.skipif(bool(compiled.why_unavailable()), reason=compiled.why_unavailable())


@pytest.fixture
def fresh():
    """No library is loaded, before and after."""
    functions = compiled._library, compiled.loaded, compiled.why_unavailable
    for function in functions:
        function.cache_clear()
    yield
    for function in functions:
        function.cache_clear()


def convolution(rng, dtype=np.float32, *, pooled=True, residual=False):
    g = Geometry.conv((5, 9, 8, 3), (3, 2, 3, 7), padding=1, stride=(1, 2))
    x, w, b = (rng.normal(size=s).astype(dtype) for s in (g.x_shape, g.w_shape, (7,)))
    added = rng.normal(size=g.y_shape).astype(dtype) if residual else None
    return x, w, b, Conv(g, Activation("relu"), Geometry.pool(g.y_shape, FUSED_POOL) if pooled else None), added


@needs_loops
def test_a_backend_says_whether_it_has_loops(monkeypatch):
    monkeypatch.delenv("GPUNET_FAST_CPU", raising=False)
    assert NumpyBackend().describe()["loops"] == "compiled"
    monkeypatch.setenv("GPUNET_FAST_CPU", "0")
    assert NumpyBackend().describe()["loops"] == "NumPy's alone (GPUNET_FAST_CPU is 0)"
    assert NumpyBackend(compiled=True).describe()["loops"] == "compiled"
    monkeypatch.delenv("GPUNET_FAST_CPU")
    assert NumpyBackend(compiled=False).describe()["loops"] == "NumPy's alone (compiled=False)"


def test_without_a_compiler_numpy_computes_alone(monkeypatch, fresh, rng):
    monkeypatch.setenv("CXX", "no-such-compiler")
    backend, arguments = NumpyBackend(compiled=True), convolution(rng)
    assert "no-such-compiler is not found: install it" in backend.describe()["loops"]
    for mine, expected in zip(backend.conv2d_forward(*arguments), PLAIN.conv2d_forward(*arguments), strict=True):
        np.testing.assert_array_equal(mine, expected)


@pytest.mark.skipif(sys.platform == "win32", reason="no loops are compiled on Windows")
def test_a_compiler_that_fails_is_named_once_and_numpy_computes_alone(monkeypatch, fresh, tmp_path, rng):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho out of order >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("GPUNET_CACHE", str(tmp_path))
    backend, arguments = NumpyBackend(compiled=True), convolution(rng)
    with pytest.warns(RuntimeWarning, match=r"NumPy computes alone, more slowly(.|\n)*out of order"):
        y, mask = backend.conv2d_forward(*arguments)
    expected = PLAIN.conv2d_forward(*arguments)
    np.testing.assert_array_equal(y, expected[0])
    np.testing.assert_array_equal(mask, expected[1])
    backend.conv2d_forward(*arguments)  # warns no more
    with pytest.warns(RuntimeWarning, match="out of order"):  # for another source
        described = backend.describe()["loops"]
    assert described.startswith("NumPy's alone (")
    assert "does not compile loops for the CPU" in described


@needs_loops
def test_loops_are_compiled_once_for_all_processes(tmp_path):
    program = (
        "import numpy as np, sys\n"
        "from gpunet import cplusplus\n"
        "from gpunet.backends.numpy.backend import NumpyBackend\n"
        "from gpunet.backends.contract import Activation\n"
        "compile_library = cplusplus.compile_library\n"
        "def told(*args, **options):\n"
        "    print(options['what'])\n"
        "    return compile_library(*args, **options)\n"
        "cplusplus.compile_library = told\n"
        "x = np.linspace(-1, 1, 9, dtype=np.float32)\n"
        "print(NumpyBackend(compiled=True).activation_forward(x, Activation('relu'))[-1])\n"
    )
    environment = {"PATH": os.environ["PATH"], "GPUNET_CACHE": str(tmp_path), "HOME": str(tmp_path)}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        ).stdout.split("\n")[:-1]
        for _ in range(2)
    ]
    assert outputs == [["loops for the CPU (activation.cpp)", "1.0"], ["1.0"]]


@needs_loops
def test_arrays_that_lie_otherwise_are_computed_too(rng):
    x, w, b, conv, _ = convolution(rng, pooled=False)
    turned = np.asfortranarray(x)
    expected = PLAIN.conv2d_forward(x, w, b, conv)[0]
    np.testing.assert_allclose(NumpyBackend(compiled=True).conv2d_forward(turned, w, b, conv)[0], expected, rtol=1e-5)


def numbers(backend, rng, dtype):
    """What many primitives compute from random arrays."""
    results = []
    convolutions = [convolution(rng, dtype, pooled=pooled, residual=not pooled) for pooled in (True, False)]
    tiled = Conv(Geometry.conv((3, 13, 15, 32), (3, 3, 32, 48), padding=1), Activation("relu"))  # in float32
    arrays = (rng.normal(size=s).astype(dtype) for s in (tiled.geometry.x_shape, tiled.geometry.w_shape, (48,)))
    convolutions.append((*arrays, tiled, None))
    for x, w, b, conv, added in convolutions:
        y, mask = backend.conv2d_forward(x, w, b, conv, added)
        dy, gate = rng.normal(size=y.shape).astype(dtype), conv.gate(y, mask)
        results += [y, *backend.conv2d_weight_grad(dy, x, conv, gate), backend.conv2d_input_grad(dy, w, conv, gate)]
    x, dy = (rng.normal(size=(6, 40, 30, 10)).astype(dtype) for _ in range(2))
    w, b = (rng.normal(size=10).astype(dtype) for _ in range(2))
    for norm in (BatchNorm(True, activation=Activation("relu")), BatchNorm(False)):
        running = Moments(np.zeros(10, dtype), np.ones(10, dtype))
        y, saved = backend.batch_norm_forward(x, w, b, running, norm, None)
        results += [y, *saved, *running, *backend.batch_norm_backward(dy, x, y, w, b, saved, norm)[:3]]
    y, saved = backend.group_norm_forward(x, w, b, GroupNorm(5))
    results += [y, *saved, *backend.group_norm_backward(dy, x, w, saved, GroupNorm(5))]
    for pool in (Geometry.pool(x.shape, 2), Geometry.pool(x.shape, 3, stride=2, padding=1)):
        y, mask = backend.max_pool2d_forward(x, pool)
        results += [y, mask, backend.max_pool2d_backward(dy[:, : y.shape[1], : y.shape[2]].copy(), mask, pool)]
        y = backend.avg_pool2d_forward(x, pool, False)
        results += [y, backend.avg_pool2d_backward(y, pool, True)]
    for rows, columns in ((linear(40, 71), smooth(30, 11)), (nearest(40, 80), linear(30, 30))):
        results.append(backend.resample2d(x, rows, columns))
    logits, labels = rng.normal(size=(50, 10)).astype(dtype), rng.integers(0, 10, 50, np.int32)
    for options in (CrossEntropy(), CrossEntropy(w**2, 0.2, 3), CrossEntropy(reduction="none", normalized=True)):
        results += backend.softmax_cross_entropy(logits, labels, options)
    results += [backend.dropout_forward(x, 0.3, stream=Stream(2**64 - 1, 1, 5, 6, 7))]
    a, filters, dense_dy = (rng.normal(size=s).astype(dtype) for s in ((33, 30), (30, 17), (33, 17)))
    tanh = Activation("tanh")
    y = backend.matmul(a, filters, Product(bias=filters[0].copy(), activation=tanh))
    gate = Gate(y, tanh)
    results += [y, backend.matmul(dense_dy, filters, Product(transpose_b=True, gate=gate))]
    results += [*backend.linear_weight_grads([LinearGrad(dense_dy, a, gate)])[0], *updated(backend, rng, dtype)]
    gelu = InputActivation("gelu")
    return [*results, backend.input_activation_forward(x, gelu), backend.input_activation_backward(dy, x, gelu)]


def updated(backend, rng, dtype):
    """What two steps of each rule make of parameters in two segments, and a norm and an average of them."""
    results = []
    for name, rule in RULES.items():
        data, grad = (rng.normal(size=100).astype(dtype) for _ in range(2))
        data[::7], data[1::9], grad[::5] = 0.0, -0.0, 0.0
        slots = {slot: np.full(100, 0.5, dtype) for slot in rule.slots}
        arena = SimpleNamespace(data=data, grad=grad, slots=slots)
        own = [0.9, 0.99, 0.01, 0.1, 0.01, 1][: len(rule.own)]
        hyper = np.array([[0.1, 0.01, 0.001, 0, *own], [0.2, 0, 0, 0.05, *own[:-1], 0]])
        segments = Segments(np.array([[0, 37], [41, 100]]), hyper)
        clip = backend.gradient_norm(arena, segments, 2.0)
        for _ in range(2):
            backend.update(name, arena, segments, Guard(clip=clip))
        average = np.ones(100, dtype)
        backend.average_update(average, data, 0.9)
        results += [clip, data, *slots.values(), average]
    return results


@needs_loops
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_they_give_what_numpy_alone_gives(dtype):
    mine, plain = (
        numbers(NumpyBackend(threads=2, compiled=fast), np.random.default_rng(3), dtype) for fast in (True, False)
    )
    tolerance = {"rtol": 2e-5, "atol": 2e-5} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-11}
    for one, other in zip(mine, plain, strict=True):
        np.testing.assert_allclose(one, other, **tolerance)


@needs_loops
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_updates_have_the_bits_of_numpys(dtype, monkeypatch):
    norm = np.array([3.0, 0.7], dtype)  # whose sum NumPy takes in another order
    monkeypatch.setattr(NumpyBackend, "gradient_norm", lambda *arguments: norm)
    fast, plain = (updated(on, np.random.default_rng(7), dtype) for on in (NumpyBackend(compiled=True), PLAIN))
    for one, other in zip(fast, plain, strict=True):
        assert one.tobytes() == other.tobytes()


@needs_loops
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the flags are those of x86")
@pytest.mark.parametrize("flag", ["-mno-avx512f", "-mno-avx"])
def test_shorter_vectors_give_the_same(monkeypatch, fresh, flag):
    monkeypatch.setattr(compiled, "FLAGS", (*compiled.FLAGS, flag))
    narrow, plain = (
        numbers(NumpyBackend(threads=1, compiled=fast), np.random.default_rng(5), np.float32) for fast in (True, False)
    )
    for one, other in zip(narrow, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


@pytest.mark.skipif(shutil.which("clang++") is None, reason="there is no clang++")
def test_clang_compiles_them_without_a_warning_and_they_give_the_same(monkeypatch, fresh):
    monkeypatch.setenv("CXX", "clang++")
    monkeypatch.setattr(compiled, "FLAGS", (*compiled.FLAGS, "-Wall", "-Wextra", "-Werror"))
    fast, plain = (
        numbers(NumpyBackend(threads=1, compiled=by_loops), np.random.default_rng(6), np.float32)
        for by_loops in (True, False)
    )
    for one, other in zip(fast, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_loops), False])
def test_the_bits_are_those_of_one_thread_on_any_number_of_threads(monkeypatch, compiled):
    for least in ("threads.SMALL", "threads.BLOCK", "compiled.loops.LEAST"):
        monkeypatch.setattr(f"gpunet.backends.numpy.{least}", 1)
    expected = numbers(NumpyBackend(threads=1, compiled=compiled), np.random.default_rng(4), np.float32)
    for threads in (2, 3, 7):
        got = numbers(NumpyBackend(threads=threads, compiled=compiled), np.random.default_rng(4), np.float32)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@needs_loops
@given(
    n=st.integers(1, 3), h=st.integers(3, 12), w=st.integers(3, 12), c=st.sampled_from([1, 2, 3, 8, 16, 17]),
    o=st.sampled_from([1, 5, 6, 8, 9, 16, 17, 33, 40, 64, 70]), window=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2), padding=st.integers(0, 2), pooled=st.booleans(), seed=st.integers(0, 2**32 - 1),
    activation=st.sampled_from([None, "relu", "tanh", "leaky_relu", "elu", "hard_tanh", "sigmoid"]),
    dtype=st.sampled_from([np.float32, np.float64]),
)  # fmt: skip
@settings(max_examples=150)
def test_convolutions_of_all_widths(n, h, w, c, o, window, stride, padding, pooled, seed, activation, dtype):
    g = Geometry.conv((n, h, w, c), (*window, c, o), stride=stride, padding=padding)
    pool = Geometry.pool(g.y_shape, FUSED_POOL) if pooled and min(g.y_shape[1:3]) > 1 else None
    conv, rng = Conv(g, None if activation is None else Activation(activation), pool), np.random.default_rng(seed)
    x, filters, b = (rng.normal(size=s).astype(dtype) for s in (g.x_shape, g.w_shape, (o,)))
    expected, expected_mask = PLAIN.conv2d_forward(x, filters, b, conv)
    fast, tolerance = NumpyBackend(threads=1, compiled=True), 1e-4 if dtype == np.float32 else 1e-11
    y, mask = fast.conv2d_forward(x, filters, b, conv)
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)
    if pool is not None:
        assert (mask == expected_mask).mean() > 0.99  # all but ties that are rounded otherwise
    dy, gate = rng.normal(size=y.shape).astype(dtype), conv.gate(expected, expected_mask)
    for bias in (True, False):
        into = Into(needs_bias=bias)
        got, want = (on.conv2d_weight_grad(dy, x, conv, gate, into) for on in (fast, PLAIN))
        np.testing.assert_allclose(got[0], want[0], rtol=tolerance, atol=10 * tolerance)
        assert (got[1] is None) == (not bias)
        if bias:
            np.testing.assert_allclose(got[1], want[1], rtol=tolerance, atol=10 * tolerance)
    got, want = (on.conv2d_input_grad(dy, filters, conv, gate) for on in (fast, PLAIN))
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=10 * tolerance)


@needs_loops
@given(
    n=st.integers(1, 3), h=st.integers(3, 11), w=st.integers(3, 11), c=st.sampled_from([2, 3, 8, 16, 17, 40]),
    window=st.tuples(st.integers(1, 3), st.integers(1, 3)), stride=st.integers(1, 2), dilation=st.integers(1, 2),
    padding=st.integers(0, 2), activation=st.sampled_from([None, "relu", "tanh"]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=60)
def test_depthwise_convolutions_of_all_widths(n, h, w, c, window, stride, dilation, padding, activation, seed):
    padding = max(padding, dilation * (max(window) - 1) - min(h, w) + 1)
    g = Geometry.conv((n, h, w, c), (*window, 1, c), stride=stride, padding=padding, dilation=dilation, groups=c)
    conv, rng = Conv(g, None if activation is None else Activation(activation)), np.random.default_rng(seed)
    x, filters, b, dy = (rng.normal(size=s).astype(np.float32) for s in (g.x_shape, g.w_shape, (c,), g.y_shape))
    fast = NumpyBackend(threads=1, compiled=True)
    y, _ = fast.conv2d_forward(x, filters, b, conv)
    np.testing.assert_allclose(y, PLAIN.conv2d_forward(x, filters, b, conv)[0], rtol=1e-4, atol=1e-4)
    gate = conv.gate(y, None)
    for one, other in zip(*(on.conv2d_weight_grad(dy, x, conv, gate) for on in (fast, PLAIN)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)
    got, want = (on.conv2d_input_grad(dy, filters, conv, gate) for on in (fast, PLAIN))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@needs_loops
@pytest.mark.parametrize("name", ["silu", "gelu", "softplus"])
def test_no_number_depends_on_where_an_array_is_cut(rng, name):
    x, dy = rng.normal(size=(2, 4099))
    fast, of = NumpyBackend(threads=1, compiled=True), InputActivation(name)
    whole = fast.input_activation_backward(dy, x, of)
    for cut in range(1, 30):
        parts = (
            fast.input_activation_backward(dy[part].copy(), x[part].copy(), of)
            for part in (slice(cut), slice(cut, None))
        )
        np.testing.assert_array_equal(np.concatenate(list(parts)), whole)


@needs_loops
@pytest.mark.parametrize(
    ("x_shape", "w_shape"),
    [((1, 3, 3, 4096), (3, 3, 4096, 1)), ((1, 1, 4000, 1), (1, 3, 1, 9)), ((1, 1, 70000, 1), (1, 3, 1, 9))],
)
def test_long_sums_keep_their_digits(x_shape, w_shape):
    g, fast = Geometry.conv(x_shape, w_shape), NumpyBackend(threads=1, compiled=True)
    x, w, dy = (np.full(shape, 0.1, np.float32) for shape in (x_shape, w_shape, g.y_shape))
    exact, each = np.float64(np.float32(0.1)) ** 2, w_shape[0] * w_shape[1] * w_shape[2]
    np.testing.assert_allclose(fast.conv2d_forward(x, w, None, Conv(g))[0], exact * each, rtol=5e-6)
    dw, db = fast.conv2d_weight_grad(dy, x, Conv(g))
    np.testing.assert_allclose(dw, exact * g.pixels, rtol=1e-6)
    np.testing.assert_allclose(db, np.float64(np.float32(0.1)) * g.pixels, rtol=1e-6)


@needs_loops
@pytest.mark.parametrize(("x_shape", "w_shape"), [((3, 5, 4, 260), (3, 3, 260, 240)), ((40, 1, 1, 9), (1, 1, 9, 70))])
@pytest.mark.parametrize("kept", ["new", "written", "added", "another dtype", "turned"])
def test_gradients_of_many_weights_and_of_few_pixels(rng, x_shape, w_shape, kept):
    g = Geometry.conv(x_shape, w_shape, padding=w_shape[0] // 2)
    x, dy = (rng.normal(size=shape).astype(np.float32) for shape in (g.x_shape, g.y_shape))
    out = None if kept == "new" else np.ones(w_shape, np.float64 if kept == "another dtype" else np.float32)
    if kept == "turned":
        out = np.asfortranarray(out)
    into = Into(weight=out, add=kept == "added")
    dw, db = NumpyBackend(threads=2, compiled=True).conv2d_weight_grad(dy, x, Conv(g), None, into)
    expected, expected_db = PLAIN.conv2d_weight_grad(dy.astype(np.float64), x.astype(np.float64), Conv(g))
    np.testing.assert_allclose(dw, expected + (kept == "added"), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(db, expected_db, rtol=1e-4, atol=1e-4)
    assert kept == "new" or dw is out


@needs_loops
def test_a_batch_without_images_has_gradients_without_images():
    fast = NumpyBackend(threads=2, compiled=True)
    for stride, groups in ((1, 1), (2, 1), (1, 16), (2, 16)):
        g = Geometry.conv((0, 8, 8, 16), (2, 2, 16 // groups, 16), stride=stride, groups=groups)
        x, w, dy = (np.ones(shape, np.float32) for shape in (g.x_shape, g.w_shape, g.y_shape))
        assert fast.conv2d_forward(x, w, None, Conv(g))[0].shape == g.y_shape
        assert fast.conv2d_input_grad(dy, w, Conv(g)).shape == g.x_shape
        assert not fast.conv2d_weight_grad(dy, x, Conv(g))[0].any()


@needs_loops
@pytest.mark.parametrize("label", [-1, 3, 2**31 - 1])
def test_a_label_that_is_no_class_makes_the_loss_nan(label):
    labels, logits = np.array([label, 0], np.int32), np.zeros((2, 3), np.float32)
    fast = NumpyBackend(compiled=True)
    assert np.isnan(fast.softmax_cross_entropy(logits, labels)[0])
    assert np.isfinite(fast.softmax_cross_entropy(logits, labels, CrossEntropy(ignore_index=label))[0])


@needs_loops
def test_infinities_of_both_signs_warn_of_nothing(rng):
    x, _, _, conv, _ = convolution(rng, pooled=False)
    dy = rng.normal(size=conv.y_shape).astype(np.float32)
    dy[0, 0, 0], dy[-1, 0, 0] = np.inf, -np.inf
    assert np.isnan(NumpyBackend(compiled=True).conv2d_weight_grad(dy, x, conv)[1]).all()


@needs_loops
def test_an_unknown_loop_is_named():
    with pytest.raises(AttributeError, match="there is no compiled loop batch_backward of float32"):
        compiled.library("norm", "float32").packed("batch_backward", ())
