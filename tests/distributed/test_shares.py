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
    WeightedRandomSampler,
)
from gpunet.distributed import Share, share_bounds, share_of

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
