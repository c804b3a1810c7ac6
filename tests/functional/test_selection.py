"""where, maximum, minimum, clip, reductions other than sum, squeeze and stack agree with NumPy."""

import numpy as np
import pytest
import tolerances
from helpers import apart, check_gradients, gradients, host, same

import gpunet as gp
from gpunet import functional as F

SHAPES = [((3, 4), (3, 4)), ((2, 3, 4), (4,)), ((1, 4), (3, 1)), ((3, 4), ()), ((), (2, 3))]


@pytest.mark.parametrize(("left", "right"), SHAPES)
@pytest.mark.parametrize("condition", [(), (4,), (3, 1), None])
def test_where_chooses_and_sends_each_gradient_to_what_was_chosen(backend, dtype, rng, left, right, condition):
    a, b = rng.normal(size=left), rng.normal(size=right)
    shape = np.broadcast_shapes(left, right) if condition is None else condition
    try:
        np.broadcast_shapes(left, right, shape)
    except ValueError:
        shape = ()
    mask = rng.integers(0, 2, shape) > 0
    x, y = (gp.tensor(v, dtype=dtype, backend=backend) for v in (a, b))
    for given in (mask, gp.tensor(mask, dtype="bool", backend=backend), mask.tolist()):
        got = F.where(given, x, y)
        np.testing.assert_array_equal(got.numpy(), np.where(mask, a, b).astype(dtype))
    check_gradients(lambda x, y: F.where(mask, x, y), (a, b), backend=backend, rng=rng)


def test_where_takes_numbers_and_arrays(backend):
    x = gp.tensor([-1.0, 2.0, -0.0], backend=backend)
    assert F.where(x > 0, x, 0).numpy().tolist() == [0, 2, 0]
    assert F.where(x > 0, [1, 2, 3], x).numpy().tolist() == [-1, 2, 0]
    made = F.where(x > 0, 1, 0)
    assert (made.dtype, made.numpy().tolist()) == (np.float32, [0, 1, 0])
    assert F.where(True, x, 5).numpy().tolist() == [-1, 2, 0]
    assert np.signbit(F.where(x > 1, 1, x).numpy()).tolist() == [True, False, True]
    with pytest.raises(TypeError, match="where: condition is float32 but takes booleans, such as x > 0 returns"):
        F.where(x, 1, 2)
    with pytest.raises(TypeError, match="where: takes at least one tensor"):
        F.where([True], 1, 2)
    with pytest.raises(
        ValueError, match=r"where: shapes of condition, a and b \(2,\), \(3,\) and \(\) do not broadcast"
    ):
        F.where([True, False], x, 2)
    other = gp.get_backend("numpy" if backend.name == "reference" else "reference")
    with pytest.raises(gp.BackendError, match=rf"where: condition is on {other.name} but a or b on {backend.name}"):
        F.where(gp.tensor([1, 2, 3], backend=other) > 0, x, 2)


@pytest.mark.parametrize(("left", "right"), SHAPES)
@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_the_larger_and_the_smaller_and_their_gradients(backend, dtype, rng, name, left, right):
    both = apart(rng, (int(np.prod(left) + np.prod(right)),))
    a, b = both[: int(np.prod(left))].reshape(left), both[int(np.prod(left)) :].reshape(right)
    f = getattr(F, name)
    got = f(*(gp.tensor(v, dtype=dtype, backend=backend) for v in (a, b)))
    np.testing.assert_array_equal(got.numpy(), getattr(np, name)(a, b).astype(dtype))
    check_gradients(f, (a, b), backend=backend, rng=rng)


def test_equals_share_the_gradient_and_nan_wins(backend):
    a, b = [1, 1, 2, np.nan, 1, np.inf], [1, 2, 1, 1, np.nan, np.inf]
    for f, of_a in ((F.maximum, [0.5, 0, 1, 1, 1, 0.5]), (F.minimum, [0.5, 1, 0, 1, 1, 0.5])):
        y, (da, db) = gradients(f, (a, b), lambda s: np.ones(s, np.float32), backend=backend, dtype="float32")
        assert np.isnan(y).tolist() == [False] * 3 + [True] * 2 + [False]
        assert da.tolist() == of_a
        assert db.tolist() == [1 if np.isnan(u) or np.isnan(v) else 1 - s for u, v, s in zip(a, b, of_a, strict=True)]
        x = gp.tensor([1.0, -2.0], backend=backend, requires_grad=True)
        f(x, x).backward([3.0, 4.0])
        assert host(x.grad, backend).tolist() == [3, 4]


def test_clip(backend, dtype, rng):
    x = apart(rng, (3, 4), 0.3)
    for low, high in ((-0.5, 0.7), (None, 0.2), (0.1, None), (-np.inf, 0.3), (1, -1)):
        got = F.clip(gp.tensor(x, dtype=dtype, backend=backend), low, high)
        np.testing.assert_array_equal(got.numpy(), np.clip(x.astype(dtype), low, high).astype(dtype))
        check_gradients(lambda x, low=low, high=high: x.clip(min=low, max=high), [x], backend=backend, rng=rng)
    _, (grad,) = gradients(
        lambda x: x.clip(-1, 2), [[-2, -1, 0, 2, 3, np.nan]], lambda s: np.full(s, 3), backend=backend, dtype="float32"
    )
    assert grad.tolist() == [0, 3, 3, 3, 0, 0]  # the limits are inside, as PyTorch has it
    t = gp.tensor([1.0], backend=backend)
    with pytest.raises(ValueError, match="clip: takes min, max or both, got neither"):
        t.clip()
    for limit in (t, [1.0], 1j, "1"):
        with pytest.raises(TypeError, match="clip: max takes a number or None, got"):
            t.clip(0, limit)


AXES = [None, 0, -1, (0, 2), (2, -3), (1,)]


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("keepdims", [False, True])
def test_minima_variances_and_positions(backend, dtype, rng, axis, keepdims):
    x = apart(rng, (3, 2, 4), 0.1)
    t = gp.tensor(x, dtype=dtype, backend=backend)
    x = x.astype(dtype)
    cases = {
        "min": (lambda t: t.min(axis, keepdims), x.min(axis=axis, keepdims=keepdims)),
        "var": (lambda t: t.var(axis, keepdims), x.astype("f8").var(axis=axis, keepdims=keepdims, ddof=1)),
        "std": (lambda t: t.std(axis, keepdims), x.astype("f8").std(axis=axis, keepdims=keepdims, ddof=1)),
        "var of all": (
            lambda t: F.var(t, axis, keepdims, correction=0),
            x.astype("f8").var(axis=axis, keepdims=keepdims),
        ),
        "std of half": (
            lambda t: F.std(t, axis, keepdims, correction=0.5),
            x.astype("f8").std(axis=axis, keepdims=keepdims, ddof=0.5),
        ),
    }
    for f, expected in cases.values():
        same(f(t).numpy(), np.asarray(expected), tolerances.ORACLE)
        check_gradients(f, [x], backend=backend, rng=rng)
    if not isinstance(axis, tuple):
        for name in ("argmax", "argmin"):
            for got in (getattr(t, name)(axis, keepdims), getattr(F, name)(t, axis=axis, keepdims=keepdims)):
                assert (got.dtype, got.requires_grad) == (np.int64, False)
                np.testing.assert_array_equal(got.numpy(), getattr(np, name)(x, axis=axis, keepdims=keepdims))


def test_positions_are_of_the_first_and_nan_is_first_of_all(backend):
    x = np.array([[1, 3, 3, 0, 0], [2, np.nan, 5, np.nan, 1], [-np.inf, np.inf, -np.inf, np.inf, 0]], np.float32)
    t = gp.tensor(x, backend=backend, requires_grad=True)
    assert t.argmax(1).numpy().tolist() == [1, 1, 1]
    assert t.argmin(1).numpy().tolist() == [3, 1, 0]
    assert t.argmax((0, 1)).item() == 6
    np.testing.assert_array_equal(t.min(1).numpy(), [0, np.nan, -np.inf])
    t.min(1).backward([1, 2, 3])
    assert host(t.grad, backend).tolist() == [[0, 0, 0, 1, 0], [0, 2, 0, 0, 0], [3, 0, 0, 0, 0]]
    assert (t > 2).argmax(1).numpy().tolist() == [1, 2, 1]
    assert gp.tensor(4.0, backend=backend).argmax().item() == 0


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e10, 1e30])
@pytest.mark.parametrize("offset", [0.0, 1e4, -3e5])
def test_the_spread_of_numbers_far_from_zero_or_of_one(backend, rng, scale, offset):
    x = ((rng.normal(size=(50, 7)) + offset) * scale).astype(np.float32)
    t = gp.tensor(x, backend=backend, requires_grad=True)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(t.std(0).numpy(), exact.std(axis=0, ddof=1), rtol=1e-5)
    variance = exact.var(axis=0, ddof=1).astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        expected = variance.astype(np.float32)
    np.testing.assert_allclose(t.var(0).numpy(), np.where(expected < 1.2e-38, 0, expected), rtol=1e-5)
    t.std(0).backward(np.ones(7, np.float32))
    slope = (exact - exact.mean(axis=0)) / (49 * exact.std(axis=0, ddof=1))
    np.testing.assert_allclose(host(t.grad, backend), slope, rtol=1e-4, atol=1e-6)


def test_the_spread_of_equal_or_too_few_numbers(backend):
    x = gp.tensor([[5.0, 5.0, 5.0]], backend=backend, requires_grad=True)
    (x.std(1) + x.var(1)).sum().backward()
    assert host(x.grad, backend).tolist() == [[0, 0, 0]]
    assert np.isnan(x.var(0).numpy()).all()
    assert np.isnan(x.std(0).numpy()).all()
    assert x.var(0, correction=0).numpy().tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="var: correction is 4 but must be a number up to that of elements, 3"):
        x.var(1, correction=4)


def test_a_mean_of_ones_is_one(backend):
    for n in (3, 7, 49, 1000, 4093):
        assert gp.tensor(np.ones(n, np.float32), backend=backend).mean().item() == 1


MOVES = {
    "squeeze": (F.squeeze, lambda x: x.squeeze()),
    "squeeze one": (lambda x: x.squeeze(1), lambda x: x.squeeze(1)),
    "squeeze the last": (lambda x: x.squeeze(-1), lambda x: x.squeeze(-1)),
    "squeeze two": (lambda x: x.squeeze((1, -1)), lambda x: x.squeeze((1, -1))),
    "unsqueeze": (lambda x: x.unsqueeze(0), lambda x: x[None]),
    "unsqueeze the end": (lambda x: F.unsqueeze(x, -1), lambda x: x[..., None]),
    "unsqueeze between": (lambda x: x.unsqueeze(2), lambda x: x[:, :, None]),
    "stack": (lambda x: F.stack([x, 2 * x, x]), lambda x: np.stack([x, 2 * x, x])),
    "stack at the end": (lambda x: F.stack((x, -x), axis=-1), lambda x: np.stack([x, -x], -1)),
    "stack between": (lambda x: F.stack([x, x * x], 1), lambda x: np.stack([x, x * x], 1)),
    "stack with an array": (lambda x: F.stack([np.ones((3, 1, 4, 1)), x]), lambda x: np.stack([np.ones_like(x), x])),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_squeeze_and_unsqueeze_remove_and_add_axes_of_extent_one(backend, dtype, rng, name):
    f, oracle = MOVES[name]
    x = rng.normal(size=(3, 1, 4, 1)).astype(dtype)
    np.testing.assert_array_equal(f(gp.tensor(x, backend=backend)).numpy(), oracle(x))
    check_gradients(f, [x], backend=backend, rng=rng)


MISTAKES = {
    "squeeze": (lambda x: x.squeeze(0), ValueError, "squeeze: axis 0 of shape (2, 3, 4) is not of extent 1"),
    "unsqueeze": (lambda x: x.unsqueeze(4), ValueError, "unsqueeze: axis is 4 but the tensor has 4 axes"),
    "unsqueeze by two": (lambda x: x.unsqueeze((0, 1)), TypeError, "unsqueeze: axis takes an integer, got (0, 1)"),
    "stack": (lambda x: F.stack([x, x[:1]]), ValueError, "stack: takes one shape, got (2, 3, 4), (1, 3, 4)"),
    "stack of nothing": (lambda x: F.stack([]), ValueError, "stack: takes at least one tensor, got none"),
    "stack of a tensor": (lambda x: F.stack(x), TypeError, "stack: takes a list or tuple of tensors, got Tensor"),
    "stack of None": (lambda x: F.stack([x, None]), TypeError, "stack: a part is of objects (NoneType)"),
    "concatenate by two": (lambda x: F.concatenate([x, x], (0, 1)), TypeError, "concatenate: axis takes an integer"),
    "concatenate by None": (lambda x: F.concatenate([x, x], None), TypeError, "concatenate: axis takes an integer, got None"),
    "concatenate beyond": (lambda x: F.concatenate([x, x], -4), ValueError, "concatenate: axis is -4 but"),
    "transpose of too many": (lambda x: x.transpose(1, 2, 3), ValueError, "transpose: axes (1, 2, 3) are no order of the 3"),
    "transpose of one behind": (lambda x: x.transpose(0, 1, -4), ValueError, "are no order of the 3 axes"),
    "transpose of one twice": (lambda x: x.transpose(0, 1, -2), ValueError, "are no order of the 3 axes"),
    "transpose of too few": (lambda x: x.transpose(1, 0), ValueError, "are no order of the 3 axes"),
    "transpose of more": (lambda x: x.transpose(0, 1, 2, 2), ValueError, "are no order of the 3 axes"),
    "transpose of none": (lambda x: x.transpose(()), ValueError, "are no order of the 3 axes"),
    "transpose of floats": (lambda x: x.transpose(0.0, 1, 2), ValueError, "are no order of the 3 axes"),
    "transpose of booleans": (lambda x: x.transpose(False, True, 2), ValueError, "are no order of the 3 axes"),
    "transpose without axes": (lambda x: x.sum().transpose(0), ValueError, "are no order of the 0 axes"),
    "sum of a float": (lambda x: x.sum(1.5), ValueError, "sum: axis is 1.5 but the tensor has 3 axes"),
    "sum of a boolean": (lambda x: x.sum(True), ValueError, "sum: axis is True but the tensor has 3 axes"),
    "min beyond": (lambda x: x.min(3), ValueError, "min: axis is 3 but the tensor has 3 axes"),
    "var twice": (lambda x: x.var((0, -3)), ValueError, "var: axis (0, -3) names an axis twice"),
    "argmax beyond": (lambda x: x.argmax(-4), ValueError, "argmax: axis is -4 but the tensor has 3 axes"),
    "reshape to floats": (lambda x: x.reshape(2.0, 12), TypeError, "reshape: takes integers, got (2.0, 12)"),
    "max of nothing": (lambda x: x[:0].max(0), ValueError, "max: axes (0,) of shape (0, 3, 4) hold no elements"),
    "argmin of nothing": (lambda x: x[:0].argmin(), ValueError, "argmin: axes (0, 1, 2) of shape (0, 3, 4) hold no elements"),
    "std of nothing": (lambda x: x[:, :0].std(1), ValueError, "std: axes (1,) of shape (2, 0, 4) hold no elements"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_axis_is_named_in_one_line(backend, name):
    f, kind, message = MISTAKES[name]
    with pytest.raises(kind) as caught:
        f(gp.tensor(np.ones((2, 3, 4), np.float32), backend=backend))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reductions_of_empty_tensors_without_results_are_empty(backend):
    x = gp.tensor(np.ones((0, 3), np.float32), backend=backend)
    assert x.max(1).shape == x.min(1).shape == x.argmax(1).shape == x.var(1).shape == (0,)
    assert x.sum(0).numpy().tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["min", "max"])
def test_a_limit_beyond_all_floats_is_named(backend, name):
    with pytest.raises(ValueError, match=f"clip: {name} is an integer beyond what a float holds"):
        gp.tensor([1.0], backend=backend).clip(**{name: 10**400})


@pytest.mark.parametrize("name", ["max", "min"])
@pytest.mark.parametrize("axis", [None, (0, 2), (1,)])
def test_equal_extremes_of_several_axes_share_the_gradient(backend, rng, name, axis):
    values = rng.integers(0, 2, (2, 3, 4)).astype(np.float32)  # with many equal elements
    values[0, 1, 2] = np.nan
    x = gp.tensor(values, backend=backend, requires_grad=True)
    y = getattr(x, name)(axis)
    upstream = rng.normal(size=y.shape).astype(np.float32)
    y.backward(upstream)
    extreme = getattr(np, name)(values, axis=axis, keepdims=True)
    chosen = (values == extreme) | (np.isnan(values) & np.isnan(extreme))
    expected = chosen * upstream.reshape(extreme.shape) / chosen.sum(axis=axis, keepdims=True)
    np.testing.assert_allclose(backend.to_numpy(x.grad), expected, rtol=1e-6)
