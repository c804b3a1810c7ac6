"""The loader on the device gives what the loader on the host gives, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpunet as gp
from gpunet import data, nn, optim
from gpunet.autograd import Tensor
from gpunet.backends.cuda.backend import recording_backend
from gpunet.errors import BackendError

AUGMENT = data.Compose(
    [
        data.RandomShift(2, "reflect"),
        data.AlternatingFlip(),
        data.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
        data.Cutout(3),
    ]
)
TRANSFORMS = [
    None,
    data.RandomCrop((5, 4), 2),
    data.Compose([data.Compose([data.RandomHorizontalFlip()]), data.Cutout(2)]),
    AUGMENT,
]


def make_set(count=23, seed=0, **options):
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (count, 6, 7, 3), dtype=np.uint8), rng.integers(0, 10, count)
    return data.ArrayDataset(images, labels, **options)


def host(backend, batches):
    """(images, labels) of all batches, with the rows of each."""
    read = [[backend.to_numpy(part.data if isinstance(part, Tensor) else part) for part in batch] for batch in batches]
    return [np.concatenate(parts) for parts in zip(*read, strict=True)], [len(labels) for _, labels in read]


@settings(max_examples=20)
@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 41),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    transform=st.sampled_from(TRANSFORMS),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**40),
)
def test_batches_are_the_data_loaders(backend, count, batch_size, shuffle, drop_last, transform, seed, epoch):
    dataset = make_set(count)
    options = {
        "shuffle": shuffle, "drop_last": drop_last and batch_size <= count, "transform": transform, "seed": seed
    }  # fmt: skip
    expected = data.DataLoader(dataset, batch_size, prefetch=0, **options)
    loader = data.DeviceLoader(dataset, batch_size, backend=backend, **options)
    assert len(loader) == len(expected)
    expected.epoch = loader.epoch = epoch
    for _ in range(2):
        np.testing.assert_array_equal(backend.to_numpy(loader.order()), expected.order())
        (images, labels), sizes = host(backend, loader)
        batches = list(expected)
        assert sizes == [len(each) for _, each in batches]
        np.testing.assert_array_equal(labels, np.concatenate([each for _, each in batches]))
        wanted = np.concatenate([each for each, _ in batches])
        np.testing.assert_array_equal(images, wanted)
        assert images.dtype == wanted.dtype
        assert images.shape[1:] == loader.image_shape
    assert loader.epoch == expected.epoch == epoch + 2


def test_batches_are_tensors_and_int32_labels_on_the_backend(backend):
    x, y = next(iter(data.DeviceLoader(make_set(), 8, backend=backend, transform=AUGMENT)))
    assert isinstance(x, Tensor)
    assert x.backend is backend
    assert backend.owns(y)
    assert (x.dtype, x.shape, y.dtype, y.shape) == (np.float32, (8, 6, 7, 3), np.int32, (8,))


def test_epoch_counts_and_seed_is_read_when_an_iteration_starts(backend):
    loader = data.DeviceLoader(make_set(), 8, backend=backend, shuffle=True, transform=AUGMENT)
    gp.seed(9)
    iterator = iter(loader)
    first = [next(iterator)]
    gp.seed(10)
    assert loader.epoch == 1
    (images, labels), _ = host(backend, [*first, *iterator])
    assert loader.epoch == 1
    expected = data.DeviceLoader(make_set(), 8, backend=backend, shuffle=True, transform=AUGMENT, seed=9)
    (wanted, found), _ = host(backend, expected)
    np.testing.assert_array_equal(images, wanted)
    np.testing.assert_array_equal(labels, found)


def test_an_order_is_written_where_it_is_asked_for(backend):
    for shuffle in (True, False):
        loader = data.DeviceLoader(make_set(), 8, backend=backend, shuffle=shuffle, seed=3)
        out = backend.full((23,), 0, np.int32)
        assert loader.order(4, out=out) is out
        np.testing.assert_array_equal(backend.to_numpy(out), backend.to_numpy(loader.order(4)))
        assert sorted(backend.to_numpy(out)) == list(range(23))


def test_a_clock_on_the_backend_says_which_batch_is_made(backend):
    loader = data.DeviceLoader(make_set(), 8, backend=backend, shuffle=True, transform=AUGMENT, seed=1)
    loader.epoch = 6
    order = loader.order()
    x, y = backend.empty((8, 6, 7, 3), np.float32), backend.empty((8,), np.int32)
    for step, (wanted, labels) in enumerate(loader):
        clock, rows = backend.asarray(np.array([3 + step, 6], np.uint64)), labels.shape[0]  # a second epoch's count
        loader.launch(order, clock=clock, out=(x, y))
        assert backend.to_numpy(x)[:rows].tolist() == wanted.numpy().tolist()
        assert backend.to_numpy(y)[:rows].tolist() == backend.to_numpy(labels).tolist()
        part, _ = loader.launch(order, clock=clock, rows=rows)
        assert backend.to_numpy(part).tolist() == wanted.numpy().tolist()


def test_a_captured_batch_is_one_kernel_that_makes_every_batch_of_every_epoch(cuda_backend):
    backend, recording = recording_backend(cuda_backend)
    loader = data.DeviceLoader(make_set(24), 8, backend=backend, shuffle=True, transform=AUGMENT, seed=1)
    order, clock = loader.order(), backend.full((2,), 0, np.uint64)
    out = backend.empty((8, 6, 7, 3), np.float32), backend.empty((8,), np.int32)
    loader.launch(order, clock=clock, out=out)  # compiles the kernel
    recording.clear()
    recorder = backend.recorder()
    graph, _ = recorder.record(lambda: loader.launch(order, clock=clock, out=out))
    assert [launch.kernel for launch in recording.launches] == ["gather_augment<float>"]
    for epoch in range(2):
        loader.order(epoch, out=order)
        loader.epoch = epoch
        for step, (x, y) in enumerate(loader):
            backend.copy(backend.asarray(np.array([step, epoch], np.uint64)), out=clock)
            with recorder.current():
                graph.launch()
            np.testing.assert_array_equal(backend.to_numpy(out[0]), x.numpy())
            np.testing.assert_array_equal(backend.to_numpy(out[1]), backend.to_numpy(y))


def fitted(make_loader, backend, metrics):
    """(parameters, history, evaluation) after two epochs of a small net."""
    gp.seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4 * 5 * 4, 10))
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = gp.Trainer(model, optimizer, backend=backend, metrics=metrics, progress=False)
    train = make_loader(make_set(classes=range(10)), 8, shuffle=True, transform=AUGMENT)
    valid = make_loader(make_set(seed=1), 16, transform=data.Normalize(0.5, 0.25))
    rows = trainer.fit(train, 2, valid=valid).rows
    kept = [{name: value for name, value in row.items() if "second" not in name} for row in rows]
    return [p.numpy() for p in model.parameters()], kept, trainer.evaluate(valid), trainer.predict(valid)


@pytest.mark.parametrize("metrics", [["accuracy"], []])
def test_a_trainer_learns_the_same_from_it(backend, metrics):
    on_host = fitted(lambda *args, **options: data.DataLoader(*args, prefetch=0, **options), backend, metrics)
    on_device = fitted(lambda *args, **options: data.DeviceLoader(*args, backend=backend, **options), backend, metrics)
    for mine, theirs in zip(on_device[0], on_host[0], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert on_device[1:3] == on_host[1:3]
    np.testing.assert_array_equal(on_device[3], on_host[3])


def test_a_trainer_on_another_backend_refuses_its_batches():
    model = nn.Sequential(nn.Flatten(), nn.Linear(6 * 7 * 3, 10))
    trainer = gp.Trainer(model, optim.SGD(model.parameters(), lr=0.1), backend="numpy", progress=False)
    loader = data.DeviceLoader(make_set(), 8, backend="reference", transform=data.Normalize(0.5, 0.5))
    with pytest.raises(BackendError, match="^Trainer: a batch is on reference but the model on numpy"):
        trainer.fit(loader, 1)


def test_a_trainer_says_what_images_without_normalize_lack():
    model = nn.Sequential(nn.Flatten(), nn.Linear(6 * 7 * 3, 10))
    trainer = gp.Trainer(model, optim.SGD(model.parameters(), lr=0.1), backend="numpy", progress=False)
    with pytest.raises(TypeError, match=r"images are uint8, not floats.*data\.Normalize"):
        trainer.fit(data.DeviceLoader(make_set(), 8, backend="numpy"), 1)


class Gives:
    """A data set of anything."""

    classes = ("a", "b")

    def __init__(self, *arrays):
        self.arrays = arrays

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.arrays


IMAGES, LABELS = np.zeros((4, 6, 7, 3), np.uint8), np.zeros(4, np.int64)


@pytest.mark.parametrize(
    ("dataset", "options", "kind", "message"),
    [
        (Gives(IMAGES), {}, TypeError, r"dataset must give \(images, labels\), got 1 arrays"),
        (Gives(IMAGES.astype(np.float32), LABELS), {}, TypeError, r"images must be uint8 \(M, H, W, C\), got float32"),
        (Gives(IMAGES[..., 0], LABELS), {}, TypeError, r"images must be uint8 \(M, H, W, C\), got uint8 \(4, 6, 7\)"),
        (Gives(IMAGES, LABELS / 2), {}, TypeError, r"labels must be integers \(4,\), got float64"),
        (Gives(IMAGES, LABELS[:3]), {}, TypeError, r"labels must be integers \(4,\), got int64 \(3,\)"),
        (Gives(IMAGES, np.array([0, 1, 2, 1])), {}, ValueError, "labels must be from 0 to 1, got 2 at index \\(2,\\)"),
        (
            data.ArrayDataset(IMAGES, LABELS - 1),
            {},
            ValueError,
            "labels must be from 0 to 2147483647, got -1 at index \\(0,\\)",
        ),
        (
            make_set(),
            {"transform": data.RandomCrop(9, 1)},
            ValueError,
            "images of 6x7 pixels, padded by 1, are too small",
        ),
        (make_set(), {"transform": data.RandomShift(6)}, ValueError, "images of 6x7 pixels are too small .* by 6"),
        (
            make_set(),
            {"transform": data.Normalize((1, 1), (1, 1))},
            ValueError,
            "images have 3 channels but mean and std",
        ),
        (make_set(), {"transform": lambda batch, **_: batch}, TypeError, "transform .* takes host arrays"),
        (
            make_set(),
            {"transform": data.Compose([data.RandomHorizontalFlip(), data.RandomShift(1)])},
            ValueError,
            "one pass",
        ),
        (make_set(), {"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        (make_set(), {"batch_size": 24, "drop_last": True}, ValueError, "drop_last leaves no batch"),
        (make_set(), {"seed": -1}, ValueError, "seed must be from 0"),
        (Gives(IMAGES, LABELS), {"backend": "gpu"}, ValueError, ""),
    ],
)
def test_what_it_cannot_take_is_refused_at_once(dataset, options, kind, message):
    with pytest.raises(kind, match=f"^DeviceLoader: .*{message}" if message else "get_backend"):
        data.DeviceLoader(dataset, **{"batch_size": 2, "backend": "numpy", **options})


def test_a_subset_is_a_data_set_of_its_own(backend):
    subset = data.Subset(make_set(), [5, 3, 8, 22])
    expected = next(iter(data.DataLoader(subset, 4, transform=AUGMENT, seed=2, prefetch=0)))
    x, y = next(iter(data.DeviceLoader(subset, 4, transform=AUGMENT, seed=2, backend=backend)))
    np.testing.assert_array_equal(x.numpy(), expected[0])
    np.testing.assert_array_equal(backend.to_numpy(y), expected[1])
