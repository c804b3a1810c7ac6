"""Matrix products of batches and vectors: NumPy says what they are."""

import numpy as np
import pytest
import tolerances
from helpers import check_gradients, same

import gpunet as gp
from gpunet import functional as F
from gpunet import nn, optim

SHAPES = [
    ((5, 7), (7, 3)), ((7,), (7,)), ((7,), (7, 3)), ((5, 7), (7,)), ((2, 5, 7), (7, 3)), ((2, 5, 7), (7,)),
    ((7,), (2, 7, 3)), ((5, 7), (2, 7, 3)), ((2, 5, 7), (2, 7, 3)), ((1, 5, 7), (4, 7, 3)), ((4, 5, 7), (1, 7, 3)),
    ((2, 1, 5, 7), (3, 7, 4)), ((3, 5, 7), (2, 1, 7, 4)), ((2, 3, 5, 7), (2, 3, 7, 4)), ((2, 3, 5, 7), (7, 4)),
    ((2, 3, 1, 7), (2, 3, 7, 1)), ((1, 1), (1, 1)), ((2, 5, 1), (2, 1, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_products_broadcast_as_numpys_and_so_do_their_gradients(backend, dtype, rng, left, right):
    a, b = rng.normal(size=left), rng.normal(size=right)
    x, y = (gp.tensor(v, dtype=dtype, backend=backend) for v in (a, b))
    expected = np.asarray(a.astype(dtype).astype("f8") @ b.astype(dtype).astype("f8"))
    for got in (x @ y, F.matmul(x, b.astype(dtype)), a.astype(dtype) @ y, a.astype(dtype).tolist() @ y):
        assert got.shape == expected.shape
        same(got.numpy(), expected, tolerances.ORACLE)
    check_gradients(F.matmul, (a, b), backend=backend, rng=rng)


@pytest.mark.parametrize(
    ("left", "right"),
    [((0, 5, 7), (0, 7, 3)), ((2, 0, 7), (2, 7, 3)), ((2, 5, 0), (2, 0, 3)), ((0, 7), (7, 3)), ((0,), (0,))],
)
def test_products_of_nothing(backend, left, right):
    a, b = (gp.tensor(np.ones(s, np.float32), backend=backend, requires_grad=True) for s in (left, right))
    y = a @ b
    np.testing.assert_array_equal(y.numpy(), np.ones(left, np.float32) @ np.ones(right, np.float32))
    y.backward(np.ones(y.shape, np.float32))
    assert (tuple(a.grad.shape), tuple(b.grad.shape)) == (left, right)


def test_attention_of_several_heads(backend, dtype, rng):
    q, k, v = (rng.normal(size=(2, 3, 5, 4)) for _ in range(3))

    def attend(q, k, v):
        return F.softmax((q @ k.transpose(0, 1, 3, 2)) * 0.5) @ v

    scores = np.exp(np.einsum("bhid,bhjd->bhij", q, k) / 2)
    expected = np.einsum("bhij,bhjd->bhid", scores / scores.sum(-1, keepdims=True), v)
    got = attend(*(gp.tensor(t, dtype=dtype, backend=backend) for t in (q, k, v)))
    same(got.numpy(), expected, {"float64": 1e-12, "float32": 2e-6})
    if "float64" in backend.dtypes:
        check_gradients(attend, (q, k, v), backend=backend, rng=rng)


def test_a_product_takes_at_least_one_tensor():
    with pytest.raises(TypeError, match="matmul: takes at least one tensor"):
        F.matmul(np.ones((2, 2)), np.ones((2, 2)))


def test_gradients_add_up_where_only_the_first_operand_is_in_an_arena(backend, rng):
    layer = nn.Linear(3, 4, bias=False).to(backend)
    optim.SGD(layer.parameters(), lr=0.1)
    b = gp.tensor(rng.normal(size=(4, 5)).astype(np.float32), backend=backend, requires_grad=True)
    dy = rng.normal(size=(3, 5)).astype(np.float32)
    for _ in range(2):
        F.matmul(layer.weight, b).backward(dy)
    for grad, expected in ((layer.weight.grad, dy @ b.numpy().T), (b.grad, layer.weight.numpy().T @ dy)):
        np.testing.assert_allclose(backend.to_numpy(grad), 2 * expected, rtol=1e-5)
