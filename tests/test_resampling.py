"""Tables of taps: what they say, their transposes, and the passes by which NumPy computes them."""

from itertools import product

import numpy as np
import pytest
import tolerances
from helpers import same

from gpunet import resampling
from gpunet.backends.numpy.resample import Bands, NarrowBands, Sums, TapByTap, choose_pass, resample
from gpunet.backends.reference.backend import ReferenceBackend

EXTENTS = [(n, m) for n in (1, 2, 5, 6, 8) for m in (1, 2, 3, 7, 8, 10, 16, 17)]
MAKERS = {
    "nearest": resampling.nearest,
    "linear": resampling.linear,
    "linear by corners": lambda n, m: resampling.linear(n, m, align_corners=True),
    "averaged": resampling.averaged,
    "side by side": lambda n, m: resampling.side_by_side(n, m)[0],
    "zeros": lambda n, m: resampling.padded(n, m, 3, "zero"),
    "edge": lambda n, m: resampling.padded(n, 2, m, "edge"),
    "reflect": lambda n, m: resampling.padded(n, n - 1, min(m, n - 1), "reflect"),
}


def dense(taps):
    """The table as a matrix, (outputs, extent)."""
    matrix = np.zeros((taps.outputs, taps.extent))
    for p in range(taps.outputs):
        for t in range(taps.starts[p], taps.starts[p + 1]):
            matrix[p, taps.index[t]] += taps.weight[t]
    return matrix


def dense_by_pass(one_pass, taps, inner):
    """The same, by what becomes of images of one pixel that is not zero, with another number in each channel."""
    numbers = np.arange(1.0, inner + 1)
    x = np.eye(taps.extent)[:, None, :, None] * numbers
    y = np.full((taps.extent, 1, taps.outputs, inner), np.nan)
    one_pass(x, y)
    np.testing.assert_allclose(y, y[..., :1] * numbers, rtol=1e-14)
    return y[:, 0, :, 0].T


@pytest.mark.parametrize("extents", EXTENTS, ids=str)
@pytest.mark.parametrize("make", MAKERS)
def test_transposes_and_passes_agree_with_the_tables(make, extents):
    taps = MAKERS[make](*extents)
    matrix = dense(taps)
    np.testing.assert_array_equal(dense(taps.transposed), matrix.T)
    for one, expected in ((taps, matrix), (taps.transposed, matrix.T)):
        for inner in (1, 3, 16):
            one_pass = choose_pass(one, np.dtype(np.float64), inner)
            np.testing.assert_allclose(dense_by_pass(one_pass, one, inner), expected, rtol=1e-14)
        np.testing.assert_allclose(dense_by_pass(TapByTap(one), one, 2), expected, rtol=1e-14)


TABLES = {
    "copies": (resampling.nearest(6, 20), TapByTap),
    "shares": (resampling.averaged(20, 7).transposed, TapByTap),
    "scaled copies": (resampling.averaged(24, 8).transposed, TapByTap),
    "few more": (resampling.padded(18, 2, 1, "reflect").transposed, TapByTap),
    "sums": (resampling.nearest(8, 24).transposed, Sums),
    "means": (resampling.averaged(24, 8), Sums),
    "products": (resampling.linear(9, 40), Bands),
    "of products": (resampling.linear(9, 40).transposed, Bands),
}


@pytest.mark.parametrize("channels", [1, 3, 16])
@pytest.mark.parametrize(("rows", "columns"), list(product(TABLES, TABLES)))
def test_images_agree_with_the_reference_in_blocks_of_any_number(rng, monkeypatch, rows, columns, channels):
    (rows, kind), (columns, _) = TABLES[rows], TABLES[columns]
    assert type(choose_pass(rows, np.dtype(np.float32), 16)) is kind
    x = rng.normal(size=(5, rows.extent, columns.extent, channels)).astype(np.float32)
    expected = ReferenceBackend().resample2d(x.astype(np.float64), rows, columns)
    for images in (1, 2, 5):
        monkeypatch.setattr("gpunet.backends.numpy.resample.IMAGE_ELEMENTS", images * max(x[0].size, expected[0].size))
        y = np.full(expected.shape, np.nan, np.float32)
        resample(x, y, rows, columns)
        same(y, expected, tolerances.ORACLE)


@pytest.mark.parametrize("channels", [1, 3, 16])
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("back", [False, True])
def test_extreme_values_reach_only_what_is_made_of_them(rng, channels, value, back):
    """An image that has one takes other passes; those beside it come out the same to the bit."""
    rows, columns = resampling.linear(6, 40), resampling.linear(9, 20)
    if back:
        rows, columns = rows.transposed, columns.transposed
    x = rng.normal(size=(3, rows.extent, columns.extent, channels)).astype(np.float32)
    alone = np.empty((3, rows.outputs, columns.outputs, channels), np.float32)
    resample(x, alone, rows, columns)
    x[1, 3, 4, 0] = value
    y = np.empty_like(alone)
    with np.errstate(all="ignore"):
        resample(x, y, rows, columns)
        expected = ReferenceBackend().resample2d(x, rows, columns)
    np.testing.assert_array_equal(y[::2], alone[::2])
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("extents", EXTENTS, ids=str)
@pytest.mark.parametrize("make", MAKERS)
def test_no_tap_weighs_nothing_and_no_pixel_is_named_twice(make, extents):
    taps = MAKERS[make](*extents)
    assert (taps.weight != 0).all()
    for first, last in zip(taps.starts[:-1], taps.starts[1:], strict=True):
        assert len(set(taps.index[first:last])) == last - first


@pytest.mark.parametrize("make", ["nearest", "linear", "linear by corners", "averaged"])
def test_what_averages_pixels_has_weights_of_sum_one(make):
    for extents in EXTENTS:
        np.testing.assert_allclose(dense(MAKERS[make](*extents)).sum(axis=1), 1, rtol=1e-14)


def test_what_is_copied_or_only_added_takes_no_product():
    nearest, linear = resampling.nearest(32, 64), resampling.linear(32, 64)
    mirrored = resampling.padded(32, 2, 2, "reflect")
    tables = nearest, nearest.transposed, mirrored, mirrored.transposed, resampling.averaged(32, 8), linear
    kinds = [type(choose_pass(taps, np.dtype(np.float32), 16)) for taps in tables]
    assert kinds == [TapByTap, Sums, TapByTap, TapByTap, Sums, Bands]
    assert type(choose_pass(linear, np.dtype(np.float32), 3)) is NarrowBands


def test_outputs_on_a_pixel_take_no_other():
    assert (np.diff(resampling.linear(7, 19, align_corners=True).starts)[::3] == 1).all()
    assert (np.diff(resampling.linear(9, 3).starts) == 1).all()


def test_what_was_made_is_kept():
    assert resampling.linear(5, 9) is resampling.linear(5, 9)
    assert resampling.linear(5, 9).transposed is resampling.linear(5, 9).transposed
