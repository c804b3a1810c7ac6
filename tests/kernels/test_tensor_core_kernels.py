"""Products on tensor cores, beside the accuracy that drawn shapes measure: windows of many taps, and numbers that are none."""

import numpy as np
import pytest
from recording import recording_backend

from gpunet.backends.contract import Conv, Product
from gpunet.cuda.instantiations import is_mma
from gpunet.geometry import Geometry

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


WINDOWS = [
    # (KH, KW), on tensor cores, options: the largest ones whose rows and columns have bits, and those beyond
    ((16, 15), True, {"padding": ((7, 8), (14, 0))}),
    ((16, 1), True, {"padding": ((15, 15), (0, 0)), "stride": (2, 1)}),
    ((1, 15), True, {"padding": ((0, 0), (14, 14)), "dilation": (1, 2)}),
    ((17, 1), False, {"padding": ((8, 8), (0, 0))}),
    ((1, 16), False, {"padding": ((0, 0), (7, 8))}),
]


def conv_of(window, options):
    return Conv(Geometry.conv((2, 19, 18, 8), (*window, 8, 8), **options), precision="3xtf32")


@pytest.mark.parametrize(("window", "on_tensor_cores", "options"), WINDOWS, ids=lambda value: str(value))
def test_large_windows_agree_with_the_reference(cuda_backend, reference, rng, window, on_tensor_cores, options):
    conv = conv_of(window, options)
    x, w = rng.normal(size=conv.geometry.x_shape), rng.normal(size=conv.geometry.w_shape)
    dy = rng.normal(size=conv.geometry.y_shape)

    def on(a):
        return cuda_backend.asarray(a.astype(np.float32))

    pairs = [
        (cuda_backend.conv2d_forward(on(x), on(w), None, conv)[0], reference.conv2d_forward(x, w, None, conv)[0]),
        (cuda_backend.conv2d_input_grad(on(dy), on(w), conv), reference.conv2d_input_grad(dy, w, conv)),
    ]
    for got, expected in pairs:
        np.testing.assert_allclose(cuda_backend.to_numpy(got), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("window", "on_tensor_cores", "options"), WINDOWS, ids=lambda value: str(value))
def test_windows_whose_rows_and_columns_have_bits_run_on_tensor_cores(window, on_tensor_cores, options):
    backend, conv = recording_backend(), conv_of(window, options)
    x, w, dy = (
        backend.asarray(np.ones(shape, np.float32))
        for shape in (conv.geometry.x_shape, conv.geometry.w_shape, conv.geometry.y_shape)
    )
    backend.conv2d_forward(x, w, None, conv)
    backend.conv2d_input_grad(dy, w, conv)
    assert [is_mma(kernel) for kernel in backend.launcher.kernels] == [on_tensor_cores] * 2


def test_a_strided_gradient_counts_the_taps_of_one_parity():
    backend, conv = recording_backend(), conv_of((19, 18), {"padding": 9, "stride": 2})
    dy, w = (backend.asarray(np.ones(shape, np.float32)) for shape in (conv.geometry.y_shape, conv.geometry.w_shape))
    backend.conv2d_input_grad(dy, w, conv)
    assert is_mma(backend.launcher.kernels[-1])
