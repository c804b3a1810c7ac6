import colorsys

import numpy as np
import pytest

from gpunet import data, random
from gpunet.data.transforms import uniform

INDICES = np.arange(100, 130)


@pytest.fixture
def images(rng):
    return rng.uniform(0.2, 0.8, (30, 5, 6, 3))


def run(transform, images, seed=7):
    return transform((images, "kept"), indices=INDICES[: len(images)], epoch=3, seed=seed)[0]


def drawn():
    """The four numbers from -1 to 1 of each image."""
    return 2 * uniform(INDICES, 3, 7, data.ColorJitter.STREAM_BLOCK) - 1


def test_brightness_multiplies_and_is_cut_off_at_white(images):
    expected = np.clip(images * (1 + 0.9 * drawn()[0])[:, None, None, None], 0, 1)
    np.testing.assert_allclose(run(data.ColorJitter(brightness=0.9), images), expected)
    assert expected.max() == 1


def test_contrast_moves_away_from_the_mean_grey(images):
    got = run(data.ColorJitter(contrast=0.2), images)
    for x, y, u in zip(images, got, drawn()[1], strict=True):
        grey = np.mean(0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2])
        np.testing.assert_allclose(y, grey + (1 + 0.2 * u) * (x - grey))


def test_saturation_of_nothing_is_grey_and_keeps_the_brightness(images):
    got = run(data.ColorJitter(saturation=1), images)
    share = ((got - got.mean(axis=3, keepdims=True)).std(axis=(1, 2, 3))) / images.std(axis=(1, 2, 3))
    assert np.corrcoef(share, drawn()[2])[0, 1] > 0.95
    weights = np.array([0.299, 0.587, 0.114])
    inside = ((got > 0) & (got < 1)).all(axis=3)
    np.testing.assert_allclose((got @ weights)[inside], (images @ weights)[inside])


def test_hue_turns_colours_and_leaves_grey():
    grey, red = np.full((30, 1, 1, 3), 0.4), np.tile([0.5, 0.3, 0.3], (30, 1, 1, 1))
    transform = data.ColorJitter(hue=1 / 6)
    np.testing.assert_allclose(run(transform, grey), grey)
    for (got,), u in zip(run(transform, red)[:, 0], drawn()[3], strict=True):
        turned = (colorsys.rgb_to_hsv(*got)[0] * 360 + 180) % 360 - 180
        assert abs(turned - 60 * u) < 3  # HSV's hue is the angle in a hexagon
        np.testing.assert_allclose(got.sum(), 1.1)


def test_bytes_are_the_floats_rounded(rng):
    images = rng.integers(0, 256, (30, 5, 6, 3), dtype=np.uint8)
    for transform in (data.ColorJitter(0.4, 0.4, 0.4, 1 / 12), data.GaussianNoise(0.2)):
        as_floats = run(transform, images / 255) * 255
        np.testing.assert_array_equal(run(transform, images), np.rint(np.clip(as_floats, 0, 255)).astype(np.uint8))


def test_nothing_changes_nothing(images):
    np.testing.assert_allclose(run(data.ColorJitter(), images), images, rtol=1e-15)
    np.testing.assert_array_equal(run(data.GaussianNoise(0), images), images)


def test_other_numbers_of_channels_have_brightness_and_contrast(images):
    for channels in (1, 2, 5):
        x = np.tile(images[..., :1], channels)
        got = run(data.ColorJitter(0.2, 0.2), x)
        np.testing.assert_allclose(got, np.tile(got[..., :1], channels))
        with pytest.raises(ValueError, match=f"saturation and hue take images of 3 channels, got {channels}"):
            run(data.ColorJitter(saturation=0.1), x)


def test_noise_has_the_deviation_asked_for_and_is_not_shared(images):
    noise = run(data.GaussianNoise(0.1), images) - images
    stream = random.Stream(7, random.PURPOSES["augment"], step=1, call=100, epoch=3)  # step 0 places crops
    np.testing.assert_allclose(noise[0].ravel(), 0.1 * random.normal(stream, noise[0].size), atol=1e-15)
    assert abs(noise.std() - 0.1) < 0.003
    assert abs(noise.mean()) < 0.006
    assert abs(np.corrcoef(noise.reshape(30, -1))[np.triu_indices(30, 1)]).max() < 0.45
    flat = np.zeros((30, 5, 6, 3), np.float32)
    assert run(data.GaussianNoise(0.1), flat).min() < -0.2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.ColorJitter(contrast=1.5), "ColorJitter: contrast must be from 0 to 1, got 1.5"),
        (lambda: data.ColorJitter(hue=-1), "ColorJitter: hue must be from 0 to 0.5, got -1"),
        (lambda: data.ColorJitter("a"), "ColorJitter: brightness must be from 0 to 1, got 'a'"),
        (lambda: data.GaussianNoise(np.nan), "GaussianNoise: std must be at least 0, and finite, got nan"),
        (lambda: data.GaussianNoise("a"), "GaussianNoise: std must be at least 0, and finite, got 'a'"),
        (lambda: run(data.GaussianNoise(1), np.zeros((2, 3, 3, 1), int)), "GaussianNoise: images are int64"),
        (
            lambda: run(data.ColorJitter(), np.zeros((3, 3, 1))),
            "ColorJitter: images are float64 .* take uint8 or float",
        ),
    ],
)
def test_bad_parameters_and_images_raise(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()
