"""Pairs, triplets and episodes: which images they join, and what decides it."""

import numpy as np
import pytest

from gpunet import data

K, EACH = 12, 5
GROUP = np.arange(K) % 3


@pytest.fixture
def dataset():
    """Images that hold their own index; the labels not in order."""
    labels = np.arange(K * EACH) % K
    return data.ArrayDataset(np.arange(K * EACH, dtype=np.float32).reshape(-1, 1, 1, 1), labels)


def members(images):
    return images[..., 0, 0, 0].astype(int)


@pytest.mark.parametrize("groups", [None, GROUP])
def test_pairs_are_by_turns_of_one_class_and_of_two(dataset, groups):
    for a, b, same in data.Pairs(dataset, 40, 5, groups=groups):
        a, b = members(a), members(b)
        np.testing.assert_array_equal(a % K == b % K, same == 1)
        assert same.mean() == 0.5
        assert (a != b).all()
        if groups is not None:
            np.testing.assert_array_equal(groups[a % K], groups[b % K])


@pytest.mark.parametrize("groups", [None, GROUP])
def test_triplets_are_two_of_one_class_and_one_of_another(dataset, groups):
    for batch in data.Triplets(dataset, 40, 5, groups=groups):
        anchor, positive, negative = map(members, batch)
        assert (anchor % K == positive % K).all()
        assert (anchor != positive).all()
        assert (anchor % K != negative % K).all()
        if groups is not None:
            np.testing.assert_array_equal(groups[anchor % K], groups[negative % K])


def test_episodes_are_views_of_different_classes_of_one_group(dataset):
    seen = set()
    for (views,) in data.Episodes(dataset, 4, 30, views=3, groups=GROUP):
        assert views.shape == (4, 3, 1, 1, 1)
        drawn = members(views)
        assert len(set(drawn.ravel())) == 12
        assert (drawn % K == drawn[:, :1] % K).all()
        assert len(set(drawn[:, 0] % K)) == 4
        assert len(set(GROUP[drawn[:, 0] % K])) == 1
        seen.add(GROUP[drawn[0, 0] % K])
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("kind", [data.Pairs, data.Triplets, data.Episodes])
def test_seed_epoch_and_place_decide_a_batch(dataset, kind):
    def epoch(loader):
        return [np.concatenate([members(part).ravel() for part in batch[:1]]) for batch in loader]

    loader, again, other = kind(dataset, 4, 6, seed=1), kind(dataset, 4, 6, seed=1), kind(dataset, 4, 6, seed=2)
    first, second = epoch(loader), epoch(loader)
    np.testing.assert_array_equal(first, epoch(again))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, epoch(other))
    assert not np.array_equal(first[0], first[1])
    again.epoch = 1
    np.testing.assert_array_equal(second, epoch(again))
    assert len(loader) == 6


def test_images_are_transformed_with_their_own_indices(dataset):
    def transform(batch, *, indices, epoch, seed):
        np.testing.assert_array_equal(members(batch[0]), indices)
        return (batch[0] + 1000 * (1 + epoch),)

    loader = data.Episodes(dataset, 3, 2, transform=transform, seed=3)
    numbers = [members(views).min() // 1000 for (views,) in [*loader, *loader]]
    assert numbers == [1, 2, 3, 4]


def test_many_classes_are_drawn_from_the_same_stream_of_words():
    labels = np.repeat(np.arange(1500), 2)
    wide = data.ArrayDataset(np.arange(3000, dtype=np.float32).reshape(-1, 1, 1, 1), labels)
    (views,) = next(iter(data.Episodes(wide, 1500, 1)))
    assert len(set(members(views).ravel())) == 3000


def test_one_class_only_raises():
    one = data.ArrayDataset(np.zeros((6, 1, 1, 1)), np.zeros(6, int))
    for kind in (data.Pairs, data.Triplets):
        with pytest.raises(
            ValueError, match=f"{kind.__name__}: takes at least 2 classes of a group with 2 images each"
        ):
            kind(one, 4, 1)


def test_what_does_not_fit_raises(dataset):
    with pytest.raises(
        ValueError, match="Episodes: takes at least 5 classes of a group with 2 images each, got at most 4"
    ):
        data.Episodes(dataset, 5, 1, groups=GROUP)
    with pytest.raises(ValueError, match="Episodes: ways and views must be at least 2, got 4 and 1"):
        data.Episodes(dataset, 4, 1, views=1)
    with pytest.raises(ValueError, match="Pairs: groups are of 3 classes but the labels of 12"):
        data.Pairs(dataset, 4, 1, groups=[0, 1, 1])
    with pytest.raises(ValueError, match="Triplets: steps must be at least 1, got 0"):
        data.Triplets(dataset, 4, 0)
