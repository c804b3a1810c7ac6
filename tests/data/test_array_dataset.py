import numpy as np
import pytest

import gpunet.random
from gpunet import data


@pytest.fixture
def dataset():
    images = np.arange(20 * 2 * 3 * 1, dtype=np.uint8).reshape(20, 2, 3, 1)
    return data.ArrayDataset(images, np.arange(20) % 4, classes=["a", "b", "c", "d"])


def test_rows_of_every_array_come_back_for_an_index_and_for_indices(dataset):
    x, y = dataset[3]
    assert x.shape == (2, 3, 1)
    assert x[0, 0, 0] == 18
    assert y == 3
    x, y = dataset[np.array([5, 0, 5])]
    assert x[:, 0, 0, 0].tolist() == [30, 0, 30]
    assert y.tolist() == [1, 0, 1]
    assert len(dataset) == 20
    assert dataset.classes == ("a", "b", "c", "d")
    assert len(list(dataset)) == 20


def test_arrays_are_kept_without_a_copy():
    x = np.zeros((3, 2, 2, 1), np.float32)
    assert data.ArrayDataset(x).arrays[0] is x


def test_index_out_of_range_raises(dataset):
    with pytest.raises(IndexError):
        dataset[20]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_first_non_finite_value_is_named(bad):
    x = np.zeros((4, 2, 2, 1), np.float32)
    x[2, 1, 0, 0] = x[3, 0, 0, 0] = bad
    with pytest.raises(ValueError, match=rf"^ArrayDataset: array 1 must be finite, got {bad} at index \(2, 1, 0, 0\)$"):
        data.ArrayDataset(np.zeros(4), x)


@pytest.mark.parametrize("label", [-1, 3])
def test_label_out_of_range_is_named(label):
    labels = np.array([0, 1, label, label])
    with pytest.raises(ValueError, match=rf"labels must be from 0 to 2, got {label} at index \(2,\)$"):
        data.ArrayDataset(np.zeros((4, 1)), labels, classes="abc")
    data.ArrayDataset(np.zeros((4, 1)), labels)  # without names, any integer is allowed


def test_labels_that_are_not_integers_raise():
    with pytest.raises(TypeError, match="labels, the last array, are float64 but must be integers"):
        data.ArrayDataset(np.zeros((4, 1)), np.zeros(4), classes="ab")


@pytest.mark.parametrize(
    ("arrays", "kind", "message"),
    [
        ((), ValueError, "got no arrays but takes at least one"),
        ((np.zeros((0, 2)),), ValueError, "arrays have 0 rows but at least 1 is needed"),
        ((np.zeros(3), np.zeros(4)), ValueError, "arrays must have equally many rows, got 3, 4"),
        ((np.float32(1),), ValueError, "array 0 has no axes"),
        ((np.zeros(2), ["a", "b"]), TypeError, "array 1 is of text \\(<U1\\) but takes real numbers"),
        ((np.array([None, 1]),), TypeError, "array 0 is of objects"),
        ((np.zeros(2, complex),), TypeError, "array 0 is of complex numbers"),
    ],
)
def test_bad_arrays_raise(arrays, kind, message):
    with pytest.raises(kind, match=f"^ArrayDataset: {message}"):
        data.ArrayDataset(*arrays)


def test_device_array_raises():
    class OnDevice:
        __cuda_array_interface__ = {}  # noqa: RUF012

    with pytest.raises(TypeError, match="array 0 is on a device but must be on the host"):
        data.ArrayDataset(OnDevice())


def test_split_is_a_disjoint_cover_that_the_seed_decides(dataset):
    train, valid = data.random_split(dataset, [0.75, 0.25], seed=3)
    assert (len(train), len(valid)) == (15, 5)
    assert sorted([*train.indices, *valid.indices]) == list(range(20))
    assert train.classes == dataset.classes
    again = data.random_split(dataset, [15, 5], seed=3)
    assert again[1].indices.tolist() == valid.indices.tolist()
    other = data.random_split(dataset, [15, 5], seed=4)
    assert other[1].indices.tolist() != valid.indices.tolist()
    expected = gpunet.random.permutation(gpunet.random.Stream(3, gpunet.random.PURPOSES["split"]), 20)[:15]
    assert train.indices.tolist() == sorted(expected)


def test_subset_gives_the_samples_of_the_whole(dataset):
    subset = data.Subset(dataset, [7, 2, 9])
    assert subset[np.array([2, 0])][1].tolist() == [1, 3]
    assert subset[1][1] == 2
    assert len(subset) == 3
    with pytest.raises(IndexError):
        subset[3]


def test_split_without_a_seed_follows_gpunet_seed(dataset):
    try:
        gpunet.random.seed(11)
        implicit = data.random_split(dataset, [10, 10])
    finally:
        gpunet.random.seed(0)
    assert implicit[0].indices.tolist() == data.random_split(dataset, [10, 10], seed=11)[0].indices.tolist()


def test_thirds_cover_everything(dataset):
    assert sum(len(part) for part in data.random_split(dataset, [1 / 3] * 3, seed=0)) == 20


@pytest.mark.parametrize(
    ("lengths", "kind", "message"),
    [
        ([10, 9], ValueError, "lengths must add up to 20, the data set's length, got 19"),
        ([0.5, 0.4], ValueError, r"fractions must add up to 1, got 0\.9"),
        ([20, 0], ValueError, r"lengths \[20, 0\] leave a subset of 20 samples without any"),
        ([25, -5], ValueError, "without any"),
        ([0.99, 0.01], ValueError, "without any"),
        ([], ValueError, "must add up to 20"),
        (["10", "10"], TypeError, "lengths must be numbers"),
    ],
)
def test_bad_lengths_raise(dataset, lengths, kind, message):
    with pytest.raises(kind, match=f"^random_split: .*{message}"):
        data.random_split(dataset, lengths, seed=0)


@pytest.mark.parametrize(("seed", "kind"), [(-1, ValueError), (2**64, ValueError), (1.5, TypeError)])
def test_bad_seed_raises(dataset, seed, kind):
    with pytest.raises(kind, match=r"^random_split: seed must be"):
        data.random_split(dataset, [10, 10], seed=seed)


@pytest.mark.parametrize(
    ("indices", "kind", "message"),
    [
        ([], ValueError, "empty"),
        ([0, 20], ValueError, "from 0 to 19, got 0 to 20"),
        ([-1], ValueError, "from 0 to 19, got -1"),
        ([0.5], TypeError, "integers on one axis"),
        ([[1]], TypeError, "integers on one axis"),
    ],
)
def test_bad_subset_indices_raise(dataset, indices, kind, message):
    with pytest.raises(kind, match=f"^Subset: .*{message}"):
        data.Subset(dataset, indices)
