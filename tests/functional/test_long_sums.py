"""Sums of millions of float32 terms keep their digits: each is compared with the sum in float64.

The terms are equal, for then every addition rounds the same way: random ones hide what is lost.
"""

import numpy as np
import pytest
from helpers import host
from helpers.backends import HOST

import gpunet as gp
from gpunet import functional as F
from gpunet import optim
from gpunet.autograd import parameter
from gpunet.backends.numpy.sums import LONG

TERM = np.float32(0.1)
EXACT = float(TERM)
MOST = 1e-6
BLAS = 5e-6
"""What BLAS itself may lose in a product with too few terms for `numpy.sums.multiply` to cut it."""


def terms_of(backend):
    """The number of terms; fewer on an emulated device, which adds some millions per second."""
    return 1 << (22 if backend.name in HOST else 20)


def full(*shape, value=TERM):
    return np.full(shape, value, np.float32)


def tensors(backend, *arrays):
    return [gp.tensor(a, backend=backend, requires_grad=True) for a in arrays]


def backward(y, dy=None):
    y.backward(gp.tensor(full(*y.shape) if dy is None else dy, backend=y.backend))


def assert_near(got, expected, most=MOST):
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=most)


SUMS = {
    "of rows": ((-1, 4), 0), "of pixels": ((2, -1, 8, 3), (1, 2)), "of all": ((-1,), None), "of the last axis": ((3, -1), 1),
    "of a middle axis": ((2, -1, 2), 1), "of two axes apart": ((-1, 4, 16), (0, 2)), "of one column": ((-1, 1), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", SUMS)
def test_sums_and_means(backend, name):
    shape, axis = SUMS[name]
    known = int(np.prod([n for n in shape if n > 0]))
    shape = tuple(terms_of(backend) // known + 7 if n < 0 else n for n in shape)  # no whole number of chunks
    x = gp.tensor(full(*shape), backend=backend)
    exact = np.full(shape, EXACT).sum(axis=axis)
    assert_near(x.sum(axis=axis).numpy(), exact)
    assert_near(x.mean(axis=axis).numpy(), EXACT)


CONVOLUTIONS = {
    "3 channels": (3, 8, 3, {}), "many channels": (16, 32, 3, {"stride": 2}), "depthwise": (4, 4, 3, {"groups": 4}),
    "groups": (8, 8, 3, {"groups": 2}), "pointwise": (4, 40, 1, {}), "activated": (16, 20, 2, {"activation": "relu"}),
    "pooled": (3, 8, 3, {"activation": "relu", "pool": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_gradients_of_a_convolution(backend, name):
    channels, filters, window, options = CONVOLUTIONS[name]
    images = terms_of(backend) // 64**2 // (4 if backend.name == "numpy" else 16) + 1
    arrays = full(images, 66, 66, channels), full(window, window, channels // options.get("groups", 1), filters)
    x, w, b = tensors(backend, *arrays, full(filters))
    y = F.conv2d(x, w, b, **options)
    backward(y)
    assert_near(host(b.grad, backend), EXACT * (y.size // filters))
    by_blas = backend.name == "numpy" and y.size // filters < LONG
    assert_near(host(w.grad, backend), EXACT * EXACT * (y.size // filters), BLAS if by_blas else MOST)


def test_gradients_of_other_products(backend):
    rows = terms_of(backend) // (4 if backend.name == "numpy" else 16)
    x, w, b = tensors(backend, full(rows, 2), full(2, 4), full(4))
    backward(F.linear(x, w, b))
    assert_near(host(b.grad, backend), EXACT * rows)
    assert_near(host(w.grad, backend), EXACT * EXACT * rows)
    x, w, b = tensors(backend, full(rows // 64, 8, 8, 3), full(2, 2, 4, 3), full(4))
    backward(F.conv_transpose2d(x, w, b, stride=2))
    assert_near(host(b.grad, backend), EXACT * rows * 4)
    assert_near(host(w.grad, backend), EXACT * EXACT * rows)
    x, w, b = tensors(backend, full(rows // 4, 2, 2, 2), full(1, 1, 2, 2, 2, 2), full(1, 1, 2))
    backward(F.locally_connected2d(x, w, b))
    assert_near(host(b.grad, backend), EXACT * (rows // 4))
    assert_near(host(w.grad, backend), EXACT * EXACT * (rows // 4))
    a, b = tensors(backend, full(2, rows), full(rows, 3))
    assert_near(F.matmul(a, b).numpy(), EXACT * EXACT * rows)


@pytest.mark.parametrize("channels", [1, 4, 24])
def test_batch_norm(backend, rng, channels):
    rows = terms_of(backend) // channels // 2
    x = rng.uniform(0.5, 1.5, size=(rows, channels)).astype(np.float32)
    dy = np.where(x > 1, TERM, np.float32(0.3))
    mean, var, weight, bias = (
        gp.tensor(full(channels, value=v), backend=backend, requires_grad=v > 0) for v in (0, 0, 1, 2)
    )
    backward(F.batch_norm(gp.tensor(x, backend=backend), mean, var, weight, bias, training=True, momentum=1.0), dy)
    x, dy = x.astype(np.float64), dy.astype(np.float64)
    assert_near(mean.numpy(), x.mean(axis=0))
    assert_near(var.numpy(), x.var(axis=0, ddof=1))
    assert_near(host(bias.grad, backend), dy.sum(axis=0))
    products = dy * (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)  # of both signs
    errors = host(weight.grad, backend) - products.sum(axis=0)
    assert np.max(np.abs(errors) / np.abs(products).sum(axis=0)) <= MOST


def test_norms_of_samples(backend, rng):
    positions = terms_of(backend) // 16
    x = rng.uniform(0.5, 1.5, size=(1, positions, 8)).astype(np.float32)
    weight, bias = tensors(backend, full(8, value=1), full(8))
    y = F.group_norm(gp.tensor(x, backend=backend), 2, weight, bias)
    backward(y)
    wide = x.astype(np.float64).reshape(1, positions, 2, 4)
    centred = wide - wide.mean(axis=(1, 3), keepdims=True)
    exact = (centred / np.sqrt((centred**2).mean(axis=(1, 3), keepdims=True) + 1e-5)).reshape(x.shape) + EXACT
    np.testing.assert_allclose(y.numpy(), exact, atol=1e-6)
    assert_near(host(bias.grad, backend), EXACT * positions)
    samples = positions // (1 if backend.name in HOST else 16)
    weight, bias = tensors(backend, full(4, value=1), full(4))
    backward(
        F.layer_norm(gp.tensor(rng.normal(size=(samples, 4)).astype(np.float32), backend=backend), 4, weight, bias)
    )
    assert_near(host(bias.grad, backend), EXACT * samples)


def test_pools_over_whole_images(backend):
    (x,) = tensors(backend, full(1, 1000, 600, 2))
    assert_near(F.adaptive_avg_pool2d(x, 1).numpy(), EXACT)
    assert_near(F.avg_pool2d(x, (1000, 300)).numpy(), EXACT)
    assert_near(F.adaptive_avg_pool2d(x, (3, 2)).numpy(), EXACT)


def test_gradients_of_resampling_and_overlapping_windows(backend):
    (x,) = tensors(backend, full(1, 1, 1, 3))
    backward(F.upsample2d(x, size=(700, 500)))
    assert_near(host(x.grad, backend), EXACT * 700 * 500)
    (x,) = tensors(backend, full(1, 2, 2, 1))
    backward(F.upsample2d(x, size=(700, 500), mode="bilinear"))
    assert_near(host(x.grad, backend), EXACT * 700 * 500 / 4)
    (x,) = tensors(backend, full(1, 150, 130, 1))
    backward(F.avg_pool2d(x, (70, 60), stride=1))
    assert_near(host(x.grad, backend)[0, 75, 65], EXACT * (70 * 60) / (70 * 60))
    image = np.zeros((1, 150, 130, 1), np.float32)
    image[0, 75, 65] = 1
    (x,) = tensors(backend, image)
    backward(F.max_pool2d(x, (70, 60), stride=1))  # one pixel wins in all the windows that hold it
    assert_near(host(x.grad, backend)[0, 75, 65], EXACT * 70 * 60)


def test_losses_and_softmax(backend):
    count = terms_of(backend)
    logits = full(2, count // 2, value=0)
    logits[:, 7] = 1  # so that the others are powers of e
    (x,) = tensors(backend, logits)
    grown = np.exp(np.where(np.arange(count // 2) == 7, 0.0, -1.0))
    assert_near(F.softmax(x).numpy(), [grown / grown.sum()] * 2)
    rows = count // (1 if backend.name in HOST else 64)
    (x,) = tensors(backend, full(rows, 3, value=0))
    assert_near(F.cross_entropy(x, np.zeros(rows, int)).numpy(), np.log(3))
    (x,) = tensors(backend, full(count))
    assert_near(F.binary_cross_entropy_with_logits(x, np.zeros(count)).numpy(), np.log1p(np.exp(EXACT)))
    assert_near(F.mse_loss(x, np.zeros(count, np.float32)).numpy(), EXACT * EXACT)


def test_gradients_of_values_that_many_rows_share(backend):
    rows = terms_of(backend) // 4
    x, a = tensors(backend, full(rows, 4, value=-TERM), full(4))
    backward(F.prelu(x, a))
    assert_near(host(a.grad, backend), -EXACT * EXACT * rows)
    x, a = tensors(backend, full(rows, 4), full(4))
    backward(x * a)
    assert_near(host(a.grad, backend), EXACT * EXACT * rows)
    (x,) = tensors(backend, full(3, 4))
    backward(x[np.ones(rows, np.int64)])
    assert_near(host(x.grad, backend)[1], EXACT * rows)


def test_the_gradient_norm_and_the_norm_of_a_unit(backend):
    count = terms_of(backend)
    w = parameter(full(count // 2, 2))
    w.move(backend)
    optimizer = optim.SGD([w], lr=0.0, clip_norm=1e9, max_norm=1.0)
    w.accumulate_grad(backend.asarray(full(count // 2, 2)))
    optimizer.step()
    assert_near(host(optimizer.grad_norm, backend)[0], EXACT * np.sqrt(count))
    assert_near(host(w.data, backend), 1 / np.sqrt(count // 2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reference", "numpy"])
def test_sixteen_million_terms(name):
    backend, count = gp.get_backend(name), 1 << 24
    x = gp.tensor(full(count // 4, 4), backend=backend)
    assert_near(x.mean(axis=0).numpy(), EXACT)
    x, w, b = tensors(backend, full(count // 4, 2), full(2, 2), full(2))
    backward(F.linear(x, w, b))
    assert_near(host(b.grad, backend), EXACT * (count // 4))
    assert_near(host(w.grad, backend), EXACT * EXACT * (count // 4))


def test_infinite_and_nan_sums_stay_what_they_are(backend):
    a = np.ones((3, 5000, 2), np.float32)
    a[0, 17, 0], a[1, 100, 1], a[2, 3, 0], a[2, 4999, 0] = np.inf, np.nan, np.inf, -np.inf
    y = gp.tensor(a, backend=backend).sum(axis=1).numpy()
    np.testing.assert_array_equal(y, [[np.inf, 5000], [5000, np.nan], [np.nan, 5000]])
