"""What may become numbers of a tensor: everything else is refused in one line, wherever it comes in."""

from datetime import date
from fractions import Fraction

import numpy as np
import pytest

import gpunet as gp
from gpunet import data, nn
from gpunet import functional as F

MASKED = np.ma.array([[1.0, 2.0], [3.0, 4.0]], mask=[[0, 1], [0, 0]])
REFUSED = {
    "a masked array": (MASKED, "masked array, whose mask would be lost"),
    "a masked array without a mask": (np.ma.ones((2, 2)), "masked array"),
    "a list of masked rows": ([MASKED[0], MASKED[1]], "masked array"),
    "a list with a masked element": ([[1.0, np.ma.masked], [3.0, 4.0]], "masked array"),
    "masked integers": (np.ma.array([[0, 1], [1, 0]], mask=True), "masked array"),
    "complex numbers": (np.ones((2, 2), np.complex64), "complex numbers"),
    "a list of complex numbers": ([[1j, 2], [3, 4]], "complex numbers"),
    "objects": (np.array([[1, None], [2, 3]], object), "objects (NoneType)"),
    "None in a list": ([[1.0, None], [2.0, 3.0]], "objects (NoneType)"),
    "text": (np.array([["1", "2"], ["3", "4"]]), "text"),
    "text in a list": ([["1.5", "2"], ["3", "4"]], "text"),
    "bytes": (np.array([[b"1", b"2"], [b"3", b"4"]]), "bytes"),
    "dates": (np.array([["2020-01-01", "2020-01-02"]] * 2, "M8[D]"), "dates"),
    "spans of time": (np.ones((2, 2), "m8[s]"), "spans of time"),
    "dates of Python": ([[date(2020, 1, 1)] * 2] * 2, "objects (date)"),
    "records": (np.zeros((2, 2), [("a", "f4")]), "records"),
    "integers beyond any dtype": ([[2**70, 1], [2, 3]], "objects (int too large for any dtype)"),
}
RAGGED = [[1.0, 2.0], [3.0]]
NUMBERS = {
    "complex": (2 + 1j, "complex"),
    "complex of NumPy": (np.complex64(2 + 1j), "complex"),
    "a span of time": (np.timedelta64(2, "s"), "spans of time"),
    "a date": (np.datetime64("2020-01-01"), "dates"),
    "None": (None, "None"),
    "a set": ({1, 2}, "set"),
    "a dictionary": ({"a": 1}, "dict"),
    "an object": (object(), "object"),
}


def one_line(caught, *parts):
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize("name", REFUSED)
def test_a_tensor_is_made_of_real_numbers(backend, name):
    value, said = REFUSED[name]
    with pytest.raises(TypeError) as caught:
        gp.tensor(value, backend=backend)
    one_line(caught, "tensor: data is ", said)
    with pytest.raises(TypeError) as caught:
        gp.tensor(value, dtype="float32", backend=backend)
    one_line(caught, "tensor: data is ", said)
    with pytest.raises(TypeError) as caught:
        backend.asarray(value, np.float32)
    one_line(caught, "asarray: data is ", said)


OPERATIONS = {
    "add": (lambda x, v: x + v, "add: b"),
    "from the left": (lambda x, v: F.multiply(v, x), "multiply: a"),
    "a power": (lambda x, v: x**v, "power: b"),
    "a product": (lambda x, v: x @ v, "matmul: b"),
    "maximum": (lambda x, v: F.maximum(x, v), "maximum: b"),
    "a comparison": (lambda x, v: x < v, "less: b"),
    "equality": (lambda x, v: x == v, "equal: b"),
    "where": (lambda x, v: F.where(x > 0, x, v), "where: b"),
    "a condition": (lambda x, v: F.where(v, x, x), "where: condition"),
    "joining": (lambda x, v: F.concatenate([x, v]), "concatenate: a part"),
    "stacking": (lambda x, v: F.stack([x, v]), "stack: a part"),
    "backward": (lambda x, v: (x * 1).backward(v), "backward: grad"),
    "backward of a leaf": (lambda x, v: x.backward(v), "backward: grad"),
    "an index": (lambda x, v: x[v], "index: an array"),
    "filters": (lambda x, v: F.linear(x, v), "linear: weight"),
    "labels": (lambda x, v: F.cross_entropy(x, v), "cross_entropy: labels"),
    "labels of a focal loss": (lambda x, v: F.focal_loss(x, v), "focal_loss: labels"),
    "one hot labels": (lambda x, v: F.one_hot(v, 2, backend=x.backend), "one_hot: labels"),
    "pairs": (lambda x, v: F.contrastive_loss(x, x, v), "contrastive_loss: same"),
    "a layer's input": (lambda x, v: nn.Linear(2, 2).to(x.backend)(v), "tensor: data"),
}  # fmt: skip


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operands_labels_and_indices_are_real_numbers(backend, operation):
    f, begins = OPERATIONS[operation]
    x = gp.tensor(np.ones((2, 2), np.float32), backend=backend, requires_grad=True)
    for name, (value, said) in REFUSED.items():
        with pytest.raises(TypeError) as caught:
            f(x, value)
        text = str(caught.value)
        assert text.startswith((begins, "weights: data", "asarray: data")), (name, text)
        one_line(caught, said if "an array must be" not in text else "must be")
    if operation != "filters":
        with pytest.raises(ValueError, match="nested sequences of unequal lengths"):
            f(x, RAGGED)


@pytest.mark.parametrize("name", NUMBERS)
def test_an_operand_that_is_no_number_is_refused(backend, name):
    value, said = NUMBERS[name]
    x = gp.tensor([1.0, 2.0], backend=backend)
    for f in (lambda: x * value, lambda: F.subtract(value, x), lambda: F.maximum(x, value), lambda: x @ value):
        with pytest.raises(TypeError) as caught:
            f()
        one_line(caught, said)


def test_numbers_of_any_kind_that_are_real_are_taken(backend):
    x = gp.tensor([1.0, 2.0], backend=backend)
    for two in (2, 2.0, np.float64(2), np.int8(2), np.uint64(2), np.array(2), np.float16(2)):
        assert (x * two).numpy().tolist() == [2, 4]
        assert (two * x).numpy().tolist() == [2, 4]
    for one in (True, np.True_, np.array(True)):
        assert (x + one).numpy().tolist() == [2, 3]
    assert (x * np.array([1, 2], ">f4")).numpy().tolist() == [1, 4]  # bytes of another order
    assert (x * np.float64(1e300)).numpy().tolist() == [np.inf, np.inf]
    assert (x * np.array([1e300, -1e300])).numpy().tolist() == [np.inf, -np.inf]
    with pytest.raises(ValueError, match="multiply: b is an integer beyond what a float holds"):
        x * 10**400
    with pytest.raises(TypeError, match="Fraction"):
        x * Fraction(1, 2)


def test_other_libraries_arrays_of_real_numbers_are_taken_and_sparse_ones_refused(backend):
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match="tensor: data is of objects"):
        gp.tensor(sparse.csr_matrix(np.eye(3)), backend=backend)
    torch = pytest.importorskip("torch")
    assert gp.tensor(torch.ones(2, 3), backend=backend).shape == (2, 3)
    with pytest.raises(TypeError, match="complex numbers"):
        gp.tensor(torch.ones(2, dtype=torch.complex64), backend=backend)


def test_a_matrix_of_numpy_becomes_a_plain_array(backend):
    with np.errstate(all="ignore"):
        matrix = np.array([[1.0, 2.0], [3.0, 4.0]]).view(np.matrix)
    x = gp.tensor(matrix, dtype="float32", backend=backend)
    assert (x * x).numpy().tolist() == [[1, 4], [9, 16]]
    assert (x * matrix).numpy().tolist() == [[1, 4], [9, 16]]


def test_data_sets_refuse_masked_arrays():
    with pytest.raises(TypeError, match="ArrayDataset: array 0 is a masked array"):
        data.ArrayDataset(np.ma.ones((3, 2)), np.arange(3))


def test_masks_and_labels_are_tensors_without_a_gradient(backend):
    for dtype in ("bool", "int32", "int64"):
        t = gp.tensor([1, 0, 1], dtype=dtype, backend=backend)
        assert t.dtype == np.dtype(dtype)
        assert t.numpy().tolist() == [1, 0, 1]
        with pytest.raises(TypeError, match=f"requires_grad takes a float dtype, got {dtype}"):
            gp.tensor([1, 0, 1], dtype=dtype, backend=backend, requires_grad=True)
    with pytest.raises(TypeError, match="requires_grad takes a float dtype, got int64"):
        nn.Parameter(gp.autograd.parameter([1, 2], dtype="int64").data, gp.get_backend("numpy"))
    with pytest.raises(TypeError, match="tensor: uint8 is not computed on"):
        gp.tensor([1], dtype="uint8", backend=backend)
