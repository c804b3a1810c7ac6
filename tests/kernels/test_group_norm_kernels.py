import re

import numpy as np
import pytest
from recording import recording_backend

from gpunet.backends.contract import GroupNorm, Into, Moments

CASES = [  # shape, groups
    ((2, 9, 7, 16), 2),  # a multiple of four channels per group
    ((3, 5, 4, 6), 3),
    ((1, 6, 11, 132), 33),
    ((41, 10), 1),  # layer norm of short rows: one warp per row
    ((5, 700), 1),  # and of longer ones, 256 threads
    ((4, 2, 1, 35), 35),  # instance norm
    ((3, 41, 37, 8), 1),  # many rows: several splits of the sums by channel
    ((2, 3), 3),  # one element per group
    ((2, 16, 17, 12), 12),  # from here on in parts: narrow groups of long samples
    ((3, 19, 17, 6), 2),
    ((1, 300, 66), 33),  # more channels than stand side by side
    ((2, 70, 125, 4), 1),  # few large groups
    ((1, 130, 129, 3), 1),
]
EPS = 1e-3


def drawn(normal, shape):
    return 2 * normal(*shape) + 3, normal(shape[-1]), normal(shape[-1]), normal(*shape)


@pytest.mark.parametrize(("shape", "groups"), CASES)
def test_forward_agrees_with_the_reference(device_backend, reference, normal, agrees, shape, groups):
    x, weight, bias, _ = drawn(normal, shape)
    on = device_backend.asarray
    for parameters in ((weight, bias), (None, None), (weight, None), (None, bias)):
        wide = [None if a is None else a.astype(np.float64) for a in (x, *parameters)]
        y, saved = reference.group_norm_forward(*wide, GroupNorm(groups, EPS))
        given = [None if a is None else on(a) for a in (x, *parameters)]
        got, moments = device_backend.group_norm_forward(*given, GroupNorm(groups, EPS))
        agrees(got, y, 5e-6)
        agrees(moments.mean, saved.mean)
        np.testing.assert_allclose(device_backend.to_numpy(moments.variance), saved.variance, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("shape", "groups"), CASES)
def test_backward_agrees_with_the_reference(device_backend, reference, normal, agrees, shape, groups):
    x, weight, _, dy = drawn(normal, shape)
    on = device_backend.asarray
    norm = GroupNorm(groups, EPS)
    _, saved = reference.group_norm_forward(x, None, None, norm)
    for scale in (weight, None):
        wide = [None if a is None else a.astype(np.float64) for a in (dy, x, scale)]
        moments = Moments(*(a.astype(np.float64) for a in saved))
        expected = reference.group_norm_backward(*wide, moments, norm)
        given = [None if a is None else on(a) for a in (dy, x, scale)]
        got = device_backend.group_norm_backward(*given, Moments(*map(on, saved)), norm)
        for mine, theirs in zip(got, expected, strict=True):
            host = device_backend.to_numpy(mine)
            assert np.linalg.norm(host - theirs) <= 2e-5 * max(np.linalg.norm(theirs), np.sqrt(theirs.size))


@pytest.mark.parametrize("which", [(True, True), (True, False), (False, True)])
def test_gradients_are_added_where_asked(device_backend, reference, normal, agrees, which):
    x, weight, _, dy = drawn(normal, (3, 5, 4, 8))
    on, norm = device_backend.asarray, GroupNorm(2, EPS)
    _, saved = reference.group_norm_forward(x, None, None, norm)
    before = [normal(8) if given else None for given in which]
    given, moments = [on(a) for a in (dy, x, weight)], Moments(*map(on, saved))
    out = [None if a is None else on(a) for a in before]
    got = device_backend.group_norm_backward(*given, moments, norm, Into(*out, add=True))
    expected = reference.group_norm_backward(dy, x, weight, saved, norm)
    for mine, theirs, there, held in zip(got[1:], expected[1:], out, before, strict=True):
        agrees(mine, theirs if held is None else theirs + held, 1e-5)
        assert there is None or mine is there


@pytest.mark.parametrize("rows", [40, 600])  # by groups, and in parts
def test_moments_are_exact_far_from_zero(device_backend, normal, rows):
    x = normal(3, rows, 8) + np.float32(4096)
    _, saved = device_backend.group_norm_forward(device_backend.asarray(x), None, None, GroupNorm(2, EPS))
    parts = x.astype(np.float64).reshape(3, rows, 2, 4)
    np.testing.assert_allclose(device_backend.to_numpy(saved.mean), parts.mean(axis=(1, 3)), rtol=5e-7)
    np.testing.assert_allclose(device_backend.to_numpy(saved.variance), parts.var(axis=(1, 3)), rtol=1e-3)


@pytest.mark.parametrize("height", [5, 70])  # by groups, and in parts
def test_nan_stays_in_its_group(device_backend, reference, normal, agrees, height):
    x, weight, bias, dy = drawn(normal, (2, height, 4, 8))
    x[1, 2, 3, 5] = np.nan
    on, norm = device_backend.asarray, GroupNorm(2, EPS)
    y, saved = reference.group_norm_forward(x, weight, bias, norm)
    got, moments = device_backend.group_norm_forward(on(x), on(weight), on(bias), norm)
    agrees(got, y, 5e-6)
    expected = reference.group_norm_backward(dy, x, weight, saved, norm)
    got = device_backend.group_norm_backward(on(dy), on(x), on(weight), moments, norm)
    for mine, theirs in zip(got, expected, strict=True):
        agrees(mine, theirs, 2e-5)


@pytest.mark.parametrize("shift", [0, 1])
def test_one_unaligned_array_is_enough_for_any_alignment(shift):
    backend = recording_backend()
    x = backend.arrays.asarray(np.ones((2, 8, 8, 4), np.float32))
    weight = backend.arrays.asarray(np.ones(4 + shift, np.float32))[shift:]
    backend.group_norm_forward(x, weight, None, GroupNorm(1, EPS))
    assert backend.launcher.kernels == [f"group_norm_forward<float, {1 if shift else 4}>"]


@pytest.mark.parametrize(
    ("shape", "groups", "by"),
    [
        ((2, 32, 32, 64), 32, "parts"),  # two channels per group
        ((2, 32, 32, 64), 8, "groups"),
        ((2, 15, 17, 64), 32, "groups"),  # so few rows that one launch is faster
        ((2, 32, 32, 4), 1, "groups"),  # all channels: no sector is shared with another group
        ((2, 128, 64, 64), 32, "parts"),
        ((2, 128, 128, 64), 8, "parts"),  # 16 groups of 131,072 elements
        ((64, 128, 128, 64), 8, "groups"),
    ],
)
def test_large_and_narrow_groups_are_taken_in_parts(shape, groups, by):
    backend = recording_backend()
    x = np.broadcast_to(np.float32(0), shape)
    assert backend._in_parts(x, groups) == (by == "parts")
    half = np.broadcast_to(np.float16(0), shape)  # eight channels are half a sector
    assert backend._in_parts(half, groups) == (by == "parts" or groups == 8)


@pytest.mark.parametrize("shift", [1, 4])
def test_parts_are_taken_of_any_alignment(device_backend, reference, normal, agrees, shift):
    flat, norm = 2 * normal(shift + 2 * 300 * 12), GroupNorm(6, EPS)
    x = flat[shift:].reshape(2, 300, 12)
    expected, saved = reference.group_norm_forward(x, None, None, norm)
    on = device_backend.asarray
    got, moments = device_backend.group_norm_forward(on(flat)[shift:].reshape(x.shape), None, None, norm)
    agrees(got, expected, 5e-6)
    agrees(moments.variance, saved.variance, 5e-6)


@pytest.mark.parametrize(("width", "threads"), [(3, 32), (256, 32), (700, 64), (5000, 256)])
def test_a_block_is_as_small_as_its_group(monkeypatch, width, threads):
    backend, launched = recording_backend(), []
    monkeypatch.setattr(backend.launcher, "run", lambda file, kernel, *shape: launched.append(shape[:2]))
    backend.group_norm_forward(backend.arrays.asarray(np.ones((7, width), np.float32)), None, None, GroupNorm(1, EPS))
    ((grid, block),) = launched
    assert (grid[0], block[0]) == (7, threads)


def test_what_does_not_fit_is_refused_before_a_launch():
    backend = recording_backend()
    x = backend.arrays.asarray(np.ones((2, 3, 6), np.float32))
    with pytest.raises(
        ValueError, match=re.escape("x has shape (2, 3, 6) but takes (N, …, C), C a multiple of num_groups 4")
    ):
        backend.group_norm_forward(x, None, None, GroupNorm(4, EPS))
    with pytest.raises(ValueError, match=r"weight has shape \(3,\) but takes \(6,\)"):
        backend.group_norm_forward(x, backend.arrays.asarray(np.ones(3, np.float32)), None, GroupNorm(2, EPS))
    assert not backend.launcher.launches
