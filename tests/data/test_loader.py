import contextlib
import gc
import subprocess
import sys
import threading
import time
import traceback
import weakref

import numpy as np
import pytest

import gpunet.random
from gpunet import data
from gpunet.random import PURPOSES, Stream, permutation


def make(count=10, batch_size=4, **options):
    return data.DataLoader(data.ArrayDataset(np.arange(count) * 10, np.arange(count)), batch_size, **options)


def labels(loader):
    return [batch[1].tolist() for batch in loader]


def flat(lists):
    return [item for items in lists for item in items]


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "gpunet-prefetch"]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    gc.collect()
    assert not prefetch_threads()


@pytest.mark.parametrize("prefetch", [0, 1, 2, 50])
def test_batches_follow_the_data_set(prefetch):
    loader = make(prefetch=prefetch)
    assert labels(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(loader) == 3
    assert [batch[0].tolist() for batch in make(prefetch=prefetch, drop_last=True)] == [
        [0, 10, 20, 30],
        [40, 50, 60, 70],
    ]
    assert len(make(drop_last=True)) == 2
    assert len(make(count=8)) == len(make(count=8, drop_last=True)) == 2


@pytest.mark.parametrize("prefetch", [0, 2])
def test_shuffled_order_is_that_of_the_epochs_stream(prefetch):
    loader = make(shuffle=True, seed=5, prefetch=prefetch)
    for epoch in range(3):
        assert loader.epoch == epoch
        expected = permutation(Stream(5, PURPOSES["shuffle"], epoch=epoch), 10)
        assert loader.order().tolist() == loader.order(epoch).tolist() == expected.tolist()
        assert flat(labels(loader)) == expected.tolist()
    loader.epoch = 1
    assert flat(labels(loader)) == permutation(Stream(5, PURPOSES["shuffle"], epoch=1), 10).tolist()


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_iteration_that_is_left_by_break_counts_and_the_next_has_another_order(prefetch):
    loader = make(count=50, shuffle=True, seed=0, prefetch=prefetch)
    for _ in loader:
        break
    assert loader.epoch == 1
    assert flat(labels(loader)) == permutation(Stream(0, PURPOSES["shuffle"], epoch=1), 50).tolist()
    assert labels(loader) != labels(loader)
    assert loader.epoch == 4
    loader.epoch = 1  # an epoch again
    assert flat(labels(loader)) == permutation(Stream(0, PURPOSES["shuffle"], epoch=1), 50).tolist()


def test_seed_none_is_read_when_the_iteration_starts():
    loader = make(count=50, shuffle=True)
    try:
        gpunet.random.seed(9)
        iterator = iter(loader)
        gpunet.random.seed(10)
        started = [batch[1].tolist() for batch in iterator]
    finally:
        gpunet.random.seed(0)
    assert started == labels(make(count=50, shuffle=True, seed=9))


def test_batches_and_augmentation_do_not_depend_on_prefetch_or_batch_size(rng_images):
    dataset = data.ArrayDataset(rng_images, np.arange(len(rng_images)))
    transform = data.Compose([data.RandomShift(2), data.RandomHorizontalFlip(), data.Normalize(0.5, 0.25)])

    def epoch(batch_size, prefetch, shuffle):
        loader = data.DataLoader(dataset, batch_size, shuffle=shuffle, transform=transform, seed=1, prefetch=prefetch)
        images, found = (np.concatenate(parts) for parts in zip(*loader, strict=True))
        return images, found

    first, order = epoch(4, 0, True)
    ahead, same_order = epoch(4, 2, True)
    assert np.array_equal(first, ahead)
    assert np.array_equal(order, same_order)
    unshuffled, _ = epoch(7, 2, False)
    assert np.array_equal(first, unshuffled[order])


@pytest.fixture
def rng_images():
    return np.random.default_rng(0).integers(0, 256, (23, 6, 7, 3), dtype=np.uint8)


def test_transform_gets_batch_indices_epoch_and_seed():
    seen = []

    def transform(batch, *, indices, epoch, seed):
        seen.append((batch[1].tolist(), indices.tolist(), epoch, seed))
        return batch[0] + 1, *batch[1:], indices

    loader = make(count=3, batch_size=2, transform=transform, seed=8)
    loader.epoch = 6
    assert [[part.tolist() for part in batch] for batch in loader] == [[[1, 11], [0, 1], [0, 1]], [[21], [2], [2]]]
    assert seen == [([0, 1], [0, 1], 6, 8), ([2], [2], 6, 8)]


@pytest.mark.parametrize("prefetch", [1, 2, 3])
def test_at_most_prefetch_batches_are_made_ahead(prefetch):
    class Counting(data.ArrayDataset):
        taken = 0

        def __getitem__(self, index):
            self.taken += 1
            return super().__getitem__(index)

    dataset = Counting(np.arange(100))
    iterator = iter(data.DataLoader(dataset, 1, prefetch=prefetch))
    assert dataset.taken == 0
    next(iterator)
    deadline = time.monotonic() + 5
    while dataset.taken < 1 + prefetch and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert dataset.taken == 1 + prefetch
    iterator.close()


def test_abandoned_iteration_ends_its_thread():
    for _ in make(count=1000, batch_size=1):
        assert len(prefetch_threads()) == 1
        break
    gc.collect()
    assert not prefetch_threads()


def test_dropped_iterator_ends_its_thread_and_frees_the_data():
    loader = make(count=1000, batch_size=1)
    alive = weakref.ref(loader.dataset)
    iterator = iter(loader)
    next(iterator)
    del iterator
    assert not prefetch_threads()  # by reference count, before any garbage collection
    del loader
    assert alive() is None


def test_iterator_in_a_reference_cycle_ends_its_thread():
    holder = {"iterator": iter(make(count=1000, batch_size=1))}
    holder["self"] = holder
    next(holder["iterator"])
    del holder
    gc.collect()
    assert not prefetch_threads()


def test_iterations_that_run_at_once_do_not_disturb_each_other():
    loader = make(count=9, batch_size=2)
    assert [(a[1].tolist(), b[1].tolist()) for a, b in zip(loader, loader, strict=True)] == [
        (batch, batch) for batch in labels(make(count=9, batch_size=2))
    ]


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("where", ["dataset", "transform"])
def test_exception_comes_out_with_its_traceback_after_the_batches_before_it(prefetch, where):
    class Broken(data.ArrayDataset):
        def __getitem__(self, index):
            if where == "dataset":
                fail_at_six(index)
            return super().__getitem__(index)

    def fail_at_six(indices):
        if 6 in indices:
            raise KeyError("sample 6")

    def transform(batch, *, indices, epoch, seed):
        fail_at_six(indices)
        return batch

    loader = data.DataLoader(
        Broken(np.arange(10)), 2, prefetch=prefetch, transform=transform if where == "transform" else None
    )
    iterator = iter(loader)
    assert [next(iterator)[0].tolist() for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(KeyError, match="sample 6") as caught:
        next(iterator)
    assert "fail_at_six" in "".join(traceback.format_exception(caught.value))
    assert loader.epoch == 1
    assert not prefetch_threads()


@pytest.mark.parametrize("prefetch", [0, 2])
def test_handled_exception_does_not_keep_the_data(prefetch):
    class Broken(data.ArrayDataset):
        def __getitem__(self, index):
            raise KeyError("broken")

    dataset = Broken(np.arange(10))
    alive = weakref.ref(dataset)
    gc.disable()
    try:
        with contextlib.suppress(KeyError):
            list(data.DataLoader(dataset, 2, prefetch=prefetch))
        del dataset
        assert alive() is None
    finally:
        gc.enable()


def test_interpreter_exits_at_once_with_an_iteration_half_done():
    code = (
        "import numpy as np; from gpunet import data\n"
        "iterator = iter(data.DataLoader(data.ArrayDataset(np.arange(100)), 1)); next(iterator)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": -3}, ValueError, "batch_size must be at least 1, got -3"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be an integer, got 2.0"),
        ({"prefetch": -1}, ValueError, "prefetch must be at least 0, got -1"),
        ({"prefetch": None}, TypeError, "prefetch must be an integer, got None"),
        ({"seed": -1}, ValueError, "seed must be from 0"),
        ({"seed": "0"}, TypeError, "seed must be an integer, got '0'"),
        ({"transform": 3}, TypeError, "transform must be callable, got 3"),
        (
            {"batch_size": 11, "drop_last": True},
            ValueError,
            "drop_last leaves no batch of 11 from 10 samples",
        ),
    ],
)
def test_bad_arguments_raise(options, kind, message):
    with pytest.raises(kind, match=f"^DataLoader: {message}"):
        make(**options)


def test_batch_larger_than_the_data_is_the_data():
    assert labels(make(batch_size=11)) == [list(range(10))]


def test_empty_data_set_raises():
    with pytest.raises(ValueError, match="dataset is empty"):
        data.DataLoader([], 1)


def test_bad_epoch_raises():
    loader = make()
    with pytest.raises(ValueError, match="epoch must be at least 0, got -1"):
        loader.epoch = -1
    with pytest.raises(TypeError, match="epoch must be an integer"):
        loader.epoch = 1.0


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        ([1, 2], TypeError, "must give a tuple of arrays for an array of indices, got <class 'list'>"),
        ((np.zeros(2), np.zeros(3)), ValueError, "must give arrays of 2 rows for 2 indices, got 2, 3$"),
        ((np.zeros(2), np.float32(3)), ValueError, "must give arrays of 2 rows for 2 indices, got 2, no axis$"),
    ],
)
def test_wrong_answers_of_data_sets_and_transforms_raise(prefetch, answer, kind, message):
    class Odd:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return answer

    with pytest.raises(kind, match=f"^DataLoader: dataset {message}"):
        next(iter(data.DataLoader(Odd(), 2, prefetch=prefetch)))
    with pytest.raises(kind, match=f"^DataLoader: transform {message}"):
        next(iter(make(batch_size=2, transform=lambda batch, **_: answer, prefetch=prefetch)))


@pytest.mark.parametrize("wrapped", [False, True], ids=["array", "tensor"])
def test_arrays_on_a_device_are_not_handed_from_thread_to_thread(backend, wrapped):
    def transform(batch, **_):
        x = backend.asarray(np.ones((2, 3), np.float32))
        return batch[0], gpunet.Tensor(x, backend) if wrapped else x

    assert len(next(iter(make(batch_size=2, transform=transform, prefetch=0)))) == 2
    batches = iter(make(batch_size=2, transform=transform, prefetch=2))
    if backend.name in ("reference", "numpy"):
        assert len(next(batches)) == 2
        return
    with pytest.raises(
        TypeError, match=r"^DataLoader: array 1 of a batch is on a device .* pass prefetch=0, or use a DeviceLoader$"
    ):
        next(batches)
