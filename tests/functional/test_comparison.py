"""Comparisons and logic of their results, and Python's own functions on tensors."""

import operator

import numpy as np
import pytest
from helpers import host

import gpunet as gp
from gpunet import functional as F
from gpunet import nn

OPERATORS = (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge)
SPECIAL = np.array([0, -0.0, 1, -1, 2, np.nan, np.inf, -np.inf, 1e-30, 0.1], np.float32)


@pytest.mark.parametrize("f", OPERATORS)
def test_elements_are_compared_as_numpy_compares_them(backend, f):
    a, b = SPECIAL[:, None], SPECIAL
    x, y = gp.tensor(a, backend=backend, requires_grad=True), gp.tensor(b, backend=backend)
    for got, expected in (
        (f(x, y), f(a, b)),
        (f(x, b), f(a, b)),
        (f(a, y), f(a, b)),
        (f(x, b.tolist()), f(a, b)),
        (f(x, 1), f(a, 1)),
        (f(1.0, x), f(1.0, a)),
        (f(np.float64(0.1), y), f(np.float32(0.1), b)),  # numbers are rounded to the tensor's dtype
        (f(x, True), f(a, 1)),
        (f(x, x), f(a, a)),
        (f(x, np.array([0, 2] * 5)), f(a, np.array([0, 2] * 5))),
    ):
        assert isinstance(got, gp.Tensor)
        assert got.dtype == np.bool_
        assert not got.requires_grad
        np.testing.assert_array_equal(got.numpy(), expected)


@pytest.mark.parametrize("f", OPERATORS)
def test_integers_and_booleans_are_compared_exactly(backend, f):
    a, b = np.array([2**53 + 1, 2**24 + 1, -3, 0, 1]), np.array([2**53, 2**24, -3, 1, 1])
    x, y = (gp.tensor(n, dtype="int64", backend=backend) for n in (a, b))
    np.testing.assert_array_equal(f(x, y).numpy(), f(a, b))
    np.testing.assert_array_equal(f(x, b).numpy(), f(a, b))
    np.testing.assert_array_equal(f(a.astype(np.int16)[2:], y[2:]).numpy(), f(a[2:], b[2:]))
    few, floats, bits = np.array([1, 0, 2]), np.array([1.0, 0.5, 2.0]), np.array([True, False, True])
    small = gp.tensor(few, dtype="int32", backend=backend)
    np.testing.assert_array_equal(
        f(small, gp.tensor([1, 1, 2], dtype="int64", backend=backend)).numpy(), f(few, [1, 1, 2])
    )
    np.testing.assert_array_equal(f(small, 0.5).numpy(), f(few, 0.5))
    np.testing.assert_array_equal(f(small, floats).numpy(), f(few, floats))
    np.testing.assert_array_equal(f(gp.tensor(floats, dtype="float32", backend=backend), small).numpy(), f(floats, few))
    mask = gp.tensor(bits, dtype="bool", backend=backend)
    np.testing.assert_array_equal(f(mask, bits[::-1]).numpy(), f(bits, bits[::-1]))
    np.testing.assert_array_equal(f(mask, small).numpy(), f(bits, few))


def test_values_of_other_kinds_are_unequal_and_have_no_order(backend):
    x = gp.tensor([1.0, 2.0], backend=backend)
    for other in (None, "1", {}, object()):
        assert (x == other) is False
        assert (other == x) is False
        assert (x != other) is True
        with pytest.raises(TypeError, match="not supported between"):
            operator.lt(x, other)
    with pytest.raises(ValueError, match=r"equal: shapes \(2,\) and \(3,\) do not broadcast"):
        operator.eq(x, [1, 2, 3])
    elsewhere = gp.tensor([1.0, 2.0], backend="numpy" if backend.name == "reference" else "reference")
    with pytest.raises(
        gp.BackendError, match=rf"less: b is on {elsewhere.backend.name} but the other on {backend.name}"
    ):
        operator.lt(x, elsewhere)


def test_tensors_are_hashed_by_identity(backend):
    x, y = gp.tensor([1.0, 2.0], backend=backend), gp.tensor([1.0, 2.0], backend=backend)
    assert hash(x) != hash(y)
    assert {x: 1, y: 2} == {x: 1, y: 2}
    assert len({x, y, x}) == 2
    assert set(nn.Linear(2, 3).parameters()) != set()
    (x * [1, 2] + y).sum()
    layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert len({id(p) for p in layers.parameters()}) == 4


def test_logic_of_masks(backend):
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    x, y = gp.tensor(a, dtype="bool", backend=backend), gp.tensor(b, dtype="bool", backend=backend)
    for f in (operator.and_, operator.or_, operator.xor):
        for got in (f(x, y), f(x, b), f(a, y)):
            assert got.dtype == np.bool_
            np.testing.assert_array_equal(got.numpy(), f(a, b))
    np.testing.assert_array_equal((~x).numpy(), ~a)
    between = gp.tensor([-1.0, 0.5, 2.0], backend=backend)
    assert ((between > 0) & (between < 1)).numpy().tolist() == [False, True, False]
    with pytest.raises(TypeError, match="and: b is float32 but takes booleans, such as comparisons return"):
        operator.and_(x, between)
    with pytest.raises(TypeError, match="invert: x is float32 but takes booleans"):
        operator.invert(between)


def test_accuracies_are_means_of_comparisons(backend, rng):
    logits, labels = rng.normal(size=(49, 5)).astype(np.float32), rng.integers(0, 5, 49)
    t = gp.tensor(logits, backend=backend, requires_grad=True)
    right = t.argmax(-1) == labels
    np.testing.assert_array_equal(right.numpy(), logits.argmax(-1) == labels)
    assert right.sum().item() == (logits.argmax(-1) == labels).sum()
    np.testing.assert_allclose(right.mean().item(), (logits.argmax(-1) == labels).mean(), rtol=1e-6)
    assert (t.argmax(-1) == logits.argmax(-1)).mean().item() == 1  # not 0.99999994
    assert (gp.tensor(labels, dtype="int64", backend=backend) == labels.astype(np.uint8)).mean().item() == 1
    loss = F.cross_entropy(t, gp.tensor(labels, dtype="int64", backend=backend))
    np.testing.assert_allclose(loss.item(), F.cross_entropy(t, labels).item())


def test_masks_are_numbers_beside_floats_and_have_no_gradient(backend):
    x = gp.tensor([1.0, -2.0, 3.0], backend=backend, requires_grad=True)
    mask = x > 0
    for y, expected, slope in (
        (x * mask, [1, 0, 3], [1, 0, 1]),
        (mask * x, [1, 0, 3], [1, 0, 1]),
        (x + (x == 3), [1, -2, 4], [1, 1, 1]),
        (x * (1 - mask), [0, -2, 0], [0, 1, 0]),
        (x * x.argmax(), [2, -4, 6], [2, 2, 2]),
    ):
        x.zero_grad()
        assert y.dtype == np.float32
        assert y.numpy().tolist() == expected
        y.backward(np.ones(3, np.float32))
        assert host(x.grad, backend).tolist() == slope
    assert not (mask + mask).requires_grad
    assert (mask + mask).numpy().tolist() == [2, 0, 2]


# ---- Python's functions


def test_a_tensor_of_one_element_is_a_number(backend):
    for value in ([2.5], 2.5, [[2.5]]):
        t = gp.tensor(value, backend=backend)
        assert (float(t), int(t), t.item(), round(t), round(t * 1.111, 1), bool(t)) == (2.5, 2, 2.5, 2, 2.8, True)
        assert f"{t:.3f}" == "2.500"
        assert bool(t == 2.5)
        assert not t == 1  # noqa: SIM201 - the comparison itself
        if t > 1:
            continue
        pytest.fail("2.5 is more than 1")
    assert not gp.tensor(0.0, backend=backend)
    index = gp.tensor([0.0, 3.0, 1.0], backend=backend).argmax()
    assert isinstance(index.item(), int)
    assert [7, 8, 9][index] == 8
    assert list(range(index)) == [0]
    with pytest.raises(TypeError, match="an index takes an integer, got a tensor of float32"):
        [1, 2][gp.tensor(1.0, backend=backend)]


def test_a_tensor_of_more_elements_is_no_number(backend):
    t = gp.tensor([1.0, 2.0], backend=backend)
    with pytest.raises(TypeError, match=r"a tensor of shape \(2,\) is neither true nor false"):
        bool(t == t)
    for f in (float, int, round, lambda t: t.item(), lambda t: f"{t:.2f}"):
        with pytest.raises(ValueError, match=r"item: takes a tensor of one element, got shape \(2,\)"):
            f(t)
    assert str(t) == f"{t}" == repr(t)
    with pytest.raises(TypeError, match="len: a tensor without axes has no length"):
        iter(t.sum())
    assert 2 in t
    assert 3.0 not in t
    assert [row.item() for row in reversed(t)] == [2, 1]


def test_pythons_operators_take_tensors_on_either_side(backend, rng):
    x = rng.uniform(0.5, 2, (3, 3)).astype(np.float32)
    other = rng.uniform(0.5, 2, (3, 3)).astype(np.float32)
    t = gp.tensor(x, backend=backend)
    for f in (operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.matmul):
        for left, right in ((t, other), (other, t), (t, other.tolist()), (other.tolist(), t), (t, t)):
            expected = f(
                *(x if isinstance(side, gp.Tensor) else np.asarray(side, np.float32) for side in (left, right))
            )
            got = f(left, right)
            assert isinstance(got, gp.Tensor)
            np.testing.assert_allclose(got.numpy(), expected, rtol=2e-5)
    np.testing.assert_allclose((2**t).numpy(), 2**x, rtol=1e-6)
    np.testing.assert_allclose((t**2).numpy(), x * x, rtol=1e-6)
    np.testing.assert_array_equal(abs(-t).numpy(), x)
    np.testing.assert_array_equal((+t).numpy(), x)
    for f in (operator.floordiv, operator.mod, operator.lshift):
        with pytest.raises(TypeError, match="unsupported operand"):
            f(t, 2)
