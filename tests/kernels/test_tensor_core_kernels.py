"""What products on tensor cores do with numbers that are none, beside the accuracy that drawn shapes measure."""

import numpy as np
import pytest

from gpunet.backends.contract import Product

NANS = np.array([0x7FC00000, 0x7FFFFFFF, 0x7F800001, 0xFF800001], np.uint32).view(np.float32)
"""Quiet ones and such whose only bits are those that TF32 cuts off."""


@pytest.mark.parametrize("precision", ["tf32", "3xtf32"])
@pytest.mark.parametrize("nan", NANS, ids=lambda x: hex(x.view(np.uint32)))
def test_every_nan_reaches_its_results_and_no_others(cuda_backend, rng, precision, nan):
    a, b = rng.normal(size=(16, 32)).astype(np.float32), rng.normal(size=(32, 16)).astype(np.float32)
    a.view(np.uint32)[3, 5] = nan.view(np.uint32)
    y = cuda_backend.matmul(cuda_backend.asarray(a), cuda_backend.asarray(b), Product(precision=precision))
    assert np.isnan(cuda_backend.to_numpy(y)).all(axis=1).tolist() == [row == 3 for row in range(16)]
    assert np.isnan(cuda_backend.to_numpy(y)).any(axis=1).sum() == 1


@pytest.mark.parametrize(("precision", "stays"), [("tf32", True), ("3xtf32", False)])
def test_infinity_stays_in_tf32_and_is_no_number_in_3xtf32(cuda_backend, precision, stays):
    a, b = np.ones((16, 32), np.float32), np.full((32, 16), 1.1, np.float32)
    a[3, 5] = np.inf
    y = cuda_backend.to_numpy(
        cuda_backend.matmul(cuda_backend.asarray(a), cuda_backend.asarray(b), Product(precision=precision))
    )
    assert (np.isposinf(y[3]) if stays else np.isnan(y[3])).all()
    assert np.isfinite(np.delete(y, 3, axis=0)).all()
