import numpy as np
import pytest
import tolerances
from helpers import check_gradients, host, relative_error, same
from hypothesis import given, settings
from hypothesis import strategies as st

import gpunet as gp
from gpunet import functional as F
from gpunet.backends.contract import ACTIVATIONS, BatchNorm, Moments
from gpunet.backends.numpy import norm as numpy_norm
from gpunet.distributed import Share, computing

SHAPES = [(2, 5, 4, 3), (1, 6, 7, 5), (9, 7), (4, 3, 2), (2, 3, 5, 8), (1, 2, 1)]
NAMES = [None, *ACTIVATIONS]


def oracle(x, weight, bias, mean, variance, eps, residual=0.0):
    """The formula in float64, before the activation."""
    x, mean, variance = (np.asarray(a, np.float64) for a in (x, mean, variance))
    return (x - mean) / np.sqrt(variance + eps) * weight + bias + residual


def tensors(arrays, backend):
    return [gp.tensor(a.copy(), backend=backend) for a in arrays]


def drawn(rng, c, dtype=np.float64):
    """weight, bias, running mean and running variance."""
    return [a.astype(dtype) for a in (*rng.normal(size=(3, c)), rng.uniform(0.5, 2, c))]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_training_normalises_by_the_batch_and_updates_the_running_moments(backend, dtype, rng, shape):
    x, (weight, bias, mean, variance) = (3 * rng.normal(size=shape) + 2).astype(dtype), drawn(rng, shape[-1], dtype)
    running = tensors((mean, variance), backend)
    before = [t.data for t in running]
    y = F.batch_norm(
        gp.tensor(x, backend=backend),
        *running,
        *tensors((weight, bias), backend),
        training=True,
        momentum=0.3,
        eps=1e-2,
    )
    pixels = x.reshape(-1, shape[-1]).astype(np.float64)
    of_batch = pixels.mean(axis=0), pixels.var(axis=0)
    same(y.numpy(), oracle(x, weight, bias, *of_batch, 1e-2), tolerances.BACKENDS)
    same(running[0].numpy(), 0.7 * mean + 0.3 * of_batch[0], tolerances.BACKENDS)
    same(running[1].numpy(), 0.7 * variance + 0.3 * pixels.var(axis=0, ddof=1), tolerances.BACKENDS)
    assert all(t.data is a for t, a in zip(running, before, strict=True)), "not in place"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_inference_normalises_by_the_running_moments_and_leaves_them(backend, dtype, rng, shape):
    x, parameters = rng.normal(size=shape).astype(dtype), drawn(rng, shape[-1], dtype)
    residual = rng.normal(size=shape).astype(dtype)
    given = tensors(parameters, backend)
    y = F.batch_norm(
        gp.tensor(x, backend=backend), *given[2:], *given[:2],
        training=False, residual=gp.tensor(residual, backend=backend),
    )  # fmt: skip
    same(y.numpy(), oracle(x, *parameters, 1e-5, residual), tolerances.BACKENDS)
    for tensor, value in zip(given, parameters, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), value)


@pytest.mark.parametrize("shape", SHAPES[:-1], ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", NAMES)
def test_gradients_match_finite_differences(backend, rng, shape, training, activation):
    weight, bias, mean, variance = drawn(rng, shape[-1])
    x, residual = rng.normal(size=shape), rng.normal(size=shape)
    at = oracle(x, weight, bias, x.reshape(-1, shape[-1]).mean(axis=0), x.reshape(-1, shape[-1]).var(axis=0), 1e-3)
    if not training:
        at = oracle(x, weight, bias, mean, variance, 1e-3)
    kinks = np.array([-3, -1, 0, 1, 3, 6])
    residual += np.where(np.abs((at + residual)[..., None] - kinks).min(axis=-1) < 0.01, 0.05, 0)

    def f(x, weight, bias, residual):
        running = tensors((mean.astype(x.dtype), variance.astype(x.dtype)), x.backend)
        return F.batch_norm(
            x, *running, weight, bias, training=training, eps=1e-3, activation=activation, residual=residual
        )

    check_gradients(f, [x, weight, bias, residual], backend=backend, rng=rng)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_without_a_residual_or_parameters(backend, rng, training):
    _, _, mean, variance = drawn(rng, 3)
    x = rng.normal(size=(2, 5, 4, 3))
    x += np.where(np.abs(x) < 0.05, 0.1, 0)

    def plain(x, weight=None, bias=None, activation="tanh"):
        running = tensors((mean.astype(x.dtype), variance.astype(x.dtype)), x.backend)
        return F.batch_norm(x, *running, weight, bias, training=training, activation=activation)

    check_gradients(plain, [x], backend=backend, rng=rng)
    check_gradients(
        lambda x, weight: plain(x, weight, activation=None), [x, rng.normal(size=3)], backend=backend, rng=rng
    )
    check_gradients(lambda x, bias: plain(x, None, bias), [x, rng.normal(size=3)], backend=backend, rng=rng)


@given(
    n=st.integers(1, 3), h=st.integers(1, 9), w=st.integers(2, 9), c=st.integers(1, 13), seed=st.integers(0, 2**32 - 1),
    activation=st.sampled_from(NAMES), training=st.booleans(), add=st.booleans(), affine=st.booleans(),
)  # fmt: skip
@settings(max_examples=60)
def test_every_backend_agrees_with_the_reference(backend, dtype, n, h, w, c, seed, activation, training, add, affine):
    rng = np.random.default_rng(seed)
    x, dy, residual = (rng.normal(size=(n, h, w, c)).astype(dtype) for _ in range(3))
    parameters = drawn(rng, c, dtype)

    def run(on, kind):
        arrays = [a.astype(kind) for a in (x, *parameters, residual)]
        given = [gp.tensor(a, backend=on, requires_grad=i not in (3, 4)) for i, a in enumerate(arrays)]
        weight, bias = given[1:3] if affine else (None, None)
        y = F.batch_norm(
            given[0], *given[3:5], weight, bias, training=training, eps=0.1,
            activation=activation, residual=given[5] if add else None,
        )  # fmt: skip
        y.backward(dy.astype(kind))
        return [host(y), *(host(t.grad, on) for t in given if t.grad is not None), *(host(t) for t in given[3:5])]

    for got, expected in zip(run(backend, dtype), run(gp.get_backend("reference"), np.float64), strict=True):
        same(got, expected, {"float32": 2e-5, "float64": 1e-11})


@pytest.mark.parametrize("block", [1 << 17, numpy_norm.NORM_BLOCK])
def test_blocks_and_parts_give_the_moments_of_the_whole(rng, monkeypatch, block):
    monkeypatch.setattr(numpy_norm, "NORM_BLOCK", block)
    numpy, c = gp.get_backend("numpy"), 24
    x = (rng.normal(size=(40, 31, 33, c)) + 100 * np.arange(c)).astype(np.float32)
    assert x.size > block
    running = Moments(np.zeros(c, np.float32), np.zeros(c, np.float32))
    norm = BatchNorm(training=True, momentum=1.0, eps=0.0)
    y, saved = numpy.batch_norm_forward(x, None, None, running, norm, None)
    exact = x.reshape(-1, c).astype(np.float64)
    np.testing.assert_allclose(saved.mean, exact.mean(axis=0), rtol=3e-7, atol=1e-5)
    np.testing.assert_allclose(saved.variance, exact.var(axis=0), rtol=1e-5)
    dy = rng.normal(size=x.shape).astype(np.float32)
    wide = [a.astype(np.float64) for a in (dy, x)]
    reference = gp.get_backend("reference")
    moments = Moments(exact.mean(axis=0), exact.var(axis=0))
    expected = reference.batch_norm_backward(*wide, None, None, None, moments, norm)
    for got, theirs in zip(numpy.batch_norm_backward(dy, x, y, None, None, saved, norm)[:3], expected, strict=False):
        assert relative_error(got, theirs) < 1e-4  # of x - mean, whose mean is rounded to float32


def test_nan_stays_in_its_channel(backend, rng):
    x = rng.normal(size=(2, 3, 4, 3)).astype(np.float32)
    x[1, 2, 3, 0] = np.nan
    running = tensors(np.float32([[0, 0, 0], [1, 1, 1]]), backend)
    t = gp.tensor(x, backend=backend, requires_grad=True)
    y = F.batch_norm(t, *running, training=True, activation="relu")
    y.backward(np.ones(x.shape, np.float32))
    for a in (y.numpy(), host(t.grad, backend)):
        assert np.isnan(a[..., 0]).all()
        assert np.isfinite(a[..., 1:]).all()
    assert list(np.isnan(running[0].numpy())) == [True, False, False]


def test_running_moments_that_backward_needs_may_not_change_before_it(backend, rng):
    running = tensors(np.float32([[0, 0, 0], [1, 1, 1]]), backend)
    x = gp.tensor(rng.normal(size=(4, 3)).astype(np.float32), backend=backend, requires_grad=True)
    inferred = F.batch_norm(x, *running, training=False)
    trained = F.batch_norm(x, *running, training=True)
    again = F.batch_norm(x, *running, training=True)
    (trained + again).sum().backward()  # the batch's moments are its own
    with pytest.raises(RuntimeError, match="an update has overwritten"):
        inferred.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.ones(3)}, ValueError, r"x has shape \(3,\) but takes \(…, C\), at least 2 axes"),
        ({"weight": np.ones(4)}, ValueError, r"weight has shape \(4,\) but x \(2, 5, 3\) takes \(3,\)"),
        (
            {"running_var": np.ones((1, 3))},
            ValueError,
            r"running_var has shape \(1, 3\) but x \(2, 5, 3\) takes \(3,\)",
        ),
        ({"residual": np.ones((2, 5, 1))}, ValueError, r"residual has shape \(2, 5, 1\) but x \(2, 5, 3\)"),
        (
            {"x": np.ones((1, 3))},
            ValueError,
            r"train on at least 2 elements per channel, or call eval\(\); x \(1, 3\) has 1",
        ),
        ({"momentum": 1.5}, ValueError, "momentum is 1.5 but must be from 0 to 1"),
        ({"eps": -1.0}, ValueError, "eps is -1.0 but must be at least 0"),
        ({"activation": "gelu2"}, ValueError, "activation is 'gelu2' but takes one of relu"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_changes(backend, change, error, message):
    given = {
        "x": np.ones((2, 5, 3)), "weight": np.ones(3), "bias": np.ones(3),
        "running_mean": np.zeros(3), "running_var": np.ones(3),
    }  # fmt: skip
    options = {name: value for name, value in change.items() if not isinstance(value, np.ndarray)}
    arrays = {**given, **{name: value for name, value in change.items() if isinstance(value, np.ndarray)}}
    on = {name: gp.tensor(a.astype(np.float32), backend=backend) for name, a in arrays.items()}
    with pytest.raises(error, match=f"batch_norm: {message}"):
        F.batch_norm(**on, training=True, **options)
    np.testing.assert_array_equal(on["running_mean"].numpy(), 0)
    with pytest.raises(TypeError, match="batch_norm: running_mean takes a tensor, got ndarray"):
        F.batch_norm(on["x"], np.zeros(3), on["running_var"], training=True)


def test_inference_takes_one_element_or_none(backend):
    running = tensors(np.float32([[1, 2], [4, 4]]), backend)
    one = F.batch_norm(gp.tensor(np.float32([[3, 4]]), backend=backend), *running, training=False, eps=0.0)
    np.testing.assert_allclose(one.numpy(), [[1, 1]])
    none, weight = (gp.tensor(np.ones(s, np.float32), backend=backend, requires_grad=True) for s in ((0, 2), 2))
    y = F.batch_norm(none, *running, weight, training=False, activation="relu")
    y.backward(np.ones((0, 2), np.float32))
    assert y.shape == none.grad.shape == (0, 2)
    np.testing.assert_array_equal(host(weight.grad, backend), 0)


class Twins:
    """Two ranks, of which the other one has the same samples as this one: each sum is twice its terms."""

    rank, size, leads = 0, 2, True

    def __init__(self):
        self.sums = 0

    def gather(self, what, value):
        assert what == "GPUs"
        return [(None, "", "")] * 2  # so that sums go by way of the host

    def add(self, array):
        self.sums += 1
        array += array


def synchronised(backend, x, running, dy, *, training=True, **options):
    """(y, dx) of a batch norm that ranks share."""
    x = gp.tensor(x, backend=backend, requires_grad=True)
    y = F.batch_norm(x, *running, training=training, synchronised=True, **options)
    y.backward(dy)
    return host(y), host(x.grad, backend)


@pytest.fixture
def twins(monkeypatch):
    ranks = Twins()
    monkeypatch.setattr(F.norm, "world", lambda: ranks)
    return ranks


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "float64"])
def test_ranks_share_their_moments_in_every_dtype(backend, rng, twins, kind):
    if kind not in backend.dtypes:
        pytest.skip(f"{backend.name} computes in {', '.join(backend.dtypes)}")
    kind, wide = np.dtype(kind), np.dtype(np.float32 if kind in backend.narrow else kind)
    x, dy = (rng.normal(size=(3, 4, 5)).astype(kind) for _ in range(2))
    shared, own = (tensors(np.array([np.zeros(5), np.ones(5)], wide), backend) for _ in range(2))
    y, dx = synchronised(backend, x, shared, dy, activation="tanh")
    assert (y.dtype, dx.dtype, twins.sums) == (kind, kind, 3)
    twice = gp.tensor(np.concatenate([x, x]), backend=backend, requires_grad=True)
    whole = F.batch_norm(twice, *own, training=True, activation="tanh")
    whole.backward(np.concatenate([dy, dy]))
    allowed = {**tolerances.BACKENDS, **tolerances.NARROW}
    same(y, host(whole)[:3], allowed)
    same(dx, host(twice.grad, backend)[:3], allowed)
    for got, expected in zip(shared, own, strict=True):
        assert got.dtype == wide
        same(got.numpy(), expected.numpy(), allowed)


def test_ranks_share_moments_in_training_alone(backend, rng, twins):
    running = tensors(np.float32([[0, 0, 0], [1, 1, 1]]), backend)
    x = rng.normal(size=(4, 3)).astype(np.float32)
    y, _ = synchronised(backend, x, running, x, training=False, eps=0.0)
    np.testing.assert_allclose(y, x, rtol=1e-6)
    assert twins.sums == 0


@pytest.mark.parametrize(("rows", "total", "raises"), [(1, 1, True), (0, 1, True), (1, 2, False)])
def test_the_only_element_of_all_ranks_has_no_variance(backend, twins, rows, total, raises):
    x, running = np.float32([[1, 2]]), tensors(np.float32([[0, 0], [1, 1]]), backend)
    with computing(Share(None, 0, rows, total)):
        if raises:
            with pytest.raises(ValueError, match="train on at least 2 elements per channel"):
                synchronised(backend, x, running, x)
            assert twins.sums == 0
        else:
            y, dx = synchronised(backend, x, running, x)
            np.testing.assert_array_equal([*y, *dx], 0)
            np.testing.assert_allclose(running[0].numpy(), 0.1 * x[0], rtol=1e-6)


def test_a_batch_of_one_image_has_a_variance(backend, rng, twins):
    x, running = rng.normal(size=(1, 6, 2)).astype(np.float32), tensors(np.float32([[0, 0], [1, 1]]), backend)
    with computing(Share(None, 0, 1, 1)):
        y, _ = synchronised(backend, x, running, x)
    np.testing.assert_allclose(y.mean(axis=1), 0, atol=1e-6)
