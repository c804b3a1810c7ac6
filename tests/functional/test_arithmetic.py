"""Operators, reductions and movement agree with NumPy, and their gradients with finite differences."""

import numpy as np
import pytest
import tolerances
from helpers import apart, check_gradients, gradients, host, same

import gpunet as gp
from gpunet import functional as F

BROADCASTS = [((3, 4), (3, 4)), ((2, 3, 4), (4,)), ((2, 3, 4), (3, 1)), ((1, 4), (3, 1)), ((3, 4), ()), ((), (2, 3)),
              ((2, 1, 4), (5, 1)), ((1,), (1, 1))]  # fmt: skip
OPERATORS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "power": lambda a, b: a**b,
}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(("left", "right"), BROADCASTS)
def test_operators_broadcast_as_numpys_and_so_do_their_gradients(backend, dtype, rng, operator, left, right):
    f = OPERATORS[operator]
    a, b = rng.uniform(0.5, 2, left), rng.uniform(0.5, 2, right)
    y = f(gp.tensor(a, dtype=dtype, backend=backend), gp.tensor(b, dtype=dtype, backend=backend))
    same(y.numpy(), f(a.astype(dtype), b.astype(dtype)), tolerances.ORACLE)
    check_gradients(f, (a, b), backend=backend, rng=rng)


@pytest.mark.parametrize("operator", ["add", "subtract", "multiply", "divide"])
def test_operators_take_numbers_and_host_arrays_on_either_side(backend, dtype, rng, operator):
    f = OPERATORS[operator]
    x = rng.uniform(0.5, 2, (3, 4)).astype(dtype)
    t = gp.tensor(x, backend=backend)
    for other in (2, 0.5, np.float32(3), rng.uniform(1, 2, 4).astype(dtype), [1.0, 2.0, 3.0, 4.0], True):
        plain = np.asarray(other)
        for y, expected in ((f(t, other), f(x, plain)), (f(other, t), f(plain, x))):
            assert isinstance(y, gp.Tensor)
            assert y.dtype == dtype
            same(y.numpy(), expected, tolerances.ORACLE)


def test_gradients_of_operators_with_numbers(backend, rng):
    x = apart(rng, (3, 4)) + 2
    cases = [
        lambda x: 3 - x, lambda x: x - 3, lambda x: 2 / x, lambda x: x / 2, lambda x: x**3, lambda x: x**-0.5,
        lambda x: -x, lambda x: 2 * x + x * x, lambda x: x**2,
    ]  # fmt: skip
    for f in cases:
        check_gradients(f, [x], backend=backend, rng=rng)


def test_the_gradient_of_a_power_of_zero(backend):
    for exponent, slope in ((1, 1), (2, 0), (3, 0)):
        x = gp.tensor([0.0, 2.0], backend=backend, requires_grad=True)
        (x**exponent).backward(np.ones(2, np.float32))
        np.testing.assert_allclose(host(x.grad, backend), [slope, exponent * 2 ** max(exponent - 1, 0)])


UNARY = {
    "exp": (F.exp, np.exp), "log": (F.log, np.log), "sqrt": (F.sqrt, np.sqrt), "abs": (F.abs, np.abs),
    "method exp": (lambda x: x.exp(), np.exp), "method log": (lambda x: x.log(), np.log),
    "method sqrt": (lambda x: x.sqrt(), np.sqrt), "method abs": (lambda x: x.abs(), np.abs),
    "negative": (lambda x: -x, np.negative),
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_unary_operations_and_their_gradients(backend, dtype, rng, name):
    f, oracle = UNARY[name]
    for shape in ((3, 4), ()):
        x = rng.uniform(0.1, 3, shape)
        if "abs" in name or "exp" in name or name == "negative":
            x = x * rng.choice([-1, 1], shape)
        y = f(gp.tensor(x, dtype=dtype, backend=backend))
        same(y.numpy(), oracle(x.astype(dtype)), tolerances.ORACLE)
        check_gradients(f, [x], backend=backend, rng=rng)


def test_the_gradient_of_the_absolute_value_is_0_at_0(backend):
    x = gp.tensor([-2.0, 0.0, 3.0], backend=backend, requires_grad=True)
    F.abs(x).backward(np.array([1, 1, 1], np.float32))
    np.testing.assert_array_equal(host(x.grad, backend), [-1, 0, 1])


AXES = [None, 0, -1, (0, 2), (2, -3), (1,), ()]


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("name", ["sum", "mean", "max"])
def test_reductions_and_their_gradients(backend, dtype, rng, name, axis, keepdims):
    x = apart(rng, (3, 2, 4))
    numpys = {"sum": np.sum, "mean": np.mean, "max": np.max}[name]
    for f in (
        lambda x: getattr(F, name)(x, axis=axis, keepdims=keepdims),
        lambda x: getattr(x, name)(axis, keepdims),
    ):
        y = f(gp.tensor(x, dtype=dtype, backend=backend))
        same(y.numpy(), numpys(x.astype(dtype), axis=axis, keepdims=keepdims), tolerances.ORACLE)
    check_gradients(f, [x], backend=backend, rng=rng)


def test_max_along_an_axis_sends_the_gradient_to_the_first_of_equals_and_nan_wins(backend):
    x = gp.tensor([[1.0, 3.0, 3.0], [np.nan, 5.0, np.nan]], backend=backend, requires_grad=True)
    y = F.max(x, axis=1)
    np.testing.assert_array_equal(y.numpy(), [3, np.nan])
    y.backward(np.array([1, 2], np.float32))
    np.testing.assert_array_equal(host(x.grad, backend), [[0, 1, 0], [2, 0, 0]])


def test_sums_in_float32_keep_their_precision(backend):
    x = np.full((1000, 1000), 0.1, np.float32)
    for axis in (None, 0, 1):
        y = F.sum(gp.tensor(x, backend=backend), axis=axis).numpy()
        np.testing.assert_allclose(y, x.astype(np.float64).sum(axis=axis), rtol=2e-5)


def test_matmul_and_its_gradients(backend, dtype, rng):
    a, b = rng.normal(size=(5, 7)), rng.normal(size=(7, 3))
    y = gp.tensor(a, dtype=dtype, backend=backend) @ gp.tensor(b, dtype=dtype, backend=backend)
    same(y.numpy(), a.astype(dtype) @ b.astype(dtype), tolerances.ORACLE)
    check_gradients(F.matmul, (a, b), backend=backend, rng=rng)
    check_gradients(lambda a, b: a.T @ b, (a.T.copy(), b), backend=backend, rng=rng)


MOVES = {
    "reshape": (lambda x: F.reshape(x, 4, 6), lambda x: x.reshape(4, 6)),
    "reshape with -1": (lambda x: x.reshape((2, -1)), lambda x: x.reshape(2, -1)),
    "flatten": (F.flatten, lambda x: x.reshape(3, 8)),
    "transpose": (F.transpose, np.transpose),
    "transpose with axes": (lambda x: x.transpose(1, -1, 0), lambda x: x.transpose(1, -1, 0)),
    "T": (lambda x: x.T, lambda x: x.T),
    "integer": (lambda x: x[1], lambda x: x[1]),
    "negative integer": (lambda x: x[-1, :, -2], lambda x: x[-1, :, -2]),
    "slices": (lambda x: x[1:, :, ::2], lambda x: x[1:, :, ::2]),
    "a reversed slice": (lambda x: x[::-1, :, -1:0:-2], lambda x: x[::-1, :, -1:0:-2]),
    "ellipsis": (lambda x: x[..., 1], lambda x: x[..., 1]),
    "ellipsis alone": (lambda x: x[...], lambda x: x[...]),
    "new axes": (lambda x: x[:, None, 1, ..., None], lambda x: x[:, None, 1, ..., None]),
    "an element": (lambda x: x[2, 1, 3], lambda x: x[2, 1, 3]),
    "rows": (lambda x: x[[2, 0, 2, -1]], lambda x: x[[2, 0, 2, -1]]),
    "an array of rows": (lambda x: x[np.array([1, 1])], lambda x: x[np.array([1, 1])]),
}


@pytest.mark.parametrize("name", MOVES)
def test_movement_and_its_gradients(backend, dtype, rng, name):
    f, oracle = MOVES[name]
    x = rng.normal(size=(3, 2, 4)).astype(dtype)
    np.testing.assert_array_equal(f(gp.tensor(x, backend=backend)).numpy(), oracle(x))
    check_gradients(f, [x], backend=backend, rng=rng)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concatenate_and_its_gradients(backend, dtype, rng, axis):
    arrays = []
    for n in (2, 1, 3):
        shape = [3, 2, 4]
        shape[axis] = n
        arrays.append(rng.normal(size=shape).astype(dtype))
    joined = F.concatenate([gp.tensor(a, backend=backend) for a in arrays], axis=axis)
    np.testing.assert_array_equal(joined.numpy(), np.concatenate(arrays, axis))
    check_gradients(lambda *a: F.concatenate(a, axis=axis), arrays, backend=backend, rng=rng)


def test_iterating_gives_the_rows(backend):
    x = gp.tensor([[1.0, 2.0], [3.0, 4.0]], backend=backend)
    assert len(x) == 2
    assert [row.numpy().tolist() for row in x] == [[1, 2], [3, 4]]


def test_arithmetic_passes_nan(backend):
    x = gp.tensor([1.0, np.nan, 2.0], backend=backend, requires_grad=True)
    expected = [False, True, False]
    for f in (lambda x: x + 1, lambda x: x * 0, lambda x: 1 / x, lambda x: x**2, F.exp, F.log, F.sqrt, F.abs):
        y = f(x)
        np.testing.assert_array_equal(np.isnan(y.numpy()), expected)
    for f in (F.sum, F.mean, F.max):
        assert np.isnan(f(x).item())
    upstream = np.array([np.nan, 1, 1], np.float32)
    _, (grad,) = gradients(lambda x: x * 2, [[1, 2, 3]], lambda _: upstream, backend=backend, dtype="float32")
    np.testing.assert_array_equal(np.isnan(grad), [True, False, False])


MISTAKES = {
    "add": (lambda x: x + np.ones((2, 4)), ValueError, "add: shapes (3, 4) and (2, 4) do not broadcast"),
    "multiply": (lambda x: x * "a", TypeError, "takes a tensor, an array or a number, got str"),
    "dtype": (
        lambda x: x + gp.tensor(np.ones(4, np.float64), backend=x.backend),
        TypeError,
        "add: b is float64 but the first tensor is float32",
    ),
    "matmul": (
        lambda x: x @ np.ones((3, 4)),
        ValueError,
        "matmul: takes (…, M, K) and (…, K, P), got a (3, 4) and b (3, 4)",
    ),
    "matmul of a vector": (
        lambda x: x @ np.ones(3),
        ValueError,
        "matmul: takes (…, M, K) and (…, K, P), got a (3, 4) and b (3,)",
    ),
    "matmul of batches": (
        lambda x: np.ones((2, 2, 3)) @ F.stack([x, x, x]),
        ValueError,
        "got a (2, 2, 3) and b (3, 3, 4), whose first axes do not broadcast",
    ),
    "matmul of a number": (lambda x: x @ 2.0, ValueError, "got a (3, 4) and b ()"),
    "reshape": (lambda x: x.reshape(5, 2), ValueError, "reshape: 12 elements of shape (3, 4) do not fill (5, 2)"),
    "reshape twice -1": (lambda x: x.reshape(-1, -1), ValueError, "reshape: 12 elements of shape (3, 4) do not fill"),
    "reshape remainder": (
        lambda x: x.reshape(5, -1),
        ValueError,
        "reshape: 12 elements of shape (3, 4) do not fill (5, -1)",
    ),
    "transpose": (
        lambda x: x.transpose(0, 0),
        ValueError,
        "transpose: axes (0, 0) are no order of the 2 axes of (3, 4)",
    ),
    "sum axis": (lambda x: x.sum(2), ValueError, "sum: axis is 2 but the tensor has 2 axes"),
    "mean axis": (lambda x: x.mean((0, 0)), ValueError, "mean: axis (0, 0) names an axis twice"),
    "max axis": (lambda x: x.max("a"), ValueError, "max: axis is a but the tensor has 2 axes"),
    "nothing to join": (lambda x: F.concatenate([]), ValueError, "concatenate: takes at least one tensor, got none"),
    "concatenate": (
        lambda x: F.concatenate([x, x[:2]], axis=1),
        ValueError,
        "concatenate: shapes (3, 4), (2, 4) differ in more than axis 1",
    ),
    "index": (lambda x: x[3], IndexError, "index: 3 does not fit axis 0 of (3, 4)"),
    "index axis": (lambda x: x[..., -5], IndexError, "index: -5 does not fit axis 1 of (3, 4)"),
    "too many": (lambda x: x[0, 0, 0], IndexError, "names 3 axes of a tensor of shape (3, 4)"),
    "two ellipses": (lambda x: x[..., ...], IndexError, "of a tensor of shape (3, 4)"),
    "float index": (
        lambda x: x[1.0],
        TypeError,
        "index: takes integers, slices, None, … and arrays of integers or booleans, got 1.0",
    ),
    "floats": (lambda x: x[np.ones(3)], TypeError, "index: an array must be of integers or booleans, got float64"),
    "mask": (lambda x: x[np.array([True, False])], IndexError, "index: boolean index did not match"),
    "rows": (lambda x: x[[0, 3]], IndexError, "index: index 3 is out of bounds for axis 0 with size 3"),
    "rows and columns": (lambda x: x[[0, 1], [0, 1, 2]], IndexError, "index: shape mismatch"),
    "too many arrays": (lambda x: x[[0], [0], [0]], IndexError, "index: too many indices"),
    "text index": (lambda x: x["a"], TypeError, "index: takes integers, slices, None"),
    "masked index": (
        lambda x: x[np.ma.array([0, 1], mask=[0, 1])],
        TypeError,
        "index: an array is a masked array, whose mask would be lost",
    ),
    "length": (lambda x: len(x.sum()), TypeError, "len: a tensor without axes has no length"),
    "flatten": (lambda x: F.flatten(x.sum()), ValueError, "flatten: x has no axes but takes at least one"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_in_one_line(name, backend):
    f, kind, message = MISTAKES[name]
    if name == "dtype" and "float64" not in backend.dtypes:
        pytest.skip(f"{backend.name} computes in one dtype")
    with pytest.raises(kind) as caught:
        f(gp.tensor(np.ones((3, 4), np.float32), backend=backend))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tensors_of_two_backends_do_not_mix(backend):
    other = gp.get_backend("numpy" if backend.name == "reference" else "reference")
    here, there = gp.tensor([1.0, 2.0], backend=backend), gp.tensor([1.0, 2.0], backend=other)
    for f in (lambda a, b: a + b, lambda a, b: F.concatenate([a, b])):
        with pytest.raises(gp.BackendError, match=rf"is on {other.name} but .* on {backend.name}; use \.to"):
            f(here, there)

    def ones(*shape):
        return np.ones(shape, np.float32)

    with pytest.raises(gp.BackendError, match=f"conv2d: weight is on {other.name} but x on {backend.name}"):
        F.conv2d(gp.tensor(ones(1, 3, 3, 1), backend=backend), gp.tensor(ones(2, 2, 1, 1), backend=other))
