from dataclasses import replace

import numpy as np
import pytest
from recording import recording_backend

from gpunet.backends.contract import Activation, BatchNorm, Into, Moments

SHAPES = [
    (2, 9, 7, 8),  # channels by four
    (3, 5, 4, 3),
    (1, 6, 11, 132),  # 33 groups of four: a second block of them, nearly empty
    (41, 10),
    (4, 2, 1, 35),
    (3, 41, 37, 4),  # five splits of the rows, the last one shorter
    (5, 1),
]
ACTIVATIONS = [
    None, Activation("relu"), Activation("leaky_relu", 0.2), Activation("sigmoid"), Activation("tanh"),
    Activation("elu", alpha=0.7), Activation("relu6"), Activation("hard_tanh", min_val=-0.5, max_val=0.8),
    Activation("hard_sigmoid"),
]  # fmt: skip
TRAINING = BatchNorm(training=True)


@pytest.fixture
def both(device_backend, reference, agrees):
    """Runs a primitive on the reference and on the device; asserts that results and changed arrays agree."""

    def run(primitive, *arrays, tolerance=5e-6):
        def on(value):
            if isinstance(value, tuple):
                return type(value)(*map(on, value))
            return device_backend.asarray(value.copy()) if isinstance(value, np.ndarray) else value

        given = [on(a) for a in arrays]
        with np.errstate(all="ignore"):
            expected = getattr(reference, primitive)(*arrays)
        got = getattr(device_backend, primitive)(*given)
        for mine, theirs in zip(flat(got), flat(expected), strict=True):
            assert (mine is None) == (theirs is None)
            if theirs is not None:
                agrees(mine, theirs, tolerance)
        for mine, theirs in zip(flat(given), flat(arrays), strict=True):
            if isinstance(theirs, np.ndarray):
                agrees(mine, theirs, tolerance)
        return expected

    return run


def flat(results):
    return [a for r in results for a in (r if isinstance(r, tuple) else (r,))]


@pytest.fixture
def of_channels(rng):
    """Weight, bias and running moments."""

    def make(c):
        drawn = rng.normal(size=(3, c)), rng.uniform(0.5, 2, (1, c))
        weight, bias, *running = np.concatenate(drawn).astype(np.float32)
        return weight, bias, Moments(*running)

    return make


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_agrees_with_the_reference(both, of_channels, normal, shape, training):
    activation = ACTIVATIONS[(len(shape) + shape[-1]) % len(ACTIVATIONS)]
    x, dy, parameters = 2 * normal(*shape) + 3, normal(*shape), of_channels(shape[-1])
    norm = BatchNorm(training, momentum=0.3, activation=activation)
    y, saved = both("batch_norm_forward", x, *parameters, norm, None)
    both("batch_norm_backward", dy, x, y, *parameters[:2], saved, norm, tolerance=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("scale", [1.0, 1e-8], ids=["scale 1", "so small that float16 rounds it to 0"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("c", [16, 7])
def test_the_sign_of_the_output_found_again_is_that_which_is_read(
    device_backend, of_channels, normal, dtype, scale, affine, c
):
    on = device_backend.asarray
    x, dy = (on((normal(30, c) + 1).astype(np.dtype(dtype))) for _ in range(2))
    weight, bias, running = of_channels(c)
    given = (on(scale * weight), on(scale * bias)) if affine else (None, None)
    norm = BatchNorm(training=True, activation=Activation("relu"))
    y, saved = device_backend.batch_norm_forward(x, *given, Moments(*map(on, running)), norm, None)
    unread = y if device_backend.simple else on(np.full(y.shape, np.nan, np.dtype(dtype)))
    found = device_backend.batch_norm_backward(dy, x, unread, *given, saved, norm)
    reads = replace(norm, residual=True)  # for then y does not follow from x
    read = device_backend.batch_norm_backward(dy, x, y, *given, saved, reads)
    for name, mine, theirs in zip(("dx", "dw", "db"), found, read, strict=False):
        np.testing.assert_array_equal(device_backend.to_numpy(mine), device_backend.to_numpy(theirs), name)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a and a.name)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("c", [8, 7])
def test_a_residual_is_added_before_the_activation(both, of_channels, normal, activation, training, c):
    x, residual, dy, parameters = normal(3, 4, 5, c), normal(3, 4, 5, c), normal(3, 4, 5, c), of_channels(c)
    norm = BatchNorm(training, eps=1e-3, activation=activation, residual=True)
    y, saved = both("batch_norm_forward", x, *parameters, norm, residual)
    *_, dresidual = both("batch_norm_backward", dy, x, y, *parameters[:2], saved, norm)
    assert activation is not None or dresidual is dy


def test_weight_and_bias_may_be_absent(both, of_channels, normal):
    x, (_, _, running) = normal(5, 6, 8), of_channels(8)
    for given in ((None, None), (normal(8), None), (None, normal(8))):
        y, saved = both("batch_norm_forward", x, *given, Moments(*(a.copy() for a in running)), TRAINING, None)
        both("batch_norm_backward", normal(5, 6, 8), x, y, *given, saved, TRAINING)


@pytest.mark.parametrize("add", [False, True])
def test_gradients_of_parameters_go_where_they_are_wanted(both, of_channels, normal, device_backend, add):
    x, dy, parameters = normal(5, 6, 8), normal(5, 6, 8), of_channels(8)
    _, saved = both("batch_norm_forward", x, *parameters, TRAINING, None)
    both("batch_norm_backward", dy, x, None, *parameters[:2], saved, TRAINING, Into(normal(8), normal(8), add=add))
    on = device_backend.asarray
    out = on(normal(8))
    got = device_backend.batch_norm_backward(
        on(dy), on(x), None, None, None, Moments(*map(on, saved)), TRAINING, Into(bias=out)
    )
    assert got[2] is out


@pytest.mark.parametrize("c", [8, 5])
def test_nan_stays_in_its_channel(both, of_channels, normal, c):
    x, dy, parameters = normal(3, 4, 5, c), normal(3, 4, 5, c), of_channels(c)
    x[1, 2, 3, 0] = np.nan
    dy[0, 1, 2, 1] = np.nan
    norm = BatchNorm(training=True, activation=Activation("tanh"))
    y, saved = both("batch_norm_forward", x, *parameters, norm, None)
    dx, dw, *_ = both("batch_norm_backward", dy, x, y, *parameters[:2], saved, norm)
    assert np.isnan(y[..., 0]).all()
    assert np.isnan(dx[..., :2]).all()
    assert np.isfinite(dx[..., 2:]).all()
    assert list(np.isnan(dw[:3])) == [True, True, False]


def test_a_mean_far_from_zero_costs_no_variance(device_backend, rng):
    """Squares less the square of the mean would leave nothing: 1e4^2 has 8 digits, float32 7."""
    x = (rng.normal(size=(600, 8)) + 1e4).astype(np.float32)
    x[0] = 3e4  # nor does an outlier that came first
    on = device_backend.asarray
    running = Moments(on(np.zeros(8, np.float32)), on(np.ones(8, np.float32)))
    norm = BatchNorm(training=True, momentum=1.0)
    _, saved = device_backend.batch_norm_forward(on(x), None, None, running, norm, None)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(device_backend.to_numpy(saved.mean), exact.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(device_backend.to_numpy(saved.variance), exact.var(axis=0), rtol=1e-4)
    np.testing.assert_allclose(device_backend.to_numpy(running.variance), exact.var(axis=0, ddof=1), rtol=1e-4)


@pytest.mark.parametrize("shift", [0, 1])
def test_any_alignment_is_taken(device_backend, reference, shift, normal, agrees):
    whole, on = normal(shift + 360), device_backend.asarray
    x = whole[shift:].reshape(45, 8)
    running = Moments(np.zeros(8, np.float32), np.ones(8, np.float32))
    given = on(whole)[shift:].reshape(45, 8)
    y, _ = device_backend.batch_norm_forward(given, None, None, Moments(*map(on, running)), TRAINING, None)
    agrees(y, reference.batch_norm_forward(x, None, None, running, TRAINING, None)[0])


def test_more_elements_of_a_channel_than_32_bits_count_are_refused():
    backend = recording_backend()
    x, one = backend.arrays.empty((2**31, 1), np.float16), backend.arrays.empty((1,), np.float32)
    with pytest.raises(ValueError, match=r"fewer than 2\^31 elements of a channel, got x \(2147483648, 1\)"):
        backend.batch_norm_forward(x, None, None, Moments(one, one), BatchNorm(training=True), None)
