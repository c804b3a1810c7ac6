"""COCO's masks beside a plain decoder, point-in-polygon tests and pycocotools; in a child process what might take too much."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpunet
from gpunet import data

H, W = 20, 24

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own


def plain_decode(counts, height, width):
    """Pixel by pixel, down the columns."""
    mask, place, inside = np.zeros((height, width), bool), 0, False
    for run in counts:
        for _ in range(run):
            mask[place % height, place // height] = inside
            place += 1
        inside = not inside
    assert place == height * width
    return mask


def plain_runs(mask):
    runs, inside = [0], False
    for pixel in mask.T.ravel():
        if bool(pixel) != inside:
            runs.append(0)
            inside = not inside
        runs[-1] += 1
    return runs


def covered(polygon, height, width):
    """Which pixels' centres lie within a polygon, by the number of edges to their right."""
    points = np.reshape(polygon, (-1, 2)).astype(float)
    mask = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            ends = zip(points, np.roll(points, -1, axis=0), strict=True)
            hits = [
                a[0] + (y + 0.5 - a[1]) / (b[1] - a[1]) * (b[0] - a[0]) > x + 0.5
                for a, b in ends
                if (a[1] > y + 0.5) != (b[1] > y + 0.5)
            ]
            mask[y, x] = sum(hits) % 2
    return mask


def in_child(body, memory=1 << 30):
    """What a process prints that may take `memory` bytes more than its imports."""
    script = (
        "import resource, numpy as np\nfrom gpunet import data\nfrom pycocotools import mask\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        f"limit = pages * resource.getpagesize() + {memory}\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n" + body
    )
    root = str(Path(gpunet.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=root, check=False
    )


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded as Linux does it")


@pytest.fixture
def pycoco():
    return pytest.importorskip("pycocotools.mask")


def test_codes_are_decoded_as_pixel_by_pixel(rng, pycoco):
    for height, width in ((H, W), (1, 9), (9, 1), (1, 1), (300, 200)):
        for share in (0, 0.01, 0.5, 1):
            mask = rng.uniform(size=(height, width)) < share
            runs = plain_runs(mask)
            compressed = data.encode_mask(mask)["counts"]
            for counts in (runs, np.array(runs), tuple(runs), [0, 0, *runs], compressed, compressed.encode()):
                found = data.decode_mask({"size": [height, width], "counts": counts}, (height, width))
                assert found.dtype == bool
                np.testing.assert_array_equal(found, mask)
    np.testing.assert_array_equal(plain_decode(runs, height, width), mask)


def test_codes_of_long_runs_are_decoded_as_pycocotools_does(rng, pycoco):
    """Differences between runs of up to 500,000 pixels take several characters, and both signs."""
    height, width = 1000, 1200
    cuts = np.sort(rng.choice(height * width, 9, replace=False))
    runs = np.diff([0, *cuts, height * width]).tolist()
    code = pycoco.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    found = data.decode_mask(code, (height, width))
    np.testing.assert_array_equal(found, pycoco.decode(code).astype(bool))
    assert found.sum() == sum(runs[1::2])


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([3, 2], r"has counts of 5 pixels but the image has 480"),
        ([], r"has counts of 0 pixels but the image has 480"),
        ([480, 1], r"has counts of 481 pixels"),
        ([10**30], r"has counts of 10+ pixels"),
        ([500, -20], r"has counts with a run of -20 pixels"),
        ([-480], r"has counts with a run of -480 pixels"),
        ([1.0, 479.0], "must have counts of whole numbers, or text"),
        ([float("nan"), 480], "must have counts of whole numbers, or text"),
        (["1", "479"], "must have counts of whole numbers, or text"),
        ([True, 479], "must have counts of whole numbers, or text"),
        ([[1], [479]], "must have counts of whole numbers, or text"),
        (np.array([1.5, 478.5]), "must have counts of whole numbers, or text"),
        (None, "must have counts of whole numbers, or text"),
        (480, "must have counts of whole numbers, or text"),
        ({"0": 480}, "must have counts of whole numbers, or text"),
        ("", "has counts of 0 pixels"),
        ("5", "has counts of 5 pixels"),
        ("0 0", "has counts that are not a run-length code"),
        ("é", "has counts that are not a run-length code"),
        ("\x00", "has counts that are not a run-length code"),
        ("p" * 40, "has counts that are not a run-length code"),
        ("5P", "has counts that end within a number"),
        ("@", "has counts with a run of -16 pixels"),
    ],
)
def test_a_code_that_is_not_that_of_the_image_raises(counts, message):
    with pytest.raises(ValueError, match=rf"^decode_mask: x\.png {message}"):
        data.decode_mask({"size": [H, W], "counts": counts}, (H, W), source="x.png")


def test_each_shortened_or_lengthened_code_raises(rng):
    mask = rng.uniform(size=(H, W)) < 0.3
    code = data.encode_mask(mask)["counts"]
    for other in (*(code[:n] for n in range(len(code))), code + "1", code + "P", "1" + code):
        with pytest.raises(ValueError, match="decode_mask: segmentation has counts"):
            data.decode_mask({"size": [H, W], "counts": other}, (H, W))


@pytest.mark.parametrize(
    "size", [None, 480, [W, H], [H], [H, W, 1], ["20", "24"], [[H, W]], [float("nan"), W], [-H, -W]]
)
def test_a_code_of_another_size_raises(size):
    with pytest.raises(ValueError, match=r"decode_mask: x\.png has a mask of .* but is \[20, 24\]"):
        data.decode_mask({"size": size, "counts": [H * W]}, (H, W), source="x.png")
    with pytest.raises(ValueError, match=r"decode_mask: x\.png has a mask of None but is"):
        data.decode_mask({}, (H, W), source="x.png")


@pytest.mark.parametrize(
    ("size", "kind"),
    [((0, 0), ValueError), ((0, 5), ValueError), ((5, 0), ValueError), ((-1, 5), ValueError), ((2**40, 1), ValueError),
     ((5,), TypeError), (None, TypeError), ((2.5, 3), TypeError), (("2", "3"), TypeError), ((True, 3), TypeError)],
)  # fmt: skip
def test_an_invalid_image_size_raises(size, kind):
    for segmentation in ({"size": size, "counts": []}, [[0, 0, 1, 0, 1, 1]]):
        with pytest.raises(kind, match=r"decode_mask: x\.png: size must be \(height, width\)"):
            data.decode_mask(segmentation, size, source="x.png")
    with pytest.raises(ValueError, match=r"decode_mask: x\.png is of 16777216 x 1000 pixels, more than"):
        data.decode_mask([[0, 0, 1, 0, 1, 1]], (2**24, 1000), source="x.png")


@pytest.mark.parametrize("shape", [(0, 5), (5,), (2, 3, 4), ()])
def test_a_mask_of_another_shape_is_not_encoded(shape):
    with pytest.raises(ValueError, match="encode_mask: mask has shape"):
        data.encode_mask(np.ones(shape))


SQUARE = [2, 3, 8, 3, 8, 10, 2, 10]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "must have polygons or a run-length code"),
        (None, "must have polygons or a run-length code"),
        ("abc", "must have polygons or a run-length code"),
        (7, "must have polygons or a run-length code"),
        ([[]], "at least three points, got 0 numbers"),
        ([[1, 2, 3, 4]], "at least three points, got 4 numbers"),
        ([[*SQUARE, 5]], "at least three points, got 9 numbers"),
        ([SQUARE, []], "at least three points, got 0 numbers"),
        (SQUARE, "must have polygons"),
        ([[SQUARE]], "must have polygons"),
        ([[[2, 3], [8, 3], [8, 10]]], "must have polygons"),
        ([{"size": [H, W], "counts": [H * W]}], "must have polygons"),
        ([None], "must have polygons"),
        (["2 3 8 3 8 10"], "must have polygons"),
        ([["2", "3", "8", "3", "8", "10"]], "must have polygons"),
        ([[2, 3, 8, None, 8, 10]], "must have polygons"),
        ([[2, 3, 8, True, 8, 10]], "must have polygons"),
        ([[2, 3, 8, 1j, 8, 10]], "must have polygons"),
    ],
)
def test_invalid_polygons_raise(segmentation, message):
    with pytest.raises(ValueError, match=rf"^decode_mask: x\.png .*{message}"):
        data.decode_mask(segmentation, (H, W), source="x.png")


@on_linux
@pytest.mark.parametrize("bad", ["np.nan", "np.inf", "-np.inf", "2.0**54", "1e300", "10**400", "-(10**18)"])
def test_a_coordinate_that_is_not_a_number_or_too_large_raises_and_takes_no_memory(pycoco, bad):
    body = (
        f"for k in range(6):\n    polygon = [2, 3, 8, 3, 8, 10]\n    polygon[k] = {bad}\n"
        "    try:\n        data.decode_mask([polygon], (20, 24), source='x.png')\n"
        "    except ValueError as error:\n        print(error)\n"
    )
    done = in_child(body)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("decode_mask: x.png must have polygons") == 6


@on_linux
def test_polygons_far_larger_than_the_image_fill_what_they_cover_of_it(pycoco):
    """In little memory, however far they reach: 10 MB, with pycocotools' own walk of an outline some GB."""
    body = (
        "for far in (1e5, 1e9, 2.0**53):\n"
        "    print(data.decode_mask([[-far, -far, far, -far, far, far, -far, far]], (20, 24)).sum())\n"
        "    print(data.decode_mask([[-far, -far, 6, -far, 6, far, -far, far]], (20, 24)).sum())\n"
        "    print(data.decode_mask([[-far, 5, far, 5, far, far, -far, far]], (20, 24)).sum())\n"
        "    print(data.decode_mask([[far, far, far / 2, far, far, far / 2]], (20, 24)).sum())\n"
        "line = [v for k in range(20000) for v in ((3000 if k % 2 else -1000), k % 7)]\n"
        "print(data.decode_mask([line], (20, 24)).shape)\n"
    )
    done = in_child(body, memory=1 << 28)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:12] == ["480", "120", "360", "0"] * 3


def test_polygons_cut_off_at_the_image_are_those_of_the_definition(rng, pycoco):
    """Away from the outline, which is rounded: where the definition has 5 x 5 pixels alike. It may miss a sliver there."""
    for scale in (10, 300, 1e4, 1e7):
        for count in (3, 5, 8):
            polygon = (rng.normal(size=(count, 2)) * scale + (W / 2, H / 2)).ravel()
            found, expected = data.decode_mask([polygon], (H, W)), covered(polygon, H, W)
            near = np.lib.stride_tricks.sliding_window_view(np.pad(expected, 2, mode="edge"), (5, 5))
            alike = near.all(axis=(2, 3)) | ~near.any(axis=(2, 3))
            assert (found != expected)[alike].mean() < 0.02


def test_polygons_about_the_image_are_those_of_pycocotools(rng, pycoco):
    for _ in range(20):
        polygons = [(rng.normal(size=(n, 2)) * 15 + (W / 2, H / 2)).ravel().tolist() for n in (3, 4, 9)]
        expected = pycoco.decode(pycoco.merge(pycoco.frPyObjects(polygons, H, W)))
        np.testing.assert_array_equal(data.decode_mask(polygons, (H, W)), expected)
        assert data.decode_mask([np.array(polygons[0])], (H, W)).shape == (H, W)


def test_a_long_outline_is_drawn_in_pieces_as_at_once(rng, pycoco):
    star = (rng.uniform(size=(40000, 2)) * (W + 20, H + 20) - 10).ravel().tolist()
    expected = pycoco.decode(pycoco.frPyObjects([star], H, W))[..., 0]
    np.testing.assert_array_equal(data.decode_mask([star], (H, W)), expected)


def test_a_polygon_without_area_and_one_outside_have_no_pixel(pycoco):
    for polygon in ([3, 3, 3, 3, 3, 3], [1, 1, 5, 5, 9, 9], [30, 30, 40, 30, 40, 40], [-9, -9, -5, -9, -5, -5]):
        assert not data.decode_mask([polygon], (H, W)).any()


def test_masks_of_an_annotation_name_the_file_and_the_entry(tmp_path):
    content = (
        '{"images": [{"id": 3, "file_name": "a.png", "height": 20, "width": 24}], "categories": [{"id": 1, "name": "x"}],'
        '"annotations": [{"id": 17, "image_id": 3, "category_id": 1, "bbox": [1, 2, 3, 4], "segmentation": %s}]}'
    )
    for bad in (
        '{"size": [20, 24], "counts": [5, 3]}',
        "[[1, 2, NaN, 4, 5, 6]]",
        "[[1, 2, 1e999, 4, 5, 6]]",
        "[[[1, 2]]]",
    ):
        path = tmp_path / "set.json"
        path.write_text(content % bad)
        with pytest.raises(ValueError, match=r"set\.json: annotations\[0\] \(id 17\)"):
            data.coco(path).annotations[0].masks()


def test_a_mask_with_nan_or_without_numbers_is_not_encoded_as_full():
    with pytest.raises(ValueError, match="encode_mask: mask must not be NaN"):
        data.encode_mask(np.array([[0.0, np.nan]]))
    with pytest.raises(TypeError, match="encode_mask: mask must be real numbers or booleans"):
        data.encode_mask(np.array([["0", "1"]]))
