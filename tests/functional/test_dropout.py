import numpy as np
import pytest
from helpers import check_gradients, host

import gpunet as gp
from gpunet import functional as F
from gpunet import random
from gpunet.random import Stream


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(backend, p):
    x = gp.tensor(np.ones((100, 1000), np.float32), backend=backend)
    y = F.dropout(x, p).numpy()
    scale = 65536 / (65536 - round(p * 65536))
    assert set(np.unique(y)) == {np.float32(0), np.float32(scale)}
    deviation = np.sqrt(p * (1 - p) / y.size)
    assert abs((y == 0).mean() - p) < 5 * deviation
    assert abs(y.mean() - 1) < 5 * deviation * scale


def test_dropout_drops_where_16_bits_of_philox_fall_below_the_threshold(backend):
    gp.seed(7)
    n = 400_001  # a few of them exactly at the threshold
    first, second = (F.dropout(gp.tensor(np.ones(n, np.float32), backend=backend), 0.3).numpy() for _ in range(2))
    for call, y in enumerate((first, second)):
        bits = np.random.Philox(key=(7, random.PURPOSES["dropout"]), counter=(0, 0, call, 0)).random_raw(n // 4 + 1)
        u16 = np.stack([(bits >> np.uint64(16 * k)) & np.uint64(0xFFFF) for k in range(4)], axis=1).reshape(-1)[:n]
        assert (u16 == round(0.3 * 65536)).any()
        np.testing.assert_array_equal(y == 0, u16 < round(0.3 * 65536))
    assert (first != second).any()


def test_the_gradient_passes_where_the_value_passed(backend, rng):
    x = gp.tensor(np.ones((40, 30), np.float32), backend=backend, requires_grad=True)
    y = F.dropout(x, 0.4)
    F.dropout(x, 0.4)  # another draw in between
    y.backward(np.full((40, 30), 2, np.float32))
    np.testing.assert_allclose(host(x.grad, backend), 2 * y.numpy(), rtol=1e-6)


def test_dropout_gradient_matches_finite_differences(backend, rng):
    def f(x):
        gp.seed(3)
        return F.dropout(x, 0.5) * x

    check_gradients(f, [rng.normal(size=(5, 7))], backend=backend, rng=rng)


def test_every_backend_drops_the_same(backend):
    gp.seed(5)
    here = F.dropout(gp.tensor(np.ones((7, 9), np.float32), backend=backend), 0.5).numpy()
    gp.seed(5)
    there = F.dropout(gp.tensor(np.ones((7, 9), np.float32), backend="reference"), 0.5).numpy()
    np.testing.assert_array_equal(here, there)


def test_dropout_at_the_ends_and_in_inference(backend, rng):
    x = gp.tensor(rng.normal(size=(4, 5)).astype(np.float32), backend=backend)
    assert F.dropout(x, 0.7, training=False) is x
    assert F.dropout(x, 0) is x
    assert not F.dropout(x, 1.0).numpy().any()
    np.testing.assert_array_equal(F.dropout(x, 1e-9).numpy(), x.numpy())


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_a_bad_rate_is_named(backend, p):
    with pytest.raises(ValueError, match=f"dropout: p is {p} but must be from 0 to 1"):
        F.dropout(gp.tensor([1.0], backend=backend), p)


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
def test_every_backend_drops_what_the_formula_says(backend, rng, p):
    """The reference reads its numbers out of the words by hand."""
    x, stream = rng.normal(size=(7, 33)).astype(np.float32), Stream(3, 1, 4, 1, 5)
    expected = gp.get_backend("reference").dropout_forward(x, p, stream=stream)
    got = backend.dropout_forward(backend.asarray(x), p, stream=stream)
    np.testing.assert_array_equal(host(got, backend), expected)


@pytest.mark.parametrize("columns", [16, 24, 37, 1])
def test_rows_of_a_batch_drop_what_the_whole_batch_drops_there(backend, rng, columns):
    x, p = rng.normal(size=(700, columns)).astype(np.float32), 0.4
    gp.seed(3)
    whole = F.dropout(gp.tensor(x, backend=backend), p).numpy()
    for first, last in ((0, 256), (256, 263), (263, 700)):
        gp.seed(3)
        with random.rows_of_batch(first, last - first):
            part = gp.tensor(x[first:last], backend=backend, requires_grad=True)
            y = F.dropout(part, p)
        np.testing.assert_array_equal(y.numpy(), whole[first:last])
        y.backward(np.ones(y.shape, np.float32))  # outside of the context, where the numbers are the same
        np.testing.assert_array_equal(host(part.grad, backend) == 0, whole[first:last] == 0)


def test_what_belongs_to_no_rows_drops_the_same_in_every_part(backend):
    x = gp.tensor(np.ones((5, 3), np.float32), backend=backend)
    gp.seed(3)
    alone = F.dropout(x, 0.4).numpy()
    gp.seed(3)
    with random.rows_of_batch(4, 2):  # 5 is no multiple of 2 rows
        np.testing.assert_array_equal(F.dropout(x, 0.4).numpy(), alone)
