"""The shares of all ranks, put together, are the batches of one rank."""

import numpy as np
import pytest

from gpunet.data import (
    ArrayDataset,
    Compose,
    DataLoader,
    DeviceLoader,
    Mixup,
    Normalize,
    RandomCrop,
    Subset,
    WeightedRandomSampler,
)
from gpunet.distributed import Alone, Share, share_bounds, share_of
from gpunet.train.batches import open_batches

SIZES = (1, 2, 3, 4, 7)


def dataset(count=29):
    drawn = np.random.default_rng(2)
    return ArrayDataset(drawn.integers(0, 256, (count, 9, 9, 3), np.uint8), np.arange(count) % 4)


def put_together(shares):
    """(the whole batch, of which each share is a part; how many rows of each share count)."""
    firsts = np.cumsum([0, *(share.rows for share in shares)])
    assert [share.first for share in shares if share.rows] == [
        a for a, s in zip(firsts, shares, strict=False) if s.rows
    ]
    assert all(share.total == firsts[-1] for share in shares)
    assert all(len(part) == max(share.rows, 1) for share in shares for part in share.batch)
    parts = zip(*(share.batch for share in shares if share.rows), strict=True)
    return [np.concatenate(part) for part in parts], [share.rows for share in shares]


@pytest.mark.parametrize("total", [1, 2, 5, 24, 25])
@pytest.mark.parametrize("size", SIZES)
def test_shares_differ_by_a_row_at_most(total, size):
    bounds = [share_bounds(total, rank, size) for rank in range(size)]
    assert [first for first, _ in bounds] == [0, *(last for _, last in bounds[:-1])]
    assert bounds[-1][1] == total
    assert {last - first for first, last in bounds} <= {total // size, total // size + 1}


OPTIONS = {
    "shuffled": {"shuffle": True},
    "in order, without the last": {"drop_last": True},
    "made when asked for": {"shuffle": True, "prefetch": 0},
    "augmented": {"shuffle": True, "transform": Compose([RandomCrop(9, padding=2), Normalize(0.5, 0.2)])},
    "mixed": {"shuffle": True, "transform": Compose([Normalize(0.5, 0.2), Mixup(4)])},
    "sampled": {"sampler": WeightedRandomSampler(np.arange(29.0), 20)},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("size", SIZES)
def test_a_loaders_shares_are_its_batches(options, size):
    loaders = [DataLoader(dataset(), 7, seed=3, **options) for _ in range(size + 1)]
    for loader in loaders:
        loader.epoch, loader.first_batch = 2, 1
    whole, *ranks = [list(loaders[0]), *(list(loader.shares(i, size)) for i, loader in enumerate(loaders[1:]))]
    assert len(whole) == len(loaders[0]) - 1
    for batch, *shares in zip(whole, *ranks, strict=True):
        together, rows = put_together(shares)
        assert max(rows) - min(rows) <= 1
        for part, expected in zip(together, batch, strict=True):
            np.testing.assert_array_equal(part, expected)
    assert {loader.epoch for loader in loaders} == {3}


@pytest.mark.parametrize("size", SIZES)
def test_a_device_loaders_shares_are_its_batches(backend, size):
    options = {"shuffle": True, "seed": 3, "transform": Compose([RandomCrop(9, padding=2), Normalize(0.5, 0.2)])}
    loaders = [DeviceLoader(dataset(), 7, backend=backend, **options) for _ in range(size + 1)]
    for batch, *shares in zip(
        loaders[0], *(loader.shares(i, size) for i, loader in enumerate(loaders[1:])), strict=True
    ):
        on_host = [
            Share(tuple(map(backend.to_numpy, (x.data, y))), share.first, share.rows, share.total)
            for share in shares
            for x, y in [share.batch.make()]
        ]
        together, _ = put_together(on_host)
        np.testing.assert_array_equal(together[0], batch[0].numpy())
        np.testing.assert_array_equal(together[1], backend.to_numpy(batch[1]))


def test_only_the_rows_of_a_share_are_read():
    class Counting(ArrayDataset):
        read = 0

        def __getitem__(self, indices):
            self.read += len(indices)
            return super().__getitem__(indices)

    data = Counting(*dataset(28).arrays)
    list(DataLoader(data, 7, shuffle=True).shares(1, 4))
    assert data.read == 4 * 2  # rows 1 and 2 of each batch of 7


def test_what_is_no_batch_is_passed_on_for_the_trainer_to_name():
    for batch in ((np.zeros(3), np.zeros(4)), np.zeros(3), (), (np.zeros(0),), ("text",)):
        assert share_of(batch, 1, 2).batch is batch


class Told(Alone):
    """Rank 1 of two, which is told what rank 0 has gathered; or, for ``Told([])``, that rank 0."""

    size = 2

    def __init__(self, told):
        self.told, self.gathers = list(told), []
        self.rank = int(bool(told))

    def gather(self, what, value):
        self.gathers.append((what, value))
        if not self.rank:
            return [value, value]
        name, theirs = self.told.pop(0)
        assert name == what
        return [theirs, value]


def meet(first, second):
    """Rank 0 takes shares of the first loader, rank 1 of the second."""
    ranks = Told([])
    with open_batches(first, ranks) as batches:
        list(batches)
    with open_batches(second, Told(ranks.gathers)) as batches:
        list(batches)


class Whole:
    """A loader of one's own, which gives whole batches."""

    def __init__(self, *batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def batch(seed=0, rows=4):
    drawn = np.random.default_rng(seed)
    return drawn.normal(size=(rows, 300)), drawn.integers(0, 9, rows)


def shuffled(epoch=0, **options):
    loader = DataLoader(**{"dataset": dataset(), "batch_size": 7, "seed": 3, "shuffle": True, **options})
    loader.epoch = epoch
    return loader


class Labelled:
    """A data set with labels, whose samples must not be read."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return 29

    def __getitem__(self, indices):
        return np.zeros((len(indices), 2, 2, 1), np.uint8), np.zeros(len(indices), int)


DIFFERENT = {
    "other seeds": ({}, {"seed": 4}, "seed of a DataLoader: 4 on rank 1"),
    "other epochs": ({}, {"epoch": 1}, "epoch of a DataLoader: 1 on rank 1"),
    "other batches": ({}, {"batch_size": 8}, "number of batches of a DataLoader: 4 on rank 1"),
    "larger batches": ({"batch_size": 15}, {"batch_size": 16}, "batch size of a DataLoader: 16 on rank 1"),
    "other orders": (
        {"shuffle": False, "sampler": WeightedRandomSampler(np.ones(29))},
        {"shuffle": False, "sampler": WeightedRandomSampler(np.arange(29.0))},
        "order of the samples of a DataLoader: ",
    ),
    "other samples": (
        {"dataset": Subset(dataset(), np.arange(20)), "batch_size": 10},
        {"dataset": Subset(dataset(), np.arange(20)[::-1]), "batch_size": 10},
        "checksum of the samples of a DataLoader: ",
    ),
    "other images": (
        {"dataset": ArrayDataset(np.zeros((29, 5, 5, 1)), np.zeros(29))},
        {"dataset": ArrayDataset(np.ones((29, 5, 5, 1)), np.zeros(29))},
        "checksum of the samples of a DataLoader: ",
    ),
    "other labels": (
        {"dataset": Labelled(np.arange(29))},
        {"dataset": Labelled(np.arange(29)[::-1])},
        "checksum of the samples of a DataLoader: ",
    ),
}


@pytest.mark.parametrize(("options", "others", "message"), DIFFERENT.values(), ids=DIFFERENT)
def test_ranks_with_other_samples_say_so(options, others, message):
    meet(shuffled(**options), shuffled(**options))
    with pytest.raises(RuntimeError, match=f"Trainer: the .*{message}.* all ranks must be given the same samples"):
        meet(shuffled(**options), shuffled(**others))


def test_ranks_with_other_samples_on_a_device_say_so(backend):
    first, same, other = (DeviceLoader(dataset(), 7, shuffle=True, seed=i, backend=backend) for i in (3, 3, 4))
    meet(first, same)
    with pytest.raises(RuntimeError, match="the seed of a DeviceLoader: 4 on rank 1"):
        meet(first, other)


def test_ranks_with_other_batches_of_their_own_say_so():
    meet(Whole(batch(), batch(1)), Whole(batch(), batch(1)))
    meet(iter([batch()]), iter([batch()]))
    with pytest.raises(RuntimeError, match="the number of batches of a Whole: 1 on rank 1 .* 2 on rank 0"):
        meet(Whole(batch(), batch(1)), Whole(batch()))
    for other in (batch(1), batch(rows=3), batch()[:1], (batch()[0], batch(1)[1])):
        with pytest.raises(RuntimeError, match="the checksum of the first batch of a Whole: "):
            meet(Whole(batch()), Whole(other))


def test_a_data_set_that_draws_its_samples_is_not_read_to_compare_them():
    class Drawn(Labelled):
        drawn = np.random.default_rng()

        def __getitem__(self, indices):
            return np.zeros((len(indices), 2, 2, 1)), self.drawn.integers(0, 9, len(indices))

    for labels in (None, "few", np.arange(4), np.array(0)):
        meet(shuffled(dataset=Drawn(labels)), shuffled(dataset=Drawn(labels)))


def test_seed_and_epoch_may_differ_where_they_decide_no_order():
    meet(shuffled(shuffle=False), shuffled(shuffle=False, seed=8, epoch=1))


def test_a_sampler_makes_each_order_once():
    class Counting:
        calls = 0

        def __len__(self):
            return 29

        def order(self, seed, epoch):
            self.calls += 1
            return np.roll(np.arange(29), self.calls)

    loader = shuffled(shuffle=False, sampler=Counting())
    for calls in (1, 2):
        with open_batches(loader, Told([])) as batches:
            first = next(iter(batches))
        assert loader.sampler.calls == calls
        np.testing.assert_array_equal(first.batch[0], dataset()[np.roll(np.arange(29), calls)[:3]][0])


def test_batches_of_anything_may_be_shared():
    ragged = np.array([np.zeros(2), np.zeros((3, 4))], object)
    for given in ((np.zeros((2, 3)), ragged), (np.float32(2.0), np.array(1)), (np.zeros((2, 0)),), "text", ("a", None)):
        meet(Whole(given), Whole(given))
