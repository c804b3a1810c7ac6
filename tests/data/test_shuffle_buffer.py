"""The orders of a shuffle buffer: those of a plain program, permutations, and how far they carry a sample."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpunet import data
from gpunet.random import PURPOSES, Stream, permutation, uniform


class Shards:
    """What the sampler asks of a data set of shards."""

    def __init__(self, *counts):
        self.samples_per_shard = np.array(counts, np.int64)

    def __len__(self):
        return int(self.samples_per_shard.sum())


def plain_order(counts, size, seed, epoch):
    """The same order, one sample after another."""
    streams = [Stream(seed, PURPOSES["shuffle"], call=call, epoch=epoch) for call in (1, 2, 3)]
    starts = np.cumsum([0, *counts])
    arriving = [i for shard in permutation(streams[0], len(counts)) for i in range(starts[shard], starts[shard + 1])]
    size = min(size, len(arriving))
    buffer, out = arriving[:size], []
    for sample, u in zip(arriving[size:], uniform(streams[1], len(arriving) - size), strict=True):
        place = int(u * size)
        out.append(buffer[place])
        buffer[place] = sample
    return arriving, out + [buffer[i] for i in permutation(streams[2], size)]


COUNTS = st.lists(st.integers(0, 12), min_size=1, max_size=9).filter(sum)


@given(COUNTS, st.integers(1, 70), st.integers(0, 2**64 - 1), st.integers(0, 5))
def test_the_order_is_that_of_a_plain_program(counts, size, seed, epoch):
    order = data.ShuffleBuffer(Shards(*counts), size).order(seed, epoch)
    arriving, expected = plain_order(counts, size, seed, epoch)
    assert order.dtype == np.int64
    assert order.tolist() == expected
    assert sorted(order) == list(range(sum(counts)))
    came = {sample: place for place, sample in enumerate(arriving)}
    assert all(
        place >= came[sample] - size for place, sample in enumerate(order)
    )  # it cannot come before it has arrived
    assert all(came[sample] < place + size for place, sample in enumerate(order))


def test_orders_differ_by_epoch_and_seed_and_come_again():
    sampler = data.ShuffleBuffer(Shards(*[40] * 10), 50)
    orders = {(seed, epoch): tuple(sampler.order(seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(set(orders.values())) == 9
    again = data.ShuffleBuffer(Shards(*[40] * 10), 50)
    assert all(tuple(again.order(*key)) == order for key, order in orders.items())
    assert len(sampler) == 400


def test_a_buffer_of_one_keeps_the_order_within_shards():
    order = data.ShuffleBuffer(Shards(5, 1, 0, 7, 6, 5), 1).order(4, 2)
    shards = [range(5), range(5, 6), range(6, 13), range(13, 19), range(19, 24)]
    taken = order.tolist()
    starts = sorted(taken.index(shard[0]) for shard in shards)
    assert starts != [taken.index(shard[0]) for shard in shards]
    for shard in shards:
        begin = taken.index(shard[0])
        assert taken[begin : begin + len(shard)] == list(shard)


def test_a_buffer_of_the_whole_mixes_evenly():
    """Each sample is equally likely at each place: 16 samples, 20,000 epochs."""
    sampler = data.ShuffleBuffer(Shards(4, 4, 4, 4), 1000)
    counts = np.zeros((16, 16))
    for epoch in range(20_000):
        counts[sampler.order(0, epoch), np.arange(16)] += 1
    np.testing.assert_allclose(counts / 20_000, 1 / 16, atol=0.009)


@pytest.mark.parametrize("size", [10, 100])
def test_a_sample_waits_as_long_as_the_buffer_is_large_on_average(size):
    sampler = data.ShuffleBuffer(Shards(100_000), size)
    places = np.empty(100_000)
    places[sampler.order(1, 0)] = np.arange(100_000)
    waited = (places - np.arange(100_000) + size)[1000:-5000]
    np.testing.assert_allclose(waited.mean(), size, rtol=0.03)
    assert waited.min() >= 0


def test_samples_of_a_subset_are_taken_shard_by_shard(rng):
    inner = data.Subset(Shards(10, 10, 10, 10), rng.permutation(40)[:30])
    part = data.Subset(inner, rng.permutation(30)[:20])
    order = data.ShuffleBuffer(part, 1).order(0, 0)
    assert sorted(order) == list(range(20))
    shard = inner.indices[part.indices[order]] // 10
    assert len(np.flatnonzero(np.diff(shard))) == 3
    assert all((np.diff(order[shard == number]) > 0).all() for number in range(4))  # in the order of the subset


def test_its_streams_are_not_the_loaders():
    dataset = data.ArrayDataset(np.arange(50))
    dataset.samples_per_shard = np.array([50])
    shuffled = data.DataLoader(dataset, 1, shuffle=True, seed=3).order(0)
    assert data.ShuffleBuffer(dataset, 50).order(3, 0).tolist() != shuffled.tolist()


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((Shards(3), 0), ValueError, "size"),
        ((Shards(3), 1.5), TypeError, "size"),
        (
            (data.ArrayDataset(np.arange(3)), 2),
            TypeError,
            "must be an ImageShards or a Subset of one, got ArrayDataset",
        ),
        ((SimpleNamespace(), 2), TypeError, "got SimpleNamespace"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, said):
    with pytest.raises(error, match=said):
        data.ShuffleBuffer(*arguments)
