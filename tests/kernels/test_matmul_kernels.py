import numpy as np
import pytest

from gpunet.backends.contract import Activation, Gate, Product

EXTENTS = [(1, 1, 1), (7, 9, 5), (64, 64, 64), (65, 33, 66), (130, 17, 10), (20, 100, 84), (12, 8, 136), (3, 400, 16)]


@pytest.mark.parametrize("extents", EXTENTS, ids=str)
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_every_transpose_agrees_with_numpy(device_backend, extents, transpose_a, transpose_b, normal, agrees):
    m, k, p = extents
    a, b = normal(m, k), normal(k, p)
    stored = (np.ascontiguousarray(x.T) if turned else x for x, turned in ((a, transpose_a), (b, transpose_b)))
    got = device_backend.matmul(*map(device_backend.asarray, stored), Product(transpose_a, transpose_b))
    agrees(got, a.astype(np.float64) @ b)


@pytest.mark.parametrize("activation", [None, Activation("relu"), Activation("tanh")], ids=str)
@pytest.mark.parametrize("p", [10, 68])
def test_bias_and_activation_are_fused(device_backend, reference, activation, p, normal, agrees):
    a, b, bias = normal(37, 20), normal(20, p), normal(p)
    expected = reference.matmul(a, b, Product(bias=bias, activation=activation))
    on = device_backend.asarray
    agrees(device_backend.matmul(on(a), on(b), Product(bias=on(bias), activation=activation)), expected)


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("p", [10, 68])
def test_the_gate_opens_a(device_backend, reference, transpose_a, p, normal, agrees):
    gate = Gate(np.tanh(normal(36, 20)), Activation("tanh"))
    a, b = normal(36, 20), normal(36 if transpose_a else 20, p)
    on = device_backend.asarray
    got = device_backend.matmul(on(a), on(b), Product(transpose_a, gate=Gate(on(gate.y), gate.activation)))
    agrees(got, reference.matmul(a, b, Product(transpose_a, gate=gate)))


@pytest.mark.parametrize("p", [10, 68])
def test_a_product_accumulates(device_backend, p, normal, agrees):
    a, b, y = normal(37, 20), normal(20, p), normal(37, p)
    on = device_backend.asarray
    out = on(y)
    assert device_backend.matmul(on(a), on(b), Product(out=out, add=True)) is out
    agrees(out, y + a @ b)
    device_backend.matmul(on(a), on(b), Product(out=out))
    agrees(out, a @ b)
    agrees(device_backend.matmul(on(a), on(b), Product(add=True)), a @ b)  # without an `out`, the product alone


def test_unaligned_operands(device_backend, normal, agrees):
    flat, b = normal(1 + 24 * 16), normal(16, 20)
    a = device_backend.asarray(flat)[1:].reshape(24, 16)
    agrees(device_backend.matmul(a, device_backend.asarray(b)), flat[1:].reshape(24, 16) @ b)


def test_nan_reaches_its_row(device_backend, normal, agrees):
    a, b = normal(6, 20), normal(20, 20)
    a[2, 5] = np.nan
    on = device_backend.asarray
    got = device_backend.matmul(on(a), on(b), Product(activation=Activation("relu")))
    agrees(got, np.where(a @ b <= 0, 0, a @ b))


def test_bad_operands_are_refused(device_backend, normal):
    on = device_backend.asarray
    a, b = on(normal(3, 4)), on(normal(4, 5))
    with pytest.raises(ValueError, match="meet in axes of 4 and 5"):
        device_backend.matmul(a, b, Product(transpose_b=True))
    with pytest.raises(ValueError, match="only a product without bias and activation can be added"):
        Product(out=on(normal(3, 5)), bias=on(normal(5)), add=True)
    with pytest.raises(ValueError, match="out has shape"):
        device_backend.matmul(a, b, Product(out=on(normal(5, 3))))
    with pytest.raises(TypeError, match="float64 but CUDA computes in float32"):
        device_backend.matmul(a, on(np.zeros((4, 5))))
