"""Warps, against SciPy's and NumPy's."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from gpunet import data
from gpunet.backends.numpy.compiled.library import why_unavailable
from gpunet.backends.numpy.compiled.warp import warp as warp_in_loop
from gpunet.data.transforms import uniform
from gpunet.data.warp import warp
from gpunet.random import PURPOSES, Stream
from gpunet.random import uniform as stream_uniform

MODES = {"zero": "grid-constant", "reflect": "mirror", "edge": "nearest"}
"""SciPy's words for the borders."""


def run(transform, images, indices=None, epoch=3, seed=7):
    indices = np.arange(len(images)) if indices is None else indices
    return transform((images,), indices=indices, epoch=epoch, seed=seed)[0]


@settings(max_examples=60)
@given(
    extents=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    border=st.sampled_from(sorted(MODES)),
    nearest=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_warp_is_scipys(extents, size, border, nearest, seed):
    rng = np.random.default_rng(seed)
    images, matrices = rng.normal(size=(3, *extents, 2)), rng.normal(size=(3, 2, 3)) * (1, 1, 9)
    got = warp(images, matrices, size, border=border, nearest=nearest)
    for n in range(3):
        for c in range(2):
            expected = ndimage.affine_transform(
                images[n, ..., c], matrices[n, :, :2], matrices[n, :, 2], size,
                order=0 if nearest else 1, mode=MODES[border], prefilter=False,
            )  # fmt: skip
            np.testing.assert_allclose(got[n, ..., c], expected, rtol=0, atol=1e-12)


@pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    border=st.sampled_from(sorted(MODES)),
    dtype=st.sampled_from(["uint8", "float16", "float32", "float64"]),
    far=st.sampled_from([1, 9, 1e3, 1e12]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_compiled_loop_has_numpys_bits(monkeypatch, shape, size, border, dtype, far, seed):
    rng = np.random.default_rng(seed)
    images, matrices = (rng.random(shape) * 255).astype(dtype), rng.normal(size=(shape[0], 2, 3)) * (1, 1, far)
    if dtype != "uint8" and images.size:
        images.flat[0] = [np.nan, np.inf, -0.0][seed % 3]
    images.flags.writeable = False
    monkeypatch.setenv("GPUNET_FAST_CPU", "1")
    looped = warp_in_loop(images, matrices, size, border) is not None
    assert looped == (dtype != "float16" and images.size > 0)
    compiled = warp(images, matrices, size, border=border)
    turned = warp(images[:, ::-1], matrices, size, border=border)
    monkeypatch.setenv("GPUNET_FAST_CPU", "0")
    assert warp_in_loop(images, matrices, size, border) is None
    assert compiled.dtype == images.dtype
    np.testing.assert_array_equal(compiled, warp(images, matrices, size, border=border))
    np.testing.assert_array_equal(turned, warp(images[:, ::-1], matrices, size, border=border))


@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 2, 3), (4, 2, 2), (4, 3, 3), (4, 6)])
def test_another_number_of_matrices_than_of_images_is_refused(shape):
    with pytest.raises(ValueError, match=r"^warp: matrices have shape .* but must be \(4, 2, 3\)"):
        warp(np.zeros((4, 8, 8, 3), np.uint8), np.zeros(shape), (8, 8), border="zero")


def test_uniform_numbers_are_those_of_each_images_stream():
    for block in (0, 3):
        got = uniform(np.array([5, 2**40]), 4, 9, block)
        for position, index in enumerate((5, 2**40)):
            expected = stream_uniform(Stream(9, PURPOSES["augment"], call=index, epoch=4), 4 * block + 4)[-4:]
            np.testing.assert_array_equal(got[:, position], expected)


def test_a_warp_of_bytes_rounds_and_keeps_nan_of_floats():
    image = np.uint8([[[[0], [10], [20]]]])
    half = np.float64([[[1, 0, 0], [0, 1, 0.25]]])
    assert warp(image, half, (1, 2), border="edge").ravel().tolist() == [2, 12]  # 2.5 and 12.5, to the even one
    assert np.isnan(warp(np.full((1, 2, 2, 1), np.nan), half, (2, 2), border="edge")).all()


def test_a_rotation_by_a_right_angle_is_numpys(rng):
    images = rng.integers(0, 256, (60, 7, 7, 3), dtype=np.uint8)
    transform = data.RandomAffine(degrees=360)
    made = transform.matrices(7, 7, np.arange(60), 3, 7)
    angle = np.arctan2(made[:, 0, 1], made[:, 0, 0])
    assert np.ptp(angle) > 5
    np.testing.assert_allclose(np.linalg.det(made[:, :, :2]), 1)
    quarter = np.float64([[[0, 1, 0], [-1, 0, 6]]])
    np.testing.assert_array_equal(
        warp(images, quarter.repeat(60, 0), (7, 7), border="zero"), np.rot90(images, 1, (1, 2))
    )


@pytest.mark.parametrize(
    ("options", "check"),
    [
        ({"degrees": 30}, lambda m, c: np.abs(np.arctan2(m[:, 1, 0], m[:, 0, 0])).max() < np.deg2rad(30)),
        (
            {"scale": (0.5, 2.0)},
            lambda m, c: np.abs(np.log2(np.linalg.det(m[:, :, :2]))).max() < 2,
        ),
        ({"shear": 20}, lambda m, c: np.abs(m[:, 1, 0]).max() < np.tan(np.deg2rad(20)) and (m[:, 0, 1] == 0).all()),
        ({"translate": 0.25}, lambda m, c: (np.abs(m[:, :, 2]).max(axis=0) < (2, 3)).all() and (m[:, 0, 0] == 1).all()),
    ],
)
def test_an_affine_stays_within_its_limits_and_turns_about_the_centre(options, check):
    made = data.RandomAffine(**options).matrices(8, 12, np.arange(500), 3, 7)
    centre = np.array([3.5, 5.5])
    assert check(made, centre)
    away = made @ np.append(centre, 1) - centre
    if "translate" in options:
        np.testing.assert_allclose(np.abs(away).max(axis=0), (2, 3), rtol=0.02)
    else:
        np.testing.assert_allclose(away, 0, atol=1e-12)
    assert np.ptp(made, axis=0).max() > 0.3  # something is drawn


def test_an_affine_of_nothing_changes_nothing(rng):
    images = rng.integers(0, 256, (4, 6, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(run(data.RandomAffine(), images), images)


def test_a_resized_crop_is_a_part_of_the_image_of_the_area_and_aspect_asked_for(rng):
    height, width = 40, 60
    transform = data.RandomResizedCrop((10, 12), scale=(0.1, 0.3), ratio=(0.5, 2))
    made = transform.matrices(height, width, np.arange(800), 3, 7)
    ends = made @ np.float64([[-0.5, 9.5], [-0.5, 11.5], [1, 1]]) + 0.5  # the edges of the first and the last new pixel
    tall, wide = (ends[:, axis, 1] - ends[:, axis, 0] for axis in (0, 1))
    assert ends.min() > -1e-9
    assert (ends.max(axis=(0, 2)) < (height + 1e-9, width + 1e-9)).all()
    area, aspect = tall * wide / (height * width), wide / tall
    assert (0.1 <= area.min() < 0.105, 0.295 < area.max() <= 0.3) == (True, True)
    assert (0.5 <= aspect.min() < 0.51, 1.96 < aspect.max() <= 2) == (True, True)
    assert run(transform, rng.integers(0, 256, (5, height, width, 3), dtype=np.uint8)).shape == (5, 10, 12, 3)
    whole = data.RandomResizedCrop((8, 8), scale=(1, 1), ratio=(1, 1))
    images = rng.integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    np.testing.assert_array_equal(run(whole, images), images)


@pytest.mark.parametrize(
    "transform",
    [
        data.RandomAffine(degrees=30, translate=0.1, scale=(0.8, 1.2), shear=10),
        data.RandomResizedCrop((5, 6)),
        data.ColorJitter(0.3, 0.3, 0.3, 1 / 18),
        data.GaussianNoise(0.1),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_choices_depend_on_index_epoch_and_seed_but_not_on_place(transform, dtype, rng):
    images = rng.integers(0, 256, (40, 6, 9, 3), dtype=np.uint8)
    images = images if dtype == np.uint8 else (images / 255).astype(dtype)
    before, order = images.copy(), rng.permutation(40)
    whole = run(transform, images)
    assert whole.dtype == dtype
    np.testing.assert_array_equal(run(transform, images[order], order), whole[order])
    for other in ({"epoch": 4}, {"seed": 8}, {"indices": np.arange(40) + 40}):
        assert not np.array_equal(run(transform, images, **other), whole)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.RandomAffine(degrees=-1), "RandomAffine: degrees, translate, shear must be at least 0"),
        (lambda: data.RandomAffine(shear=90), "RandomAffine: .* shear below 90"),
        (
            lambda: data.RandomAffine(scale=(0, 1)),
            r"RandomAffine: scale must be \(smallest, largest\), both above 0, got \(0, 1\)",
        ),
        (
            lambda: data.RandomAffine(border="wrap"),
            "RandomAffine: border is 'wrap' but takes one of zero, reflect, edge",
        ),
        (lambda: data.RandomResizedCrop((0, 3)), r"RandomResizedCrop: size must be \(height, width\) of at least 1"),
        (lambda: data.RandomResizedCrop((3, 3), scale=(0.5, 0.1)), "RandomResizedCrop: scale must be"),
        (
            lambda: run(data.RandomAffine(), np.zeros((2, 3, 3, 1), int)),
            "RandomAffine: images are int64 .* take uint8 or float",
        ),
        (
            lambda: run(data.RandomAffine(), np.zeros((3, 3, 1), np.uint8)),
            r"RandomAffine: images are uint8 \(3, 3, 1\)",
        ),
    ],
)
def test_bad_parameters_and_images_raise(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()
