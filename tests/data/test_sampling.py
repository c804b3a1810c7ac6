import numpy as np
import pytest

from gpunet import data
from gpunet.random import PURPOSES


def philox_uniform(seed, epoch, count):
    key, counter = np.array([seed, PURPOSES["sample"]], np.uint64), np.array([0, 0, 0, epoch], np.uint64)
    return (np.random.Philox(key=key, counter=counter).random_raw(count) >> np.uint64(11)) * 2.0**-53


def images(count=23):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 6, 7, 3), dtype=np.uint8)
    return data.ArrayDataset(pixels, np.arange(count) % 3, classes=("a", "b", "c"))


def test_samples_follow_the_inverse_of_the_cumulative_weights(rng):
    weights = rng.integers(0, 5, 40) * 3.7
    sampler = data.WeightedRandomSampler(weights, 1000)
    for epoch in (0, 3):
        order = sampler.order(7, epoch)
        shares = np.cumsum(weights) / weights.sum()
        expected = [int(np.argmax(shares > u)) for u in philox_uniform(7, epoch, 1000)]
        assert order.tolist() == expected
        assert (weights[order] > 0).all()
    assert sampler.order(7, 0).tolist() == sampler.order(7, 0).tolist()
    assert sampler.order(7, 0).tolist() != sampler.order(8, 0).tolist()


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e308])
def test_frequencies_are_those_of_the_weights(scale):
    weights = np.array([0, 1, 0.5, 0, 0.25, 0])
    counts = np.bincount(data.WeightedRandomSampler(weights * scale, 70_000).order(0, 0), minlength=6)
    np.testing.assert_allclose(counts / 70_000, weights / weights.sum(), atol=0.006)
    assert (counts[weights == 0] == 0).all()


def test_without_replacement_each_sample_comes_once_and_the_heavy_come_first():
    weights = np.array([1.0, 0, 2, 5, 0, 2])
    firsts = np.zeros(6)
    for epoch in range(2000):
        order = data.WeightedRandomSampler(weights, 4, replacement=False).order(1, epoch)
        assert sorted(order) == [0, 2, 3, 5]
        firsts[order[0]] += 1
    np.testing.assert_allclose(firsts / 2000, weights / 10, atol=0.035)


def test_balanced_weights_take_each_class_equally_often():
    labels = np.repeat([0, 4, 2], [900, 90, 10])
    weights = data.balanced_weights(labels)
    np.testing.assert_allclose([weights[labels == k].sum() for k in (0, 4, 2)], [1000 / 3] * 3)
    taken = labels[data.WeightedRandomSampler(weights, 30_000).order(0, 0)]
    np.testing.assert_allclose([(taken == k).mean() for k in (0, 4, 2)], [1 / 3] * 3, atol=0.01)


def test_both_loaders_take_what_the_sampler_says(backend):
    dataset, transform = images(), data.Compose([data.RandomHorizontalFlip(), data.Normalize(0.5, 0.25)])
    sampler = data.WeightedRandomSampler(np.arange(23) % 4, 30)
    on_host = data.DataLoader(dataset, 8, sampler=sampler, seed=5, transform=transform)
    on_device = data.DeviceLoader(dataset, 8, sampler=sampler, seed=5, transform=transform, backend=backend)
    assert len(on_host) == len(on_device) == 4
    for epoch in range(2):
        wanted = sampler.order(5, epoch)
        assert on_host.order().tolist() == backend.to_numpy(on_device.order()).tolist() == wanted.tolist()
        pairs = list(zip(on_host, on_device, strict=True))
        np.testing.assert_array_equal(np.concatenate([y for (_, y), _ in pairs]), wanted % 3)
        for (x, y), (there, labels) in pairs:
            np.testing.assert_array_equal(there.numpy(), x)
            np.testing.assert_array_equal(backend.to_numpy(labels), y)
        assert on_host.epoch == on_device.epoch == epoch + 1
    deferred = [backend.to_numpy(batch.make()[1]) for batch in on_device.deferred()]
    np.testing.assert_array_equal(np.concatenate(deferred), sampler.order(5, 2) % 3)


class Order:
    def __init__(self, order):
        self.positions = np.asarray(order)

    def __len__(self):
        return 2

    def order(self, seed, epoch):
        return self.positions


def test_any_object_with_a_length_and_an_order_is_a_sampler():
    assert [y.tolist() for _, y in data.DataLoader(images(), 8, sampler=Order([4, 2]))] == [[1, 2]]


@pytest.mark.parametrize("make", [data.DataLoader, lambda *a, **k: data.DeviceLoader(*a, backend="numpy", **k)])
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"sampler": data.WeightedRandomSampler(np.ones(5))},
            ValueError,
            "sampler has 5 weights but dataset has 23 samples",
        ),
        ({"sampler": Order([0, 1]), "shuffle": True}, ValueError, "so shuffle must be False"),
        (
            {"sampler": Order([0, 1]), "drop_last": True},
            ValueError,
            "drop_last leaves no batch of",
        ),
        ({"sampler": Order([0.0, 1])}, TypeError, "sampler must give 2 integers, got float64"),
        ({"sampler": Order([0])}, TypeError, r"sampler must give 2 integers, got int64 \(1,\)"),
        ({"sampler": Order([0, 23])}, ValueError, "sampler gave 0 to 23, not 0 to 22"),
        ({"sampler": Order([-1, 3])}, ValueError, "sampler gave -1 to 3, not 0 to 22"),
    ],
)
def test_a_sampler_that_does_not_fit_raises(make, options, kind, message):
    with pytest.raises(kind, match=rf"^(DataLoader|DeviceLoader): .*{message}"):
        list(make(images(), 8, **options))


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        (([1, -1],), {}, ValueError, "weights must be finite and not negative"),
        (([1, np.nan],), {}, ValueError, "weights must be finite"),
        (([1, np.inf],), {}, ValueError, "weights must be finite"),
        (([0.0, 0],), {}, ValueError, "one of them above 0"),
        (([],), {}, ValueError, "one of them above 0"),
        (([[1.0]],), {}, TypeError, r"weights must be numbers \(N,\), got float64 \(1, 1\)"),
        ((["a"],), {}, TypeError, "weights must be numbers"),
        (([1.0], 0), {}, ValueError, "num_samples must be at least 1, got 0"),
        (([1.0], 1.5), {}, TypeError, "num_samples must be an integer, got 1.5"),
        (([1, 0, 2],), {"replacement": False}, ValueError, "num_samples must be at most 2 without replacement, got 3"),
    ],
)
def test_invalid_weights_raise(arguments, options, kind, message):
    with pytest.raises(kind, match=f"^WeightedRandomSampler: .*{message}"):
        data.WeightedRandomSampler(*arguments, **options)


@pytest.mark.parametrize(("labels", "kind"), [([], TypeError), (np.zeros(0, int), ValueError), ([[1]], TypeError)])
def test_invalid_labels_raise(labels, kind):
    with pytest.raises(kind, match="^balanced_weights: labels"):
        data.balanced_weights(labels)
