import dataclasses
import time

import numpy as np
import pytest

from gpunet import data
from gpunet.data.transforms import compiled
from gpunet.random import PURPOSES, Stream, words

CHOICES = {"epoch": 3, "seed": 7}
RANDOM = [
    data.RandomShift(2), data.RandomShift(2, "reflect"), data.RandomCrop((4, 5), 1),
    data.RandomHorizontalFlip(), data.AlternatingFlip(),
    data.RandomVerticalFlip(), data.Cutout(3),
]  # fmt: skip


def run(transform, images, indices=None, **choices):
    """The images alone through a transform."""
    indices = np.arange(len(images)) if indices is None else indices
    return transform((images,), indices=indices, **{**CHOICES, **choices})[0]


def normalize(images, mean, std):
    return run(data.Normalize(mean, std), images)


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(1, 256, (40, 6, 9, 3), dtype=np.uint8)  # no zeros: they mean "entered"


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_normalize_is_its_formula(dtype, channels):
    x = np.random.default_rng(0).integers(0, 256, (5, 4, 6, channels)).astype(np.uint8)
    x = x if dtype == np.uint8 else (x / 255).astype(dtype)
    mean, std = np.array([0.5, 0.4, 0.1])[:channels], np.array([0.25, 0.2, 0.3])[:channels]
    got = normalize(x, mean, std)
    unit = 255 if dtype == np.uint8 else 1
    assert got.dtype == np.float32
    assert got.shape == x.shape
    np.testing.assert_allclose(got, (x.astype(np.float64) / unit - mean) / std, rtol=0, atol=2e-6)


def test_normalize_takes_one_number_for_every_channel(images):
    whole = normalize(images, 0.5, 0.25)
    assert np.array_equal(whole, normalize(images, (0.5,) * 3, (0.25,) * 3))


def test_normalize_keeps_nan():
    assert np.isnan(normalize(np.full((1, 1, 1, 1), np.nan, np.float32), 0.5, 0.5)).all()


def test_normalize_is_fast():
    x, best = np.zeros((128, 28, 28, 1), np.uint8), np.inf
    for _ in range(50):
        start = time.perf_counter()
        normalize(x, 0.3, 0.3)
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


def test_flip_mirrors_the_images_that_word_two_chooses(images):
    indices = np.arange(100, 140)
    got = run(data.RandomHorizontalFlip(), images, indices)
    flipped = 0
    for x, y, index in zip(images, got, indices.tolist(), strict=True):
        chosen = words(Stream(7, PURPOSES["augment"], call=index, epoch=3), 3)[2] >= 2**63
        assert np.array_equal(y, x[:, ::-1] if chosen else x)
        flipped += chosen
    assert 10 < flipped < 30


def test_shift_moves_as_words_zero_and_one_say_and_fills_with_zeros(images):
    indices = np.arange(100, 140)
    got = run(data.RandomShift(2), images, indices)
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


@pytest.mark.parametrize("transform", RANDOM)
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
    for transform in (*RANDOM, data.CenterCrop((4, 5)), data.Compose(RANDOM[::2]), data.RandomShift(0)):
        (y,) = transform((x,), indices=np.arange(40), **CHOICES)
        assert y.dtype == dtype
        assert not np.shares_memory(x, y)
        assert np.array_equal(x, before)
    assert np.array_equal(y, x)  # a shift by nothing


def test_transforms_take_images_that_are_not_contiguous(images):
    turned = images.transpose(0, 2, 1, 3)
    for transform in (*RANDOM, data.Normalize((0.1, 0.2, 0.3), 3 * (0.5,))):
        (y,) = transform((turned,), indices=np.arange(40), **CHOICES)
        (expected,) = transform((np.ascontiguousarray(turned),), indices=np.arange(40), **CHOICES)
        assert np.array_equal(y, expected)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [data.RandomShift(1), data.RandomHorizontalFlip(), data.Normalize(0.5, 0.5)],
        [
            data.RandomCrop(5, 2, "reflect"),
            data.RandomVerticalFlip(),
            data.RandomHorizontalFlip(),
            data.Cutout(2),
            data.Normalize(0.5, 1),
        ],
        [data.AlternatingFlip(), data.Normalize((0.1, 0.2, 0.3), 0.5 * np.ones(3)), data.Cutout(4)],
        [
            data.Normalize(0.5, 0.5),
            data.RandomHorizontalFlip(),
            data.RandomShift(1),
            data.RandomShift(2),
        ],  # takes four passes
        [data.Compose([data.RandomHorizontalFlip(), data.Cutout(2)]), data.Compose([data.Cutout(3)])],
    ],
)
def test_compose_applies_in_order_and_passes_the_other_arrays(images, parts):
    labels, indices = np.arange(40), np.arange(40)
    x, y = data.Compose(parts)((images, labels), indices=indices, **CHOICES)
    expected = images
    for part in parts:
        expected = run(part, expected)
    assert np.array_equal(x, expected)
    assert x.dtype == expected.dtype
    assert y is labels


def test_compose_calls_functions_of_the_users_in_their_place(images):
    def halve(batch, *, indices, epoch, seed):
        assert (indices.tolist(), epoch, seed) == (list(range(40)), 3, 7)
        return batch[0] // 2, *batch[1:]

    got = run(data.Compose([data.RandomShift(1), halve, data.RandomHorizontalFlip()]), images)
    assert np.array_equal(got, run(data.RandomHorizontalFlip(), run(data.RandomShift(1), images) // 2))


def test_alternating_flip_shows_each_image_both_ways_in_two_epochs(images):
    even, odd, later = (run(data.AlternatingFlip(), images, epoch=epoch) for epoch in (0, 1, 6))
    assert np.array_equal(even, run(data.RandomHorizontalFlip(), images, epoch=0))
    assert np.array_equal(odd, even[:, :, ::-1])
    assert np.array_equal(later, even)


def test_center_crop_takes_the_middle_and_pads(images):
    assert np.array_equal(run(data.CenterCrop((3, 4)), images), images[:, 1:4, 2:6])
    padded = run(data.CenterCrop((8, 9), padding=1), images)
    assert np.array_equal(padded[:, 1:-1], images)
    assert not padded[:, [0, -1]].any()


def test_cutout_is_black_before_the_normalisation_and_the_mean_after_it(images):
    black = run(data.Compose([data.Cutout(3), data.Normalize(0.25, 0.5)]), images)
    mean = run(data.Compose([data.Normalize(0.25, 0.5), data.Cutout(3)]), images)
    hole = run(data.Cutout(3), images) == 0
    assert 0 < hole.sum() <= 40 * 9 * 3
    assert (black[hole] == -0.5).all()
    assert (mean[hole] == 0).all()
    assert np.array_equal(black[~hole], mean[~hole])


def test_only_one_pass_of_gpunets_transforms_compiles():
    made = compiled([data.RandomShift(2), data.RandomHorizontalFlip(), data.Normalize(0.5, 0.5)])
    assert (made.padding, made.random_crop, made.flip, made.mean) == (2, True, "random", (0.5,))
    message = (
        "^DeviceLoader: RandomShift cannot follow RandomHorizontalFlip in one pass: crop or shift first, then flips"
    )
    with pytest.raises(ValueError, match=message):
        compiled([data.RandomHorizontalFlip(), data.RandomShift(1)], "DeviceLoader")
    with pytest.raises(ValueError, match="^Compose: Cutout cannot follow Cutout in one pass"):
        compiled([data.Cutout(1), data.Cutout(2)])
    with pytest.raises(TypeError, match="^DeviceLoader: transform <function.* takes host arrays"):
        compiled([lambda batch, **_: batch], "DeviceLoader")


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: data.Normalize((0.5, 0.5), (1.0,)), ValueError, "Normalize: mean has 2 channels but std has 1"),
        (lambda: data.Normalize(0.5, 0), ValueError, r"Normalize: std must be positive, got \(0\.0,\)"),
        (lambda: data.Normalize(np.nan, 1), ValueError, "Normalize: mean must be one finite number per channel"),
        (lambda: data.Normalize((), ()), ValueError, "Normalize: mean must be one finite number per channel"),
        (lambda: data.Normalize("a", 1), TypeError, "Normalize: mean must be numbers, got 'a'"),
        (lambda: data.RandomShift(-1), ValueError, "RandomShift: pixels must be at least 0, got -1"),
        (lambda: data.RandomShift(1.5), TypeError, "RandomShift: pixels must be an integer, got 1.5"),
        (
            lambda: data.RandomShift(1, "wrap"),
            ValueError,
            "RandomShift: border is 'wrap' but takes one of zero, reflect",
        ),
        (lambda: data.RandomCrop(0), ValueError, "RandomCrop: size must be at least 1, got 0"),
        (
            lambda: data.RandomCrop((3, 4, 5)),
            TypeError,
            r"RandomCrop: size must be an integer or \(height, width\), got",
        ),
        (lambda: data.CenterCrop(3, -1), ValueError, "CenterCrop: padding must be at least 0, got -1"),
        (lambda: data.Cutout(2.5), TypeError, "Cutout: size must be an integer, got 2.5"),
        (lambda: data.Compose([3]), TypeError, "Compose: transforms must be callable, got 3"),
    ],
)
def test_bad_parameters_raise(make, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        make()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda x, i: normalize(x[0], 0.5, 0.5),
            ValueError,
            r"Normalize: images have shape \(6, 9, 3\) but take 4 axes",
        ),
        (
            lambda x, i: normalize(x, (1, 1), (1, 1)),
            ValueError,
            "Normalize: images have 3 channels but mean and std have 2",
        ),
        (
            lambda x, i: normalize(x.astype(int), 1, 1),
            TypeError,
            "Normalize: images are int64 but must be uint8 or float",
        ),
        (
            lambda x, i: run(data.RandomHorizontalFlip(), x, i[1:]),
            ValueError,
            r"RandomHorizontalFlip: indices must have shape \(40,\), got \(39,\)",
        ),
        (
            lambda x, i: run(data.RandomShift(6), x),
            ValueError,
            "RandomShift: images of 6x9 pixels are too small .* by 6",
        ),
        (
            lambda x, i: run(data.RandomCrop(9, 1), x),
            ValueError,
            "RandomCrop: .* 6x9 pixels, padded by 1, .* crop to 9x9",
        ),
        (
            lambda x, i: run(data.CenterCrop(7), x),
            ValueError,
            "CenterCrop: .* 6x9 pixels are too small to crop to 7x7",
        ),
    ],
)
def test_bad_images_raise(images, call, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        call(images, np.arange(40))
