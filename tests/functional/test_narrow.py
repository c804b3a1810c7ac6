"""Operations on tensors of 16 bits beside float32 parameters, and the conversion between dtypes."""

import numpy as np
import pytest
import tolerances
from helpers import relative_error

import gpunet as gp
from gpunet import functional as F
from gpunet import nn, optim
from gpunet.backends import get_backend

NARROW = ["bfloat16", "float16"]


def parameter_of(array, backend):
    made = gp.nn.Parameter(array, get_backend("numpy"))
    made.move(backend)
    return made


def values(tensor_or_array):
    array = tensor_or_array.numpy() if hasattr(tensor_or_array, "numpy") else tensor_or_array
    return np.asarray(array, np.float64)


def test_a_cast_gives_its_gradient_back_in_the_input_s_dtype(backend, dtype, rng):
    x = rng.normal(size=(3, 4)).astype(dtype)
    t = gp.tensor(x, backend=backend, requires_grad=True)
    other = "float32" if dtype == np.float64 else "bfloat16"
    y = F.cast(t, other)
    assert y.dtype == other
    np.testing.assert_array_equal(y.numpy(), x.astype(other))
    upstream = rng.normal(size=(3, 4)).astype(other)
    y.backward(upstream)
    assert t.grad.dtype == dtype
    np.testing.assert_array_equal(backend.to_numpy(t.grad), upstream.astype(dtype))
    assert F.cast(t, dtype) is t


def test_a_dtype_that_a_backend_does_not_compute_in_is_named(backend):
    with pytest.raises(TypeError, match=f"cast: complex64 is not computed on {backend.name}, which takes float"):
        F.cast(gp.tensor(np.ones(3, np.float32), backend=backend), "complex64")


@pytest.mark.parametrize("kept", [False, True], ids=["alone", "in an arena"])
@pytest.mark.parametrize("narrow", NARROW)
def test_parameters_are_rounded_and_their_gradients_are_not(cuda_backend, narrow, kept, rng):
    x, w = rng.normal(size=(5, 4)).astype(narrow), rng.normal(size=(4, 3)).astype(np.float32)
    b = rng.normal(size=3).astype(np.float32)
    weight, bias = parameter_of(w, cuda_backend), parameter_of(b, cuda_backend)
    if kept:
        optim.SGD([weight, bias], 0.1)
    t = gp.tensor(x, backend=cuda_backend, requires_grad=True)
    operations = {
        "linear": lambda: F.linear(t, weight, bias),
        "matmul and add": lambda: F.add(F.matmul(t, weight), bias),
    }

    def gradient(parameter):
        return cuda_backend.to_numpy(parameter.grad).astype(np.float64)

    upstream = rng.normal(size=(5, 3)).astype(narrow)
    wide, rounded = values(x), values(w.astype(narrow))
    for name, operation in operations.items():
        for p in (t, weight, bias):
            p.zero_grad()
        for times in (1, 2):  # the second contribution is added to the first
            y = operation()
            assert y.dtype == narrow, name
            assert relative_error(values(y), wide @ rounded + values(b)) <= 3 * tolerances.NARROW[narrow], name
            y.backward(upstream)
            assert (weight.dtype, weight.grad.dtype, bias.grad.dtype) == (np.float32,) * 3, name
            assert t.grad.dtype == narrow, name
            tolerance = 1e-6 if name == "linear" else tolerances.NARROW[narrow]
            assert relative_error(gradient(weight), times * wide.T @ values(upstream)) <= tolerance, name
            assert relative_error(gradient(bias), times * values(upstream).sum(0)) <= 1e-6, name


def test_a_parameter_before_its_input_is_rounded_too(cuda_backend, rng):
    p = parameter_of(rng.normal(size=3).astype(np.float32), cuda_backend)
    x = rng.normal(size=(2, 3)).astype("bfloat16")
    t = gp.tensor(x, backend=cuda_backend)
    assert (p * t).dtype == (t * p).dtype == "bfloat16"
    with pytest.raises(TypeError, match="multiply: b is float32 but the first tensor is bfloat16"):
        t * gp.tensor(np.ones(3, np.float32), backend=cuda_backend)


def test_backward_through_parameters_that_an_update_has_overwritten_raises(cuda_backend, rng):
    layer = nn.Linear(3, 2)
    optimizer = optim.SGD(layer.parameters(), 0.1)
    layer.to(cuda_backend)
    x = gp.tensor(rng.normal(size=(4, 3)).astype("bfloat16"), backend=cuda_backend, requires_grad=True)
    old, new = layer(x), layer(x)
    new.backward(np.ones(new.shape))
    optimizer.step()
    with pytest.raises(RuntimeError, match="an update has overwritten"):
        old.backward(np.ones(old.shape))


@pytest.mark.parametrize("narrow", NARROW)
def test_losses_are_float32(cuda_backend, narrow, rng):
    x = rng.normal(size=(6, 4)).astype(narrow)
    targets, labels = rng.uniform(size=(6, 4)).astype(narrow), rng.integers(0, 4, 6)
    weight = rng.uniform(0.5, 2, 4)
    losses = {
        "squares": lambda t: F.mse_loss(t, targets.astype(t.dtype)),
        "sigmoid": lambda t: F.binary_cross_entropy_with_logits(t, targets.astype(np.float32)),
        "softmax": lambda t: F.cross_entropy(t, labels, weight=weight, label_smoothing=0.1),
    }
    for name, loss in losses.items():
        results = []
        for backend, kind in (("reference", np.float64), (cuda_backend, narrow)):
            t = gp.tensor(x.astype(kind), backend=backend, requires_grad=True)
            y = loss(t)
            y.backward()
            results.append((y, t.backend.to_numpy(t.grad)))
        (expected, expected_grad), (y, grad) = results
        assert (y.dtype, grad.dtype) == (np.float32, np.dtype(narrow)), name
        assert relative_error(values(y), values(expected)) <= 2 * tolerances.NARROW[narrow], name
        assert relative_error(values(grad), expected_grad) <= 4 * tolerances.NARROW[narrow], name


PICKED = np.array([[True, False, True, True], [False, True, True, False], [True, True, False, True]])
CHOICES = {
    "where": (lambda x, y: F.where(x > y, x, y * 2), 1),
    "where with a number": (lambda x, y: F.where(PICKED, x, 0.5) + y, 2),
    "maximum": (F.maximum, 1),
    "minimum": (lambda x, y: F.minimum(x, y), 1),
    "clip": (lambda x, y: F.clip(x, -0.5, 0.75) + y, 2),
    "a mask": (lambda x, y: x * (y > 0) + y, 2),
    "picked by a mask": (lambda x, y: x[PICKED] + y[0, 0], 2),
    "picked rows": (lambda x, y: x[[2, 0, 2, 2]] + y[[0], [1]], 3),
    "stacked": (lambda x, y: F.stack([x, y], 1), 1),
    "a product of batches": (lambda x, y: F.stack([x, y]) @ F.stack([y, x]).transpose(0, 2, 1), 4),
    "a power": (lambda x, y: (abs(x) + 0.5) ** y, 8),
    "0 to the power of 0": (lambda x, y: (x * 0) ** (y * 0), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("narrow", NARROW)
def test_choices_of_16_bits_and_their_gradients(cuda_backend, narrow, name, rng):
    f, roundings = CHOICES[name]
    x, y = (rng.normal(size=(3, 4)).astype(narrow) for _ in range(2))
    results = []
    for backend, kind in ((cuda_backend, narrow), (get_backend("reference"), np.float64)):
        given = [gp.tensor(v.astype(kind), backend=backend, requires_grad=True) for v in (x, y)]
        result = f(*given)
        assert result.dtype == kind
        upstream = np.random.default_rng(1).normal(size=result.shape).astype(narrow)
        result.backward(upstream.astype(kind))
        results.append([values(result), *(values(backend.to_numpy(t.grad)) for t in given)])
    for got, expected in zip(*results, strict=True):
        allowed = roundings * tolerances.NARROW[narrow]
        assert np.abs(got - expected).max() <= allowed * max(1.0, np.abs(expected).max())
