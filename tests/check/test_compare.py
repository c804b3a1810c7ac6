"""Differences between results: in ulp, and relative to their norm."""

import ml_dtypes
import numpy as np
import pytest

from gpunet.check.compare import TOLERANCES, difference, same_bits

DTYPES = [np.dtype(name) for name in ("float16", ml_dtypes.bfloat16, "float32", "float64")]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("start", [1.0, -1.0, 0.0, 100.0, -1e-4])
def test_neighbouring_numbers_are_one_apart(dtype, start):
    a = np.array([start], dtype)
    b = np.nextafter(a, np.array([np.inf], dtype)).astype(dtype)
    assert difference([b], [a]).ulp == 1
    assert difference([a], [b]).ulp == 1
    assert difference([a], [a]).ulp == 0


def test_numbers_on_both_sides_of_zero_are_counted_through_it():
    tiny = np.float32([np.nextafter(np.float32(0), np.float32(1))])
    assert difference([tiny], [-tiny]).ulp == 2
    assert difference([np.float32([0.0])], [np.float32([-0.0])]).ulp == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_errors_are_allowed_up_to_the_tolerance_of_the_results_dtype(dtype):
    exact = np.linspace(1, 2, 50)
    near, far = (exact * (1 + factor * TOLERANCES[dtype.name]) for factor in (0.2, 3.0))
    assert difference([near.astype(dtype)], [exact]).passes
    assert not difference([far.astype(dtype)], [exact]).passes


def test_the_worst_of_several_results_decides():
    one, two = np.float32([1, 2]), np.int32([1, 2])
    assert difference([one, two], [one.astype(float), two]).passes
    assert not difference([one, two + 1], [one.astype(float), two]).passes
    assert not difference([one * 1.01, two], [one.astype(float), two]).passes
    assert not difference([one], [one.astype(float), two]).passes


@pytest.mark.parametrize(
    "wrong", [[1, np.nan, 3], [1, np.inf, 3], [1, -np.inf, np.nan], [[1, np.inf, np.nan]]], ids=str
)
def test_nan_and_infinity_must_be_in_the_same_places(wrong):
    expected = np.array([1, np.inf, np.nan])
    assert difference([expected.astype(np.float32)], [expected]).passes
    assert not difference([np.float32(wrong)], [expected]).passes


def test_the_error_against_zeros_is_absolute():
    assert difference([np.zeros(3, np.float32)], [np.zeros(3)]).passes
    assert not difference([np.full(3, 1e-3, np.float32)], [np.zeros(3)]).passes


def test_overflow_of_the_results_dtype_is_an_error():
    assert not difference([np.float16([np.inf])], [np.array([1e6])]).passes


def test_bits_are_compared_not_values():
    nan = np.float32([np.nan])
    assert same_bits([nan], [nan.copy()])
    assert not same_bits([np.float32([0.0])], [np.float32([-0.0])])
