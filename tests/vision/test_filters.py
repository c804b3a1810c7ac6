import numpy as np
import pytest
import tolerances
from helpers import same

import gpunet as gp
from gpunet.vision import filters

ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy, the oracle, is not installed")

MODES = {"reflect": "mirror", "edge": "nearest", "zero": "constant"}
"""gpunet's borders by SciPy's names."""


def edges(operator, plane, mode):
    return np.hypot(operator(plane, axis=1, mode=mode), operator(plane, axis=0, mode=mode))


def line(plane, length, angle, mode):
    """The mean of the image moved along a line, interpolated bilinearly."""
    steps = np.arange(length) - length // 2
    moves = [(-t * np.sin(np.radians(angle)), t * np.cos(np.radians(angle))) for t in steps]
    rows, columns = np.indices(plane.shape)
    return np.mean([ndimage.map_coordinates(plane, [rows + y, columns + x], order=1, mode=mode) for y, x in moves], 0)


BY_SCIPY = {
    "identity": ((), lambda x, mode: x),
    "box_blur": ((5,), lambda x, mode: ndimage.uniform_filter(x, 5, mode=mode)),
    "gaussian_blur": ((1.2,), lambda x, mode: ndimage.gaussian_filter(x, 1.2, mode=mode, truncate=4)),
    "sharpen": ((), lambda x, mode: ndimage.correlate(x, [[0, -1, 0], [-1, 5, -1], [0, -1, 0]], mode=mode)),
    "sobel": ((), lambda x, mode: edges(ndimage.sobel, x, mode)),
    "prewitt": ((), lambda x, mode: edges(ndimage.prewitt, x, mode)),
    "laplacian": ((), lambda x, mode: ndimage.laplace(x, mode=mode)),
    "emboss": ((), lambda x, mode: ndimage.correlate(x, [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], mode=mode)),
    "median": ((5,), lambda x, mode: ndimage.median_filter(x, 5, mode=mode)),
}
"""A filter's arguments, and what it makes of one channel of one image."""


def by_scipy(name, images, mode):
    images, plane_by_plane = np.asarray(images, np.float64), BY_SCIPY[name][1]
    planes = images.transpose(0, 3, 1, 2).reshape(-1, *images.shape[1:3])
    filtered = np.stack([plane_by_plane(plane, mode) for plane in planes])
    return filtered.reshape(*images.shape[:1], images.shape[3], *images.shape[1:3]).transpose(0, 2, 3, 1)


def on_host(backend):
    return "float64" in backend.dtypes


@pytest.mark.parametrize("border", MODES)
@pytest.mark.parametrize("name", BY_SCIPY)
def test_filters_agree_with_scipy(backend, dtype, rng, name, border):
    if name == "median" and not on_host(backend):
        pytest.skip("the median is computed on the host")
    images = rng.normal(size=(2, 9, 12, 3)).astype(dtype)
    y = getattr(filters, name)(images, *BY_SCIPY[name][0], border=border, backend=backend)
    assert y.dtype == dtype
    same(y, by_scipy(name, images, MODES[border]), tolerances.ORACLE)


@pytest.mark.parametrize("name", BY_SCIPY)
def test_bytes_come_back_rounded_and_clipped(rng, name):
    image = rng.integers(0, 256, (10, 11, 3), dtype=np.uint8)
    y = getattr(filters, name)(image, *BY_SCIPY[name][0])
    expected = by_scipy(name, image[None], "mirror")[0]
    assert y.dtype == np.uint8
    # where float32 falls on the other side of a half, a level up or down
    assert np.abs(y - np.clip(expected, 0, 255)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(("length", "angle"), [(5, 0), (7, 90), (9, 30), (5, 45), (3, -60), (1, 10)])
def test_motion_blur_is_the_mean_along_a_line(backend, dtype, rng, length, angle):
    image = rng.normal(size=(14, 15, 1)).astype(dtype)
    y = filters.motion_blur(image, length, angle, border="edge", backend=backend)
    same(y[..., 0], line(image[..., 0].astype(np.float64), length, angle, "nearest"), tolerances.ORACLE)


def test_kernels_are_the_textbooks_matrices():
    assert filters.kernel("sobel_x").tolist() == [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
    assert filters.kernel("sobel_y").tolist() == [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]
    assert filters.kernel("prewitt_x").tolist() == [[-1, 0, 1]] * 3
    assert filters.kernel("sharpen").tolist() == [[0, -1, 0], [-1, 5, -1], [0, -1, 0]]
    assert filters.kernel("motion", length=5).tolist() == [[0] * 5] * 2 + [[0.2] * 5] + [[0] * 5] * 2
    assert filters.kernel("box", size=5).shape == (5, 5)
    assert filters.kernel("gaussian", sigma=1.5).shape == (13, 13)
    for name in filters.NAMES:
        total = filters.kernel(name).sum()
        assert total == pytest.approx(0 if name.startswith(("sobel", "prewitt", "laplacian")) else 1)


@pytest.mark.parametrize("name", filters.NAMES)
def test_apply_takes_names_and_any_matrix_of_odd_extents(rng, name):
    image = rng.normal(size=(13, 14, 2))
    expected = ndimage.correlate(image, filters.kernel(name)[..., None], mode="mirror")
    same(filters.apply(image, name), expected, tolerances.ORACLE)
    oblong = rng.normal(size=(3, 5))
    same(filters.apply(image, oblong), ndimage.correlate(image, oblong[..., None], mode="mirror"), tolerances.ORACLE)


def test_floats_on_request_keep_the_sign_of_an_edge():
    step = np.zeros((5, 6, 1), np.uint8)
    step[:, 3:] = 10
    slopes = filters.apply(step, "sobel_x", dtype=np.float32)
    assert slopes.dtype == np.float32
    assert slopes[2, :, 0].tolist() == [0, 0, 40, 40, 0, 0]
    assert filters.apply(step[:, ::-1], "sobel_x")[2, :, 0].tolist() == [0] * 6  # -40 clipped
    assert filters.laplacian(step, dtype="float64")[2, :, 0].tolist() == [0, 0, 10, -10, 0, 0]
    assert filters.gaussian_blur(step / 255, dtype=np.uint8).max() == 0


def test_one_image_and_a_batch_give_the_same_and_the_input_stays(rng):
    images = rng.integers(0, 256, (3, 8, 7, 2), dtype=np.uint8)
    before = images.copy()
    batch = filters.emboss(images)
    assert np.array_equal(batch, np.stack([filters.emboss(one) for one in images]))
    assert np.array_equal(images, before)


def test_nan_stays_where_it_reaches(rng):
    image = rng.normal(size=(9, 9, 1))
    image[4, 4] = np.nan
    for name in BY_SCIPY:
        bad = np.isnan(getattr(filters, name)(image)[..., 0])
        assert bad[4, 4], name
        assert not bad[0].any() or name == "gaussian_blur", name


def test_the_median_is_refused_on_backends_without_a_kernel(backend):
    if on_host(backend):
        return
    message = f"median: is computed on numpy and reference only, got backend {backend.name}"
    with pytest.raises(gp.BackendError, match=message):
        filters.median(np.zeros((4, 4, 1), np.uint8), backend=backend)


IMAGE = np.zeros((4, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: filters.kernel("sobel"), ValueError, "kernel: name is 'sobel' but takes one of identity, box"),
        (lambda: filters.sobel(IMAGE[..., 0]), ValueError, r"sobel: image has shape (4, 5) but takes (H, W, C)"),
        (lambda: filters.sobel(IMAGE[:0]), ValueError, "sobel: image has shape (0, 5, 3)"),
        (lambda: filters.median(IMAGE[None, None]), ValueError, "median: image has shape (1, 1, 4, 5, 3)"),
        (lambda: filters.emboss(IMAGE.astype(int)), TypeError, "emboss: image is int64 but takes uint8 or a float"),
        (lambda: filters.emboss("picture"), TypeError, "emboss: image is <U7 but takes uint8 or a float dtype"),
        (lambda: filters.emboss(gp.tensor(IMAGE, requires_grad=True)), TypeError, "write tensor.numpy()"),
        (lambda: filters.emboss(IMAGE, dtype=int), TypeError, "emboss: dtype is int64 but takes uint8, a float"),
        (lambda: filters.emboss(IMAGE, border="wrap"), ValueError, "emboss: border is 'wrap' but takes one of reflect"),
        (lambda: filters.box_blur(IMAGE, 9), ValueError, "box_blur: an image of 4x5 pixels is too small to be reflected"),
        (lambda: filters.median(IMAGE, 9), ValueError, "median: an image of 4x5 pixels is too small to be reflected by 4"),
        (lambda: filters.box_blur(IMAGE, 4), ValueError, "box_blur: size is 4 but must be odd"),
        (lambda: filters.box_blur(IMAGE, 0), ValueError, "box_blur: size must be at least 1, got 0"),
        (lambda: filters.median(IMAGE, 2.0), TypeError, "median: size must be an integer, got 2.0"),
        (lambda: filters.motion_blur(IMAGE, 2), ValueError, "motion_blur: length is 2 but must be odd"),
        (lambda: filters.gaussian_blur(IMAGE, 0), ValueError, "gaussian_blur: sigma is 0 but must be positive"),
        (lambda: filters.apply(IMAGE, np.ones((2, 3))), ValueError, "apply: matrix must be numbers (KH, KW), both odd"),
        (lambda: filters.apply(IMAGE, [1, 2, 1]), ValueError, "apply: matrix must be numbers (KH, KW), both odd"),
        (lambda: filters.apply(IMAGE, [["a"]]), ValueError, "apply: matrix must be numbers (KH, KW), both odd"),
    ],
)  # fmt: skip
def test_bad_input_raises_an_error_of_one_line(call, error, message):
    with pytest.raises(error) as raised:
        call()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_image_smaller_than_the_window_is_taken_by_the_other_borders():
    for border in ("edge", "zero"):
        assert filters.gaussian_blur(IMAGE, 3.0, border=border).shape == IMAGE.shape


def test_float64_is_refused_where_it_is_not_computed(backend):
    if on_host(backend):
        return
    with pytest.raises(TypeError, match=f"float64 is not computed on {backend.name}"):
        filters.emboss(IMAGE.astype(np.float64), backend=backend)
