"""Spatial dropout and Gaussian noise: their rates, their words, the same on every backend."""

import numpy as np
import pytest
from helpers import check_gradients, host

import gpunet as gp
from gpunet import functional as F
from gpunet import random


def test_dropout2d_drops_whole_channels_of_a_sample(backend):
    gp.seed(3)
    x = gp.tensor(np.ones((200, 3, 4, 16), np.float32), backend=backend)
    y = F.dropout2d(x, 0.25).numpy()
    assert (y == y[:, :1, :1]).all()
    dropped = y[:, 0, 0] == 0
    assert set(np.unique(y)) == {np.float32(0), np.float32(65536 / (65536 - 16384))}
    assert abs(dropped.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / dropped.size)
    bits = np.random.Philox(key=(3, random.PURPOSES["dropout"]), counter=(0, 0, 0, 0)).random_raw(800)
    np.testing.assert_array_equal(dropped, (bits.view("<u2") < 16384).reshape(200, 16))


def test_dropout2d_gradient(backend, rng):
    def f(x):
        gp.seed(3)
        return F.dropout2d(x, 0.5) * x

    check_gradients(f, [rng.normal(size=(3, 4, 2, 5))], backend=backend, rng=rng)
    x = gp.tensor(np.ones((6, 2, 3, 5), np.float32), backend=backend, requires_grad=True)
    y = F.dropout2d(x, 0.4)
    y.backward(np.full(x.shape, 2, np.float32))
    np.testing.assert_allclose(host(x.grad, backend), 2 * y.numpy(), rtol=1e-6)


def test_dropout2d_at_the_ends_and_in_inference(backend, rng):
    x = gp.tensor(rng.normal(size=(4, 5)).astype(np.float32), backend=backend)
    assert F.dropout2d(x, 0.7, training=False) is x
    assert F.dropout2d(x, 0) is x
    assert not F.dropout2d(x, 1.0).numpy().any()
    with pytest.raises(ValueError, match="dropout2d: p is 1.1 but must be from 0 to 1"):
        F.dropout2d(x, 1.1)
    with pytest.raises(ValueError, match=r"dropout2d: x has shape \(5,\) but takes \(N, …, C\)"):
        F.dropout2d(x[0], 0.5)


def test_noise_has_its_deviation_and_the_words_of_philox(backend, dtype):
    gp.seed(7)
    x = gp.tensor(np.full((100, 333), 2, dtype), backend=backend)
    first, second = (F.gaussian_noise(x, 0.5).numpy() for _ in range(2))
    for call, y in enumerate((first, second)):
        noise = (y.astype(np.float64) - 2) / 0.5
        assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
        assert abs(noise.std() - 1) < 5 / np.sqrt(2 * noise.size)
        bits = np.random.Philox(key=(7, random.PURPOSES["noise"]), counter=(0, 0, call, 0)).random_raw(33300 // 4)
        ranks = bits.view("<u2").reshape(noise.shape)
        order = np.argsort(ranks, axis=None, kind="stable")
        assert (np.diff(noise.ravel()[order]) >= 0).all(), "a larger word is a larger number"
    assert (first != second).any()


def test_every_backend_adds_the_same_noise(backend, rng):
    x = rng.normal(size=(7, 9, 5)).astype(np.float32)
    given = []
    for on in (backend, gp.get_backend("reference")):
        gp.seed(5)
        given.append(F.gaussian_noise(gp.tensor(x, backend=on), 0.3).numpy())
    np.testing.assert_array_equal(*given)


def test_noise_lets_the_gradient_through(backend, rng):
    x = gp.tensor(rng.normal(size=(4, 5)).astype(np.float32), backend=backend, requires_grad=True)
    dy = rng.normal(size=(4, 5)).astype(np.float32)
    F.gaussian_noise(x, 0.3).backward(dy)
    np.testing.assert_array_equal(host(x.grad, backend), dy)


def test_noise_on_targets(backend, rng):
    target = rng.normal(size=(50, 40)).astype(np.float32)
    y = gp.tensor(target, backend=backend, requires_grad=True)
    loss = F.mse_loss(y, F.gaussian_noise(gp.tensor(target, backend=backend), 0.2))
    assert abs(float(loss.numpy()) - 0.04) < 0.01


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_noise_in_16_bits(cuda_backend, kind):
    x = gp.tensor(np.ones((8, 9)), dtype=kind, backend=cuda_backend)
    y = F.gaussian_noise(x, 0.5)
    assert y.dtype == x.dtype
    assert F.dropout2d(x, 0.5).dtype == x.dtype
    assert 0.3 < (y.numpy().astype(np.float32) - 1).std() < 0.7


def test_no_noise_in_inference(backend):
    x = gp.tensor(np.ones((4, 5), np.float32), backend=backend)
    assert F.gaussian_noise(x, 0.7, training=False) is x
    assert F.gaussian_noise(x, 0) is x
    for std in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"gaussian_noise: std is {std} but must be at least 0, and finite"):
            F.gaussian_noise(x, std)


def test_noise_takes_tensors(rng):
    target = rng.normal(size=(3, 4))
    for call in (lambda: F.gaussian_noise(target, 0.1), lambda: F.gaussian_noise(target, 0.1, training=False)):
        with pytest.raises(TypeError, match=r"gaussian_noise: x takes a tensor, got ndarray; see gpunet\.tensor"):
            call()
    with pytest.raises(TypeError, match="dropout: x takes a tensor, got ndarray"):
        F.dropout(target, training=False)


def test_normal_numbers_are_those_of_the_host(backend):
    stream = random.Stream(2**63 - 5, random.PURPOSES["noise"], step=7, call=2**40, epoch=3)
    got = backend.to_numpy(backend.random_normal(stream, (7, 33), np.float32))
    np.testing.assert_array_equal(got, random.normal(stream, 231).astype(np.float32).reshape(7, 33))
    assert backend.random_normal(stream, (0, 3), np.float32).shape == (0, 3)


@pytest.mark.parametrize("columns", [8, 37])
def test_rows_of_a_batch_get_the_noise_of_the_whole_batch(backend, columns):
    gp.seed(5)
    whole = F.gaussian_noise(gp.tensor(np.zeros((90, columns), np.float32), backend=backend)).numpy()
    for first, last in ((0, 8), (8, 11), (11, 90)):
        gp.seed(5)
        with random.rows_of_batch(first, last - first):
            part = F.gaussian_noise(gp.tensor(np.zeros((last - first, columns), np.float32), backend=backend))
        np.testing.assert_array_equal(part.numpy(), whole[first:last])
