"""3x3 convolutions by Winograd's tiles, against the formula in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.backends.contract import FUSED_POOL, Activation, Conv, Into
from gpunet.backends.numpy.backend import NumpyBackend
from gpunet.backends.numpy.compiled import conv as compiled_conv
from gpunet.backends.numpy.compiled import library as compiled
from gpunet.backends.numpy.compiled import winograd
from gpunet.backends.numpy.compiled.loops import CompiledLoops
from gpunet.backends.numpy.compiled.parities import parities
from gpunet.backends.numpy.conv import winograd as numpy_winograd
from gpunet.backends.numpy.conv.registry import choose
from gpunet.backends.reference.backend import ReferenceBackend
from gpunet.geometry import Geometry

REFERENCE = ReferenceBackend()
needs_loops = pytest.mark.skipif(bool(compiled.why_unavailable()), reason=compiled.why_unavailable())
both_ways = pytest.mark.parametrize(
    "loops", [pytest.param(True, marks=needs_loops), False], ids=["compiled", "NumPy alone"]
)


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Tiles, whatever they cost."""
    for name in ("FEWEST_WEIGHTS", "FEWEST_PIXELS", "SAVED"):
        monkeypatch.setattr(winograd, name, 0)
    for name, value in (("FEWEST_CHANNELS", 0), ("FEWEST_TILES", 1), ("FULL", 0)):
        monkeypatch.setattr(numpy_winograd, name, value)
    compiled_conv._is_by_tiles.cache_clear()
    parities.cache_clear()
    yield
    compiled_conv._is_by_tiles.cache_clear()
    parities.cache_clear()


@pytest.fixture
def called(monkeypatch):
    """The names of the loops that have been called."""
    names, spread = [], CompiledLoops._spread
    monkeypatch.setattr(
        CompiledLoops,
        "_spread",
        lambda self, loops, name, *given: (names.append(name), spread(self, loops, name, *given)),
    )
    return names


def close(got, expected):
    assert np.linalg.norm(got - expected) <= 2e-6 * np.linalg.norm(expected)


@both_ways
@given(
    n=st.integers(1, 3), h=st.integers(1, 13), w=st.integers(1, 13), c=st.sampled_from([16, 48]),
    o=st.sampled_from([16, 32, 80]), padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), pooled=st.booleans(),
    threads=st.sampled_from([1, 3]), seed=st.integers(0, 2**32 - 1), activation=st.sampled_from([None, "relu", "tanh"]),
)  # fmt: skip
@settings(max_examples=100)
def test_results_and_gradients_are_those_of_the_formula(
    loops, n, h, w, c, o, padding, pooled, threads, seed, activation
):
    h, w = max(h, 3 - 2 * padding[0]), max(w, 3 - 2 * padding[1])
    g = Geometry.conv((n, h, w, c), (3, 3, c, o), padding=padding)
    pool = Geometry.pool(g.y_shape, FUSED_POOL) if pooled and min(g.y_shape[1:3]) > 1 else None
    conv = Conv(g, None if activation is None else Activation(activation), pool)
    assert compiled_conv._is_by_tiles(g) if loops else choose(g) is numpy_winograd.Winograd
    rng, backend = np.random.default_rng(seed), NumpyBackend(threads=threads, compiled=loops)
    exact = [rng.normal(size=s) for s in (g.x_shape, g.w_shape, (o,))]
    x, filters, b = (a.astype(np.float32) for a in exact)
    y, _ = backend.conv2d_forward(x, filters, b, conv)
    expected, expected_mask = REFERENCE.conv2d_forward(*(a.astype(np.float64) for a in (x, filters, b)), conv)
    close(y, expected)
    dy = rng.normal(size=y.shape).astype(np.float32)
    gate = conv.gate(expected.astype(np.float32), expected_mask)
    exact_gate = conv.gate(expected, expected_mask)
    got = backend.conv2d_weight_grad(dy, x, conv, gate)
    for one, other in zip(
        got, REFERENCE.conv2d_weight_grad(dy.astype(float), x.astype(float), conv, exact_gate), strict=True
    ):
        close(one, other)
    without_bias = backend.conv2d_weight_grad(dy, x, conv, gate, Into(needs_bias=False))
    np.testing.assert_array_equal(without_bias[0], got[0])
    dx = backend.conv2d_input_grad(dy, filters, conv, gate)
    close(dx, REFERENCE.conv2d_input_grad(dy.astype(float), filters.astype(float), conv, exact_gate))


@both_ways
def test_a_residual_is_added_before_the_activation(rng, loops):
    g = Geometry.conv((2, 9, 7, 16), (3, 3, 16, 32), padding=1)
    conv = Conv(g, Activation("relu"))
    x, w, residual = (rng.normal(size=s).astype(np.float32) for s in (g.x_shape, g.w_shape, g.y_shape))
    y, _ = NumpyBackend(compiled=loops).conv2d_forward(x, w, None, conv, residual)
    close(y, REFERENCE.conv2d_forward(*(a.astype(float) for a in (x, w)), None, conv, residual.astype(float))[0])


@both_ways
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_number_stays_within_the_windows_that_have_it(rng, loops, value):
    g = Geometry.conv((1, 10, 11, 16), (3, 3, 16, 16), padding=1)
    x, w = (rng.normal(size=s).astype(np.float32) for s in (g.x_shape, g.w_shape))
    for row, column in ((4, 5), (3, 4), (0, 0), (9, 10)):
        broken = x.copy()
        broken[0, row, column, 3] = value
        y, _ = NumpyBackend(compiled=loops).conv2d_forward(broken, w, None, Conv(g))
        inside = np.zeros(y.shape[1:3], bool)
        inside[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = True
        np.testing.assert_array_equal(np.isfinite(y[0]).all(axis=2), ~inside)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numpy_alone_gives_what_is_not_a_number_to_the_taps_that_meet_it(rng, value):
    g = Geometry.conv((1, 10, 11, 16), (3, 3, 16, 16), padding=1)
    x, dy = (rng.normal(size=s).astype(np.float32) for s in (g.x_shape, g.y_shape))
    x[0, 0, 0, 3] = value
    dw, _ = NumpyBackend(compiled=False).conv2d_weight_grad(dy, x, Conv(g))
    expected, _ = REFERENCE.conv2d_weight_grad(dy.astype(float), x.astype(float), Conv(g))
    np.testing.assert_allclose(dw, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("long", [False, True])
def test_numpy_alone_takes_images_in_pieces(rng, monkeypatch, long):
    g = Geometry.conv((5, 9, 8, 16), (3, 3, 16, 32), padding=1)
    monkeypatch.setattr(numpy_winograd, "TILE_ELEMENTS", 2 * 16 * 5 * 4 * 32)  # two images, and one at last
    if long:
        monkeypatch.setattr(numpy_winograd, "LONG", 1)
    x, w, dy = (rng.normal(size=s).astype(np.float32) for s in (g.x_shape, g.w_shape, g.y_shape))
    backend, exact = NumpyBackend(threads=1, compiled=False), [a.astype(float) for a in (x, w, dy)]
    close(backend.conv2d_forward(x, w, None, Conv(g))[0], REFERENCE.conv2d_forward(*exact[:2], None, Conv(g))[0])
    for got, expected in zip(
        backend.conv2d_weight_grad(dy, x, Conv(g)),
        REFERENCE.conv2d_weight_grad(exact[2], exact[0], Conv(g)),
        strict=True,
    ):
        close(got, expected)


@both_ways
def test_a_transposed_convolution_adds_its_bias(rng, loops):
    g = Geometry.conv((2, 11, 9, 32), (3, 3, 32, 16), padding=1)
    x, w, b = (rng.normal(size=s).astype(np.float32) for s in (g.y_shape, g.w_shape, (32,)))
    y = NumpyBackend(compiled=loops).conv_transpose2d(x, w, b, Conv(g))
    close(y, REFERENCE.conv_transpose2d(*(a.astype(float) for a in (x, w, b)), Conv(g)))


@both_ways
def test_sums_over_many_pixels_keep_their_digits(rng, loops):
    g = Geometry.conv((64, 32, 32, 16), (3, 3, 16, 16), padding=1)
    x, dy = (np.abs(rng.normal(size=s)).astype(np.float32) for s in (g.x_shape, g.y_shape))
    dw, db = NumpyBackend(compiled=loops).conv2d_weight_grad(dy, x, Conv(g))
    middle = np.tensordot(x.astype(float), dy.astype(float), ((0, 1, 2), (0, 1, 2)))
    np.testing.assert_allclose(dw[1, 1], middle, rtol=2e-6)
    np.testing.assert_allclose(db, dy.sum(axis=(0, 1, 2), dtype=float), rtol=2e-6)


@needs_loops
def test_large_filters_and_many_pixels_are_one_part(rng, called):
    g = Geometry.conv((10, 42, 42, 256), (3, 3, 256, 256), padding=1)
    x, dy = (rng.normal(size=s).astype(np.float32) for s in (g.x_shape, g.y_shape))
    dw, _ = NumpyBackend(compiled=True).conv2d_weight_grad(dy, x, Conv(g))
    assert called == ["winograd_weight_grad"]
    close(dw, NumpyBackend(compiled=False).conv2d_weight_grad(dy.astype(float), x.astype(float), Conv(g))[0])


@needs_loops
def test_float64_is_computed_by_the_formula(rng, called):
    g = Geometry.conv((2, 12, 12, 32), (3, 3, 32, 32), padding=1)
    x, w = rng.normal(size=g.x_shape), rng.normal(size=g.w_shape)
    y, _ = NumpyBackend(compiled=True).conv2d_forward(x, w, None, Conv(g))
    assert called == ["conv_forward"]
    np.testing.assert_allclose(y, REFERENCE.conv2d_forward(x, w, None, Conv(g))[0], rtol=1e-11, atol=1e-11)


def test_tiles_are_chosen_where_they_save_work(monkeypatch):
    monkeypatch.undo()
    same = {"window": (3, 3), "steps": {1}, "channels": 64, "filters": 64, "results": (32, 14, 14)}
    assert winograd.is_worth(**same)
    for change in (
        {"window": (5, 5)}, {"steps": {1, 2}}, {"channels": 40}, {"filters": 65}, {"channels": 16, "filters": 16},
        {"results": (1, 8, 8)}, {"results": (32, 3, 3)},
    ):  # fmt: skip
        assert not winograd.is_worth(**{**same, **change}), change


def test_numpy_alone_chooses_tiles_where_they_save_time(monkeypatch):
    monkeypatch.undo()
    same = {"x": (32, 14, 14, 128), "w": (3, 3, 128, 128), "options": {"padding": 1}}
    assert chosen_alone(**same)
    for change in (
        {"w": (5, 5, 128, 128)}, {"options": {"stride": 2}}, {"options": {"dilation": 2}}, {"w": (3, 3, 128, 64)},
        {"w": (3, 3, 64, 128), "options": {"groups": 2}}, {"x": (1, 14, 14, 128)}, {"x": (999, 3, 3, 128)},
    ):  # fmt: skip
        assert not chosen_alone(**{**same, **change}), change


def chosen_alone(x, w, options):
    return choose(Geometry.conv(x, w, **options)) is numpy_winograd.Winograd
