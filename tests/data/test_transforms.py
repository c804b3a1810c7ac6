import dataclasses
import time

import numpy as np
import pytest

from gpunet import data
from gpunet.data.transforms import _augment_words
from gpunet.random import PURPOSES, Stream, words

CHOICES = {"epoch": 3, "seed": 7}


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(1, 256, (40, 6, 9, 3), dtype=np.uint8)  # no zeros: they mean "entered"


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_normalize_is_its_formula(dtype, channels):
    x = np.random.default_rng(0).integers(0, 256, (5, 4, 6, channels)).astype(np.uint8)
    x = x if dtype == np.uint8 else (x / 255).astype(dtype)
    mean, std = np.array([0.5, 0.4, 0.1])[:channels], np.array([0.25, 0.2, 0.3])[:channels]
    got = data.normalize(x, tuple(mean), tuple(std))
    unit = 255 if dtype == np.uint8 else 1
    assert got.dtype == np.float32
    assert got.shape == x.shape
    np.testing.assert_allclose(got, (x.astype(np.float64) / unit - mean) / std, rtol=0, atol=2e-6)


def test_normalize_takes_one_number_for_every_channel(images):
    whole = data.normalize(images, (0.5,), (0.25,))
    assert np.array_equal(whole, data.normalize(images, (0.5,) * 3, (0.25,) * 3))


def test_normalize_keeps_nan():
    assert np.isnan(data.normalize(np.full((1, 1, 1, 1), np.nan, np.float32), (0.5,), (0.5,))).all()


def test_normalize_is_fast():
    x, best = np.zeros((128, 28, 28, 1), np.uint8), np.inf
    for _ in range(50):
        start = time.perf_counter()
        data.normalize(x, (0.3,), (0.3,))
        best = min(best, time.perf_counter() - start)
    assert best < 0.3e-3


def test_parameters_are_frozen_and_compare():
    normalize = data.Normalize([0.5, 0.25, 1], np.array([1, 2, 3]))
    assert normalize == data.Normalize((0.5, 0.25, 1.0), (1.0, 2.0, 3.0))
    assert hash(normalize) == hash(data.Normalize((0.5, 0.25, 1.0), (1.0, 2.0, 3.0)))
    assert data.Normalize(0, 1).mean == (0.0,)
    assert data.Compose([normalize]) == data.Compose((normalize,))
    for transform, name in ((normalize, "mean"), (data.RandomShift(2), "pixels"), (data.Compose([]), "transforms")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(transform, name, 0)


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
@pytest.mark.parametrize("epoch", [0, 5])
def test_words_are_the_first_of_each_samples_stream(seed, epoch):
    indices = np.array([0, 1, 59_999, 2**40])
    got = _augment_words(indices, epoch, seed)
    for position, index in enumerate(indices.tolist()):
        stream = Stream(seed, PURPOSES["augment"], call=index, epoch=epoch)
        assert got[:, position].tolist() == words(stream, 4).tolist()


def test_flip_mirrors_the_images_that_word_two_chooses(images):
    indices = np.arange(100, 140)
    got = data.random_flip(images, indices=indices, **CHOICES)
    flipped = 0
    for x, y, index in zip(images, got, indices.tolist(), strict=True):
        chosen = words(Stream(7, PURPOSES["augment"], call=index, epoch=3), 3)[2] >= 2**63
        assert np.array_equal(y, x[:, ::-1] if chosen else x)
        flipped += chosen
    assert 10 < flipped < 30


def test_shift_moves_as_words_zero_and_one_say_and_fills_with_zeros(images):
    indices = np.arange(100, 140)
    got = data.random_shift(images, 2, indices=indices, **CHOICES)
    moves = set()
    for x, y, index in zip(images, got, indices.tolist(), strict=True):
        rows, columns = words(Stream(7, PURPOSES["augment"], call=index, epoch=3), 2).tolist()
        up, left = ((rows >> 32) * 5 >> 32) - 2, ((columns >> 32) * 5 >> 32) - 2
        expected = np.zeros_like(x)
        for i in range(6):
            for j in range(9):
                if 0 <= i + up < 6 and 0 <= j + left < 9:
                    expected[i, j] = x[i + up, j + left]
        assert np.array_equal(y, expected)
        moves.add((up, left))
    assert {up for up, _ in moves} == {left for _, left in moves} == {-2, -1, 0, 1, 2}
    assert any(up != left for up, left in moves)


@pytest.mark.parametrize("transform", [data.RandomShift(2), data.RandomFlip()])
def test_choice_depends_on_index_epoch_and_seed_but_not_on_place(transform, images):
    indices = np.arange(40)
    (whole,) = transform((images,), indices=indices, epoch=0, seed=0)
    order = np.random.default_rng(0).permutation(40)
    (moved,) = transform((images[order],), indices=indices[order], epoch=0, seed=0)
    assert np.array_equal(moved, whole[order])
    for other in ({"epoch": 1, "seed": 0}, {"epoch": 0, "seed": 1}):
        assert not np.array_equal(transform((images,), indices=indices, **other)[0], whole)
    assert not np.array_equal(transform((images,), indices=indices + 40, epoch=0, seed=0)[0], whole)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_transforms_leave_their_input_and_keep_its_dtype(images, dtype):
    x = images.astype(dtype)
    before = x.copy()
    for transform in (data.RandomShift(2), data.RandomFlip(), data.RandomShift(0)):
        (y,) = transform((x,), indices=np.arange(40), **CHOICES)
        assert y.dtype == dtype
        assert not np.shares_memory(x, y)
        assert np.array_equal(x, before)
    assert np.array_equal(y, x)  # a shift by nothing


def test_transforms_take_images_that_are_not_contiguous(images):
    turned = images.transpose(0, 2, 1, 3)
    for transform in (data.RandomShift(2), data.RandomFlip(), data.Normalize((0.1, 0.2, 0.3), 3 * (0.5,))):
        (y,) = transform((turned,), indices=np.arange(40), **CHOICES)
        (expected,) = transform((np.ascontiguousarray(turned),), indices=np.arange(40), **CHOICES)
        assert np.array_equal(y, expected)


def test_compose_applies_in_order_and_passes_the_other_arrays(images):
    labels, indices = np.arange(40), np.arange(40)
    parts = (data.RandomShift(1), data.RandomFlip(), data.Normalize(0.5, 0.5))
    x, y = data.Compose(parts)((images, labels), indices=indices, **CHOICES)
    expected = data.random_shift(images, 1, indices=indices, **CHOICES)
    expected = data.random_flip(expected, indices=indices, **CHOICES)
    assert np.array_equal(x, data.normalize(expected, (0.5,), (0.5,)))
    assert y is labels


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: data.Normalize((0.5, 0.5), (1.0,)), ValueError, "Normalize: mean has 2 channels but std has 1"),
        (lambda: data.Normalize(0.5, 0), ValueError, r"Normalize: std must be positive, got \(0\.0,\)"),
        (lambda: data.Normalize(np.nan, 1), ValueError, "Normalize: mean must be one finite number a channel"),
        (lambda: data.Normalize((), ()), ValueError, "Normalize: mean must be one finite number a channel"),
        (lambda: data.Normalize("a", 1), TypeError, "Normalize: mean must be numbers, got 'a'"),
        (lambda: data.RandomShift(-1), ValueError, "RandomShift: pixels must not be negative, got -1"),
        (lambda: data.RandomShift(1.5), TypeError, "RandomShift: pixels must be an integer, got 1.5"),
        (lambda: data.Compose([3]), TypeError, "Compose: transforms must be callable, got 3"),
    ],
)
def test_bad_parameters_raise(make, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        make()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda x, i: data.normalize(x[0], (0.5,), (0.5,)), ValueError, r"normalize: images have shape \(6, 9, 3\)"),
        (
            lambda x, i: data.normalize(x, (1, 1), (1, 1)),
            ValueError,
            "normalize: images have 3 channels but mean has 2",
        ),
        (lambda x, i: data.normalize(x.astype(int), (1,), (1,)), TypeError, "normalize: images are int64 but must be"),
        (lambda x, i: data.random_flip(x[0], indices=i, **CHOICES), ValueError, "random_flip: images have shape"),
        (
            lambda x, i: data.random_flip(x, indices=i[1:], **CHOICES),
            ValueError,
            "random_flip: indices .* of 40 images",
        ),
        (lambda x, i: data.random_shift(x, 1, indices=i[1:], **CHOICES), ValueError, "random_shift: indices"),
        (lambda x, i: data.random_shift(x, 6, indices=i, **CHOICES), ValueError, "random_shift: pixels is 6 .* 6x9"),
    ],
)
def test_bad_images_raise(images, call, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        call(images, np.arange(40))
