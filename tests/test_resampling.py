"""Tables of taps: what they say, their transposes, and the strided slices by which NumPy computes them."""

import numpy as np
import pytest

from gpunet import resampling
from gpunet.backends.numpy_stretches import plan_of

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


def dense_by_stretches(taps):
    """The same, of the strided slices."""
    matrix, written = np.full((taps.outputs, taps.extent), np.nan), np.zeros(taps.outputs, int)
    pixels, outputs = np.arange(taps.extent), np.arange(taps.outputs)
    plan = plan_of(taps)
    for where, sums in plan.stretches:
        rows = outputs[where]
        total = np.zeros((len(rows), taps.extent))
        for added, factor in sums:
            for source, part in added:
                total[np.arange(len(rows)), np.broadcast_to(pixels[part], len(rows))] += source
            total *= factor
        matrix[rows] = total * plan.unit
        written[rows] += 1
    assert (written == 1).all()
    return matrix


@pytest.mark.parametrize("extents", EXTENTS, ids=str)
@pytest.mark.parametrize("make", MAKERS)
def test_transposes_and_stretches_say_the_same(make, extents):
    taps = MAKERS[make](*extents)
    matrix = dense(taps)
    np.testing.assert_array_equal(dense(taps.transposed), matrix.T)
    for one, expected in ((taps, matrix), (taps.transposed, matrix.T)):
        np.testing.assert_allclose(dense_by_stretches(one), expected, rtol=1e-14)


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


def test_upsampling_by_two_is_a_few_slices():
    """So that NumPy's loops are few and long."""
    nearest, linear = resampling.nearest(32, 64), resampling.linear(32, 64)
    tables = nearest, nearest.transposed, linear, linear.transposed, resampling.averaged(32, 8)
    assert [len(plan_of(taps).stretches) for taps in tables] == [2, 1, 3, 2, 1]


def test_outputs_on_a_pixel_take_no_other():
    assert (np.diff(resampling.linear(7, 19, align_corners=True).starts)[::3] == 1).all()
    assert (np.diff(resampling.linear(9, 3).starts) == 1).all()


def test_what_was_made_is_kept():
    assert resampling.linear(5, 9) is resampling.linear(5, 9)
    assert resampling.linear(5, 9).transposed is resampling.linear(5, 9).transposed
