"""Indexing selects as NumPy does, and gradients are added up at the selected places."""

import numpy as np
import pytest
from helpers import host

import gpunet as gp
from gpunet import functional as F

MASK = np.array([[True, False, True, False], [False, False, True, True], [True, True, False, False]])
KEYS = {
    "a mask of all axes but one": MASK,
    "a mask of one axis": np.array([True, False, True]),
    "a mask as a list": [True, False, True],
    "a mask of nothing": np.zeros(3, bool),
    "a mask of everything": np.ones((3, 4, 5), bool),
    "a mask behind a slice": (slice(None), np.array([True, False, True, True])),
    "a mask beside an integer": (MASK, 2),
    "a mask beside rows": (MASK, [0, 1, 4, 4, 2, 1]),
    "a mask before an ellipsis": (MASK, ...),
    "a mask after an ellipsis": (..., np.array([True, False, True, False, True])),
    "True": True,
    "False": False,
    "True beside a slice": (np.True_, slice(1, 3)),
    "rows": [2, 0, 2, -1],
    "rows and columns": ([0, 2, 0], [1, -1, 1]),
    "rows and columns of all axes": ([0, 2, 0], [1, 3, 1], [4, 0, 4]),
    "rows beside a slice": ([1, 1], slice(None, None, 2)),
    "columns alone": (slice(None), [3, 3, 0]),
    "a slice between arrays": ([0, 1], slice(1, 3), [2, 2]),
    "an integer between arrays": ([0, 1], 2, [2, 2]),
    "arrays around a slice and a new axis": ([0, 1], None, slice(1, 3), [2, 2]),
    "a new axis and columns": (None, slice(None), [1, 0]),
    "arrays that broadcast": ([[0], [2]], [1, 3, 3]),
    "an array of two axes": np.array([[0, 1, 2], [2, 2, 0]]),
    "a reversed slice": ([1, 2], slice(None, None, -1)),
    "an ellipsis between": ([1, 0], ..., [2, 2]),
    "whole axes behind": ([1, 0], slice(None), ...),
    "nothing": [],
    "nothing of an axis": (slice(None), []),
    "nothing as an array": np.zeros(0, np.int8),
    "nothing of two axes": np.zeros((2, 0), np.int64),
    "a range": range(2),
    "a range of nothing": range(0),
    "an integer as an array": np.array(1),
    "an integer of NumPy": np.uint8(2),
    "an unsigned array": np.array([2, 0], np.uint64),
}


@pytest.mark.parametrize("name", KEYS)
def test_indices_select_as_numpy_does_and_their_gradients_add_up(backend, rng, name):
    key, x = KEYS[name], rng.normal(size=(3, 4, 5)).astype(np.float32)
    numpys = np.asarray(key, np.int64) if isinstance(key, range) else key
    t = gp.tensor(x, backend=backend, requires_grad=True)
    y = t[key]
    np.testing.assert_array_equal(y.numpy(), x[numpys])
    assert y.dtype == np.float32
    upstream = rng.integers(-99, 100, y.shape).astype(np.float32)  # whose sums are exact
    y.backward(upstream)
    expected = np.zeros(x.size)
    np.add.at(expected, np.arange(x.size).reshape(x.shape)[numpys], upstream)
    np.testing.assert_array_equal(host(t.grad, backend), expected.reshape(x.shape))


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("rows", [7, 128, 200, 256, 300, 40000, 70000])
def test_narrow_integers_index_long_axes(backend, rng, kind, rows):
    x = np.arange(rows, dtype=np.float32)
    largest = min(np.iinfo(kind).max, rows - 1)
    picked = np.array([0, 1, largest, largest // 2, largest], kind)
    if kind[0] == "i":
        picked = np.concatenate([picked, np.array([-1, -2, -min(rows, -int(np.iinfo(kind).min))], kind)])
    t = gp.tensor(x, backend=backend, requires_grad=True)
    y = t[picked]
    expected = [float(int(i) % rows) for i in picked]
    assert y.numpy().tolist() == expected
    y.sum().backward()
    np.testing.assert_array_equal(host(t.grad, backend), np.bincount(np.array(expected, int), minlength=rows))
    place = gp.tensor(x.reshape(-1, 1), backend=backend)[picked, picked.astype(kind) * 0]
    assert place.numpy().tolist() == expected


def test_arrays_of_the_backend_and_tensors_are_indices(backend, rng):
    x = rng.normal(size=(5, 4)).astype(np.float32)
    t = gp.tensor(x, backend=backend)
    rows, mask = np.array([4, 0, 4]), x > 0
    for key in (backend.asarray(rows), gp.tensor(rows, dtype="int64", backend=backend), gp.tensor(rows, dtype="int32")):
        np.testing.assert_array_equal(t[key].numpy(), x[rows])
        np.testing.assert_array_equal(t[key, 1].numpy(), x[rows, 1])
        np.testing.assert_array_equal(t[:, 1:3][key].numpy(), x[:, 1:3][rows])
    for key in (backend.asarray(mask), t > 0, gp.tensor(mask, dtype="bool", backend=backend)):
        np.testing.assert_array_equal(t[key].numpy(), x[mask])
    best = t.argmax(axis=1)
    np.testing.assert_array_equal(t[np.arange(5), best].numpy(), x.max(axis=1))
    np.testing.assert_array_equal(t[best[0], best[1]].numpy(), x[x[0].argmax(), x[1].argmax()])
    assert [10, 20, 30, 40][best[0]] == [10, 20, 30, 40][x[0].argmax()]


def test_a_loss_by_indexing_equals_cross_entropy(backend, rng):
    logits, labels = rng.normal(size=(6, 4)).astype(np.float32), rng.integers(0, 4, 6)
    one, other = (gp.tensor(logits, backend=backend, requires_grad=True) for _ in range(2))
    picked = -F.log_softmax(one)[np.arange(6), labels].mean()
    expected = F.cross_entropy(other, labels)
    np.testing.assert_allclose(picked.item(), expected.item(), rtol=1e-6)
    picked.backward()
    expected.backward()
    np.testing.assert_allclose(host(one.grad, backend), host(other.grad, backend), rtol=1e-5, atol=1e-7)


def test_masks_and_integers_stay_what_they_are_when_they_are_moved(backend):
    labels = gp.tensor([[3, 1], [2, 0]], dtype="int64", backend=backend)
    mask = labels > 1
    for moved, expected in (
        (labels[[1, 0]], [[2, 0], [3, 1]]),
        (labels.T, [[3, 2], [1, 0]]),
        (labels.reshape(4), [3, 1, 2, 0]),
        (labels[:, ::-1], [[1, 3], [0, 2]]),
        (F.concatenate([labels, labels]), [[3, 1], [2, 0], [3, 1], [2, 0]]),
        (F.stack([labels, labels], -1), [[[3, 3], [1, 1]], [[2, 2], [0, 0]]]),
        (labels[mask], [3, 2]),
        (labels[0].unsqueeze(0).squeeze(), [3, 1]),
    ):
        assert moved.dtype == np.int64
        assert moved.numpy().tolist() == expected
    both = F.concatenate([mask, labels], 1)
    assert (both.dtype, both.numpy().tolist()) == (np.int64, [[1, 0, 3, 1], [1, 0, 2, 0]])
    for host_array in (np.array([[0.5, 1.5]]), np.array([[2, 3]])):
        with pytest.raises(TypeError, match="concatenate: argument 1 is .* but the first tensor is bool"):
            F.concatenate([mask, host_array])
    assert F.one_hot(labels[1], 3, backend=backend).numpy().tolist() == [[0, 0, 1], [1, 0, 0]]
    assert mask[:, 0].dtype == np.bool_
    assert F.concatenate([mask, mask], 1).numpy().tolist() == [[True, False, True, False]] * 2


def test_rows_of_many_duplicates_add_up_exactly(backend, rng):
    rows = rng.integers(0, 3, 5000)
    x = gp.tensor(np.zeros((3, 2), np.float32), backend=backend, requires_grad=True)
    upstream = rng.integers(-8, 9, (5000, 2)).astype(np.float32)  # whose sums are exact
    x[rows].backward(upstream)
    expected = np.zeros((3, 2))
    np.add.at(expected, rows, upstream)
    np.testing.assert_array_equal(host(x.grad, backend), expected)


def test_assignment_says_what_to_write_instead(backend):
    x = gp.tensor([1.0, 2.0], backend=backend)
    with pytest.raises(TypeError, match=r"a tensor's elements cannot be assigned.*functional\.where"):
        x[0] = 3
    with pytest.raises(TypeError, match="cannot be assigned"):
        x[x > 1] += 1
    assert x.numpy().tolist() == [1, 2]


def test_a_mask_on_a_device_is_not_read_in_a_capture(cuda_backend):
    x = gp.tensor(np.arange(4, dtype=np.float32), backend=cuda_backend)
    mask = x > 1
    assert x[mask].numpy().tolist() == [2, 3]
    with pytest.raises(gp.BackendError, match="index: the host must read an index array to count what it picks"):
        cuda_backend.recorder().record(lambda: x[mask])


@pytest.mark.parametrize(
    ("part", "error"), [(slice(0, 1.5), TypeError), (slice("a", None), TypeError), (slice(None, None, 0), ValueError)]
)
def test_a_slice_without_integers_raises(backend, part, error):
    t = gp.tensor(np.ones((3, 4), np.float32), backend=backend)
    for key in (part, (0, part), ([0, 1], part)):
        with pytest.raises(error, match=r"index: slice .* got slice\("):
            t[key]
