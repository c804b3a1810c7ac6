"""COCO's JSON, from files that the tests write, beside pycocotools' own reading of them."""

import contextlib
import io
import json

import numpy as np
import pytest

from gpunet import data

Image = pytest.importorskip("PIL.Image")
W, H = 24, 20


def entry(image, category, box, **more):
    return {"image_id": image, "category_id": category, "bbox": box, **more}


@pytest.fixture
def content():
    """Two images; category ids with gaps, and not in order."""
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": H, "width": W} for i in (7, 3)],
        "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
        "annotations": [entry(3, 9, [1, 2, 5.5, 6]), entry(7, 4, [0, 0, 3, 4]), entry(3, 4, [10, 5, 2, 3])],
    }


def write(folder, content):
    path = folder / "set.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def official(path):
    coco = pytest.importorskip("pycocotools.coco").COCO
    with contextlib.redirect_stdout(io.StringIO()):
        return coco(str(path))


def disc(x, y, radius):
    rows, columns = np.mgrid[:H, :W]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_boxes_and_classes_are_read(tmp_path, content, rng):
    for i in (7, 3):
        Image.fromarray(rng.integers(0, 255, (H, W, 3), np.uint8)).save(tmp_path / f"{i}.png")
    found = data.coco(write(tmp_path, content))
    assert (len(found), found.classes) == (2, ("cat", "dog"))
    images, boxes, labels = found[np.arange(2)]
    assert images.shape == (2, H, W, 3)
    np.testing.assert_array_equal(boxes, [[[0, 0, 3, 4], [0] * 4], [[1, 2, 6.5, 8], [10, 5, 12, 8]]])
    np.testing.assert_array_equal(labels, [[0, -1], [1, 0]])


def test_crowds_are_left_out_and_unusable_boxes_counted(tmp_path, content):
    content["annotations"] += [
        entry(3, 9, [0, 0, 20, 20], iscrowd=1),
        entry(3, 9, [4, 4, 0, 6]),
        entry(7, 9, [20, 5, 9, 9]),
    ]
    message = r"coco: skipped 1 box without area in the image \(3\.png\); cut off 1 box that reach out .*\(7\.png\)"
    with pytest.warns(UserWarning, match=message):
        found = data.coco(write(tmp_path, content))
    assert [len(each.boxes) for each in found.annotations] == [2, 2]
    np.testing.assert_array_equal(found.annotations[0].boxes[1], [20, 5, W, 14])


def test_written_boxes_are_read_again_by_us_and_by_pycocotools(tmp_path, content):
    found = data.coco(write(tmp_path, content))
    data.write_coco(tmp_path / "again.json", found.annotations, found.classes)
    again = data.coco(tmp_path / "again.json")
    assert again.classes == found.classes
    for one, other in zip(found.annotations, again.annotations, strict=True):
        assert (one.path.resolve(), one.size) == (other.path.resolve(), other.size)
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.labels, other.labels)
    theirs = official(tmp_path / "again.json")
    assert [a["bbox"] for a in theirs.loadAnns(theirs.getAnnIds(imgIds=[2]))] == [[1, 2, 5.5, 6], [10, 5, 2, 3]]
    assert [c["name"] for c in theirs.loadCats(theirs.getCatIds())] == ["cat", "dog"]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # annToMask's own
def test_a_data_set_is_made_of_images_and_masks(tmp_path):
    pytest.importorskip("pycocotools")
    masks = np.stack([disc(6, 7, 4), disc(15, 11, 6)])
    made = data.annotate_masks(tmp_path / "cells.png", masks, [1, 0])
    data.write_coco(tmp_path / "set.json", [made], ["nucleus", "cell"])
    (read,) = data.coco(tmp_path / "set.json").annotations
    np.testing.assert_array_equal(read.masks(), masks)
    np.testing.assert_array_equal(read.boxes, [[2, 3, 11, 12], [9, 5, 22, 18]])
    theirs = official(tmp_path / "set.json")
    for mask, annotation in zip(masks, theirs.loadAnns(theirs.getAnnIds()), strict=True):
        np.testing.assert_array_equal(theirs.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()


def test_polygons_and_uncompressed_codes_are_masks_too(tmp_path, content):
    pytest.importorskip("pycocotools")
    square = [[2, 3, 8, 3, 8, 10, 2, 10], [12, 3, 14, 3, 14, 5, 12, 5]]
    counts = [H * 4 + 2, 3, H * W - H * 4 - 5]  # column by column
    content["annotations"] = [
        entry(3, 9, [2, 3, 12, 7], segmentation=square),
        entry(3, 4, [4, 2, 1, 3], segmentation={"size": [H, W], "counts": counts}),
    ]
    masks = data.coco(write(tmp_path, content)).annotations[1].masks()
    expected = np.zeros((2, H, W), bool)
    expected[0, 3:10, 2:8] = expected[0, 3:5, 12:14] = expected[1, 2:5, 4] = True
    np.testing.assert_array_equal(masks, expected)


def test_masks_that_do_not_fit_raise(tmp_path):
    pytest.importorskip("pycocotools")
    code = data.encode_mask(disc(6, 7, 4))
    with pytest.raises(ValueError, match=r"decode_mask: x\.png has a mask of \[20, 24\] but is \[21, 24\]"):
        data.decode_mask(code, (H + 1, W), source="x.png")
    with pytest.raises(ValueError, match="has a polygon that is not x, y of at least three points"):
        data.decode_mask([[1, 2, 3, 4]], (H, W))
    with pytest.raises(ValueError, match=r"annotate_masks: .*x\.png takes masks \(K, H, W\) and K labels"):
        data.annotate_masks(tmp_path / "x.png", np.ones((2, H, W)), [0])
    with pytest.raises(ValueError, match="boxes_of_masks: mask 1 has no pixel"):
        data.annotate_masks(tmp_path / "x.png", np.stack([disc(6, 7, 4), np.zeros((H, W))]), [0, 0])
    with pytest.raises(ValueError, match=r"Annotation: .*x\.png has 2 labels but boxes \(1, 4\) and 0 segmentations"):
        data.Annotation(tmp_path / "x.png", (H, W), np.ones((1, 4)), np.zeros(2, int))
    with pytest.raises(ValueError, match="has boxes but no masks"):
        data.Annotation(tmp_path / "x.png", (H, W), np.ones((1, 4)), np.zeros(1, int)).masks()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: "", "is empty but must be JSON"),
        (lambda c: '{"images": [', "is not JSON"),
        (lambda c: "[]", "must hold an object, got a list"),
        (lambda c: {**c, "images": []}, 'has no entries in "images"'),
        (lambda c: {k: v for k, v in c.items() if k != "annotations"}, 'must have a list "annotations"'),
        (lambda c: {**c, "categories": [{"id": 1}]}, r"categories\[0\] has no name"),
        (lambda c: {**c, "annotations": [entry(3, 9, [1, 2, 3])]}, r"annotations\[0\] must have bbox"),
        (lambda c: {**c, "annotations": [entry(8, 9, [1, 2, 3, 4])]}, r"annotations\[0\] is of image 8"),
    ],
)
def test_bad_file_raises_with_its_name_and_the_entry(tmp_path, content, change, message):
    with pytest.raises(ValueError, match=rf"^coco: .*set\.json:? {message}"):
        data.coco(write(tmp_path, change(content)))
    with pytest.raises(FileNotFoundError, match=r"coco: there is no file .*none\.json"):
        data.coco(tmp_path / "none.json")


def test_images_without_annotations_have_no_boxes(tmp_path, content):
    found = data.coco(write(tmp_path, {**content, "annotations": []}))
    assert [len(each.boxes) for each in found.annotations] == [0, 0]


def test_nothing_is_written_where_something_does_not_fit(tmp_path, content):
    found = data.coco(write(tmp_path, content))
    target = tmp_path / "elsewhere" / "new.json"
    target.parent.mkdir()
    with pytest.raises(ValueError, match=r"write_coco: .*7\.png has label 0 but there are 0 classes"):
        data.write_coco(target, found.annotations, [], images=tmp_path)
    with pytest.raises(ValueError, match=r"write_coco: .*7\.png is not in .*elsewhere"):
        data.write_coco(target, found.annotations, found.classes)
    assert not list(target.parent.iterdir())
