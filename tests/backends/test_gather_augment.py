"""Batches of a data set equal, bit for bit, loops over their pixels that draw from NumPy's own Philox."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.augmentation import BORDERS, FLIPS, Augmentation
from gpunet.backends.contract import BatchRequest, Clock, Samples
from gpunet.random import PURPOSES


def words(seed, position, epoch):
    key, counter = [np.array(numbers, np.uint64) for numbers in ((seed, PURPOSES["augment"]), (0, 0, position, epoch))]
    return [int(word) for word in np.random.Philox(key=key, counter=counter).random_raw(4)]


def source(i, extent, border):
    """The pixel of the image that pixel i of a padded axis shows; None for a border of zeros."""
    if 0 <= i < extent:
        return i
    return None if border == "zero" else -i if i < 0 else 2 * extent - 2 - i


def expected_image(image, a, *, seed, position, epoch):
    """One image by the definition, one pixel after another."""
    height, width, channels = image.shape
    h, w = a.size or (height, width)
    drawn = words(seed, position, epoch)
    spare = [extent + 2 * a.padding - part for extent, part in ((height, h), (width, w))]
    top, left = [((d >> 32) * (s + 1)) >> 32 if a.random_crop else s // 2 for d, s in zip(drawn, spare, strict=False)]
    mirrored = {
        "none": 0,
        "random": drawn[2] >> 63,
        "alternate": (words(seed, position, 0)[2] >> 63) ^ (epoch & 1),
    }[a.flip]
    upended = a.vertical and drawn[2] >> 62 & 1
    hole = [((half * extent) >> 32) - a.cutout // 2 for half, extent in ((drawn[3] >> 32, h), (drawn[3] % 2**32, w))]
    y = np.zeros((h, w, channels), np.float32 if a.mean else np.uint8)
    for i in range(h):
        for j in range(w):
            row = source(top - a.padding + (h - 1 - i if upended else i), height, a.border)
            column = source(left - a.padding + (w - 1 - j if mirrored else j), width, a.border)
            cut = 0 <= i - hole[0] < a.cutout and 0 <= j - hole[1] < a.cutout
            pixel = np.zeros(channels, np.uint8) if cut or row is None or column is None else image[row, column]
            for c in range(channels):
                value = pixel[c]
                if a.mean:
                    mean, std = a.mean[c % len(a.mean)], a.std[c % len(a.std)]
                    value = np.float32(pixel[c]) * np.float32(1 / (255 * std)) + np.float32(-mean / std)
                y[i, j, c] = 0 if cut and a.cutout_last else value
    return y


@st.composite
def cases(draw):
    height, width, channels = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.sampled_from([1, 2, 3, 5]))
    padding = draw(st.integers(0, min(height, width, 4) - 1))
    crop = st.tuples(st.integers(1, height + 2 * padding), st.integers(1, width + 2 * padding))
    per_channel = draw(st.sampled_from([0, 1, channels]))
    return (height, width, channels), Augmentation(
        size=draw(st.none() | crop),
        padding=padding,
        border=draw(st.sampled_from(BORDERS)),
        random_crop=draw(st.booleans()),
        flip=draw(st.sampled_from(FLIPS)),
        vertical=draw(st.booleans()),
        cutout=draw(st.integers(0, 6)),
        cutout_last=draw(st.booleans()),
        mean=(0.1, 0.5, 0.3, 0.7, 0.2)[:per_channel],
        std=(0.3, 0.25, 1.0, 0.4, 0.6)[:per_channel],
    )


@settings(max_examples=60)
@given(
    case=cases(),
    count=st.integers(1, 12),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**64 - 1) | st.integers(0, 5),
    part=st.data(),
)
def test_a_batch_is_its_definition_bit_for_bit(backend, case, count, seed, epoch, part):
    shape, a = case
    rng = np.random.default_rng(count)
    images, labels = rng.integers(1, 256, (count, *shape), dtype=np.uint8), rng.integers(0, 99, count).astype(np.int32)
    order = rng.integers(0, count, 2 * count).astype(np.int32)
    start = part.draw(st.integers(0, len(order)))
    rows = part.draw(st.integers(0, len(order) - start))
    on = backend.asarray
    samples = Samples(on(images), on(labels), on(order), a)
    x, y = backend.gather_augment(samples, BatchRequest(seed, epoch, start, rows))
    x, y, taken = backend.to_numpy(x), backend.to_numpy(y), order[start : start + rows].tolist()
    assert (x.dtype, y.dtype) == (np.float32 if a.mean else np.uint8, np.int32)
    np.testing.assert_array_equal(y, labels[taken])
    assert x.shape == (rows, *(a.size or shape[:2]), shape[2])
    for got, position in zip(x, taken, strict=True):
        np.testing.assert_array_equal(
            got, expected_image(images[position], a, seed=seed, position=position, epoch=epoch)
        )


ALL = Augmentation(padding=2, border="reflect", random_crop=True, flip="alternate", cutout=3, mean=(0.5,), std=(0.25,))


@pytest.fixture
def samples(backend, rng):
    """23 images and labels on the backend, in a random order."""
    images, labels = rng.integers(0, 256, (23, 7, 6, 3), dtype=np.uint8), rng.integers(0, 10, 23).astype(np.int32)
    return Samples(*(backend.asarray(a) for a in (images, labels, rng.permutation(23).astype(np.int32))), ALL)


@pytest.mark.parametrize("step", [0, 2, 3, 7, 2**64 - 1])
def test_a_clock_takes_the_place_of_epoch_and_start(backend, samples, step):
    clock = Clock(backend.asarray(np.array([step, 5], np.uint64)), steps=4, stride=6)
    got = backend.gather_augment(samples, BatchRequest(seed=3, epoch=99, start=1, rows=5, clock=clock))
    expected = backend.gather_augment(samples, BatchRequest(seed=3, epoch=5, start=(step % 4) * 6, rows=5))
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(mine), backend.to_numpy(theirs))


def test_a_clocks_batch_beyond_the_end_repeats_the_last_position(backend, samples):
    clock = Clock(backend.asarray(np.array([3, 0], np.uint64)), steps=4, stride=6)
    x, y = (backend.to_numpy(a) for a in backend.gather_augment(samples, BatchRequest(seed=3, rows=8, clock=clock)))
    expected, labels = (
        backend.to_numpy(a) for a in backend.gather_augment(samples, BatchRequest(seed=3, start=18, rows=5))
    )
    np.testing.assert_array_equal(x, expected[[0, 1, 2, 3, 4, 4, 4, 4]])
    np.testing.assert_array_equal(y, labels[[0, 1, 2, 3, 4, 4, 4, 4]])


def test_a_batch_is_written_to_the_given_arrays(backend, samples):
    x, y = backend.full((4, 7, 6, 3), 9.0, np.float32), backend.full((4,), 9, np.int32)
    got = backend.gather_augment(samples, BatchRequest(seed=3, start=2, rows=4), out=(x, y))
    assert got[0] is x
    assert got[1] is y
    for mine, theirs in zip(
        (x, y), backend.gather_augment(samples, BatchRequest(seed=3, start=2, rows=4)), strict=True
    ):
        np.testing.assert_array_equal(backend.to_numpy(mine), backend.to_numpy(theirs))


def test_normalised_images_are_rounded_to_the_requested_dtype(backend, samples):
    x, _ = backend.gather_augment(samples, BatchRequest(seed=3))
    for dtype in backend.dtypes:
        got, _ = backend.gather_augment(samples, BatchRequest(seed=3, dtype=dtype))
        assert got.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(backend.to_numpy(got), backend.to_numpy(backend.cast(x, dtype)))
    pixels, _ = backend.gather_augment(
        samples._replace(augmentation=replace(ALL, mean=(), std=())), BatchRequest(seed=3, dtype="float32")
    )
    assert pixels.dtype == np.uint8


def test_labels_may_be_absent_and_rows_go_to_the_end_of_the_order(backend, samples):
    x, y = backend.gather_augment(samples._replace(labels=None), BatchRequest(seed=3, start=20))
    assert y is None
    whole, _ = backend.gather_augment(samples, BatchRequest(seed=3))
    np.testing.assert_array_equal(backend.to_numpy(x), backend.to_numpy(whole)[20:])


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"start": 20, "rows": 4}, ValueError, "order has 23 positions but 4 from 20 on are asked for"),
        ({"start": -1}, ValueError, "order has 23 positions but 24 from -1 on"),
        ({"clock": (2, 5, 6)}, ValueError, "order has 23 positions but 1 from 24 on"),
        (
            {"clock": (3, 4, 5)},
            ValueError,
            r"a clock takes \(2,\) counters, at least 1 step and a stride of at least 0, got \(3,\), 4",
        ),
        ({"images": np.zeros((23, 7, 6, 3), np.float32)}, TypeError, "images must be uint8 on 4 axes, got float32"),
        ({"labels": np.zeros(23, np.int64)}, TypeError, "labels must be int32 on 1 axes, got int64"),
        ({"labels": np.zeros(22, np.int32)}, ValueError, "labels must be 23, one for each image, got 22"),
        ({"order": np.zeros(23, np.int64)}, TypeError, "order must be int32 on 1 axes, got int64"),
        (
            {"augmentation": replace(ALL, padding=6)},
            ValueError,
            "images of 7x6 pixels are too small to move or pad by 6",
        ),
        ({"augmentation": replace(ALL, mean=(1, 1), std=(1, 1))}, ValueError, "3 channels but mean and std have 2"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(backend, samples, changes, kind, message):
    batch = BatchRequest(0)
    for name, value in changes.items():
        if name == "clock":
            value = Clock(backend.asarray(np.zeros(value[0], np.uint64)), *value[1:])
            batch = batch._replace(rows=6)
        value = backend.asarray(value) if isinstance(value, np.ndarray) else value
        if name in Samples._fields:
            samples = samples._replace(**{name: value})
        else:
            batch = batch._replace(**{name: value})
    with pytest.raises(kind, match=f"^gather_augment: .*{message}"):
        backend.gather_augment(samples, batch)
