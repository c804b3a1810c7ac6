"""Arrays larger than a grid, so that a block or a thread takes several elements, rows or sums."""

import numpy as np
import pytest

from gpunet import random
from gpunet.augmentation import Augmentation
from gpunet.backends.contract import Activation, BatchNorm, BatchRequest, CrossEntropy, Moments, Samples
from gpunet.backends.cuda import arrays, augment, device, local, loss, norm, pool, resample, update
from gpunet.backends.cuda import random as cuda_random
from gpunet.geometry import Geometry
from gpunet.random import Stream, words
from gpunet.resampling import averaged


@pytest.fixture(autouse=True)
def few_blocks(monkeypatch):
    for module in (arrays, augment, cuda_random, device, local, loss, norm, pool, resample, update):
        monkeypatch.setattr(module, "MAX_BLOCKS", 2)
        for name in ("PARTIALS", "REDUCTION_BLOCKS"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, 2)


def test_elements(device_backend, reference, normal, agrees):
    x = normal(9, 333)
    on = device_backend.asarray
    agrees(device_backend.activation_forward(on(x), Activation("tanh")), np.tanh(x))
    agrees(device_backend.binary("add", on(x), on(x[0])), x + x[0])
    agrees(device_backend.transpose(on(x), (1, 0)), x.T)
    tiles = normal(133, 203)
    agrees(device_backend.transpose(on(tiles), (1, 0)), tiles.T)
    got = device_backend.dropout_forward(on(x), 0.4, stream=Stream(1, 1))
    agrees(got, reference.dropout_forward(x, 0.4, stream=Stream(1, 1)))


def test_words(device_backend):
    got = device_backend.to_numpy(device_backend.random_words(Stream(3, 1), 9000))
    np.testing.assert_array_equal(got, words(Stream(3, 1), 9000))


def test_permutations(device_backend):
    got = device_backend.to_numpy(device_backend.permutation(Stream(3, 2), 9000))
    np.testing.assert_array_equal(got, random.permutation(Stream(3, 2), 9000))


def test_batches(device_backend, reference, rng):
    images, labels = rng.integers(0, 256, (5, 70, 75, 3), dtype=np.uint8), np.arange(5, dtype=np.int32)  # four shares
    drawn = Augmentation(padding=3, random_crop=True, flip="random", mean=(0.5,), std=(0.5,))
    args = images, labels, rng.integers(0, 5, 7).astype(np.int32)
    got = device_backend.gather_augment(Samples(*map(device_backend.asarray, args), drawn), BatchRequest(0))
    for mine, theirs in zip(got, reference.gather_augment(Samples(*args, drawn), BatchRequest(0)), strict=True):
        np.testing.assert_array_equal(device_backend.to_numpy(mine), theirs)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_reductions(device_backend, reference, axes, rng, agrees):
    a = rng.integers(-9, 9, size=(37, 300)).astype(np.float32)
    agrees(device_backend.sum(device_backend.asarray(a), axes), a.sum(axis=axes))
    y, index = device_backend.max(device_backend.asarray(a), axes)
    expected, expected_index = reference.max(a, axes)
    agrees(y, expected)
    np.testing.assert_array_equal(device_backend.to_numpy(index), expected_index)


def test_rows(device_backend, reference, rng, agrees):
    logits, labels = rng.normal(size=(101, 7)).astype(np.float32), rng.integers(0, 7, size=101).astype(np.int32)
    on = device_backend.asarray
    agrees(device_backend.softmax_forward(on(logits)), reference.softmax_forward(logits))
    options = CrossEntropy(smoothing=0.1)
    got = device_backend.softmax_cross_entropy(on(logits), on(labels), options)
    for mine, theirs in zip(got, reference.softmax_cross_entropy(logits, labels, options), strict=True):
        agrees(mine, theirs)
    targets = rng.uniform(size=logits.shape).astype(np.float32)
    loss, _ = device_backend.sigmoid_cross_entropy(on(logits), on(targets))
    agrees(loss, reference.sigmoid_cross_entropy(logits, targets)[0])


def test_long_rows(device_backend, reference, rng, agrees):
    logits, labels = rng.normal(size=(7, 401)).astype(np.float32), rng.integers(0, 401, size=7).astype(np.int32)
    logits[3, 300] = np.nan
    on, options = device_backend.asarray, CrossEntropy(smoothing=0.1, reduction="none")
    y = reference.softmax_forward(logits)
    agrees(device_backend.softmax_forward(on(logits)), y)
    agrees(device_backend.softmax_backward(on(logits), on(y)), reference.softmax_backward(logits, y), 1e-5)
    got = device_backend.softmax_cross_entropy(on(logits), on(labels), options)
    for mine, theirs in zip(got, reference.softmax_cross_entropy(logits, labels, options), strict=True):
        agrees(mine, theirs)


def test_pools(device_backend, reference, normal, agrees):
    geometry = Geometry.pool((3, 13, 14, 8), 3, stride=2)
    x, dy = normal(*geometry.x_shape), normal(*geometry.y_shape)
    y, mask = device_backend.max_pool2d_forward(device_backend.asarray(x), geometry)
    expected, expected_mask = reference.max_pool2d_forward(x, geometry)
    agrees(y, expected)
    dx = device_backend.max_pool2d_backward(device_backend.asarray(dy), mask, geometry)
    agrees(dx, reference.max_pool2d_backward(dy, expected_mask, geometry))


def test_long_sums(device_backend, reference, normal, agrees):
    x, tables = normal(3, 12, 13, 140), (averaged(12, 2), averaged(13, 2))
    agrees(device_backend.resample2d(device_backend.asarray(x), *tables), reference.resample2d(x, *tables))


def test_local_convolutions(device_backend, reference, normal, agrees):
    g = Geometry.conv((70, 5, 4, 6), (2, 3, 6, 9))
    dy, w = normal(*g.y_shape), normal(*g.y_shape[1:3], *g.w_shape)
    got = device_backend.local_conv2d_input_grad(device_backend.asarray(dy), device_backend.asarray(w), g)
    agrees(got, reference.local_conv2d_input_grad(dy, w, g))


def test_pools_with_large_windows(device_backend, reference, normal, agrees):
    geometry = Geometry.pool((3, 13, 14, 140), (6, 7), stride=5)
    x = normal(*geometry.x_shape)
    y, mask = device_backend.max_pool2d_forward(device_backend.asarray(x), geometry)
    expected, expected_mask = reference.max_pool2d_forward(x, geometry)
    agrees(y, expected)
    np.testing.assert_array_equal(device_backend.to_numpy(mask), expected_mask)
    got = device_backend.avg_pool2d_forward(device_backend.asarray(x), geometry, True)
    agrees(got, reference.avg_pool2d_forward(x, geometry, True))


def test_batch_norm(device_backend, reference, normal, agrees):
    x, dy, on = normal(7, 60, 13), normal(7, 60, 13), device_backend.asarray
    norm = BatchNorm(training=True)
    w, b, *running = (normal(13) for _ in range(4))
    of_device = Moments(*(on(a.copy()) for a in running))
    expected, moments = reference.batch_norm_forward(x, w, b, Moments(*running), norm, None)
    y, saved = device_backend.batch_norm_forward(on(x), on(w), on(b), of_device, norm, None)
    agrees(y, expected)
    got = device_backend.batch_norm_backward(on(dy), on(x), None, None, None, saved, norm)
    for mine, theirs in zip(
        got[:3], reference.batch_norm_backward(dy, x, None, None, None, moments, norm), strict=False
    ):
        agrees(mine, theirs)
