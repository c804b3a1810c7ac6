"""COCO's JSON, from files that the tests write, beside pycocotools' own reading of them."""

import contextlib
import io
import json
import os

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
    message = r"coco: skipped 1 box without area in the image \(3\.png\); clipped 1 box partly outside .*\(7\.png\)"
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
    with pytest.raises(ValueError, match=r"boxes_of_masks: .*x\.png, mask 1 has no pixel"):
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
        (lambda c: {**c, "annotations": [entry(8, 9, [1, 2, 3, 4])]}, r"annotations\[0\] names image 8"),
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


def changed(content, name, i, /, **fields):
    """The content with other fields in the i-th entry of a list; those that are `...` are left out."""
    entries = [dict(each) for each in content[name]]
    entries[i] = {k: v for k, v in {**entries[i], **fields}.items() if v is not ...}
    return {**content, name: entries}


HUGE = (None, True, "480", "", 0, -1, 1.5, float("nan"), float("inf"), 10**12, 10**400, [H], {"n": H})


@pytest.mark.parametrize(
    ("name", "field", "values"),
    [
        ("images", "id", (None, True, 1.5, float("nan"), float("inf"), "", " ", [1], {}, "\ud800")),
        ("images", "height", HUGE),
        ("images", "width", HUGE),
        (
            "images",
            "file_name",
            (None, 3, "", " ", ["a.png"], "/etc/passwd", "../a.png", "x/../../a.png", "..", ".", "..\\a.png", "C:\\a.png",
             "c:/a.png", "\\\\host\\a.png", "a\0.png", "\ud800.png"),
        ),
        ("categories", "id", (None, False, 1.5, "", [1], "4")),
        ("categories", "name", (None, 3, "", "  ", ["dog"], "\udfff")),
        ("annotations", "image_id", (None, True, 3.5, "", [3], {})),
        ("annotations", "category_id", (None, True, 3.5, "", [3], {})),
        ("annotations", "iscrowd", (2, -1, 0.5, "maybe", float("nan"), [], [0], {})),
        ("annotations", "segmentation", ("abc", 7, True)),
        (
            "annotations",
            "bbox",
            (None, "1 2 3 4", [], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, None, 4], [1, 2, "3", 4], [1, 2, True, 4],
             [1, 2, float("nan"), 4], [1, float("inf"), 3, 4], [1, 2, -3, 4], [1, 2, 3, -4], [1, 2, 3, 2**60],
             [-1e300, 2, 3, 4], [1, 2, 3, 10**400], [[1, 2, 3, 4]], {"x": 1}, 7),
        ),
    ],
)  # fmt: skip
def test_an_invalid_field_raises_with_the_file_and_the_entry(tmp_path, content, name, field, values):
    for value in values:
        with pytest.raises(ValueError, match=rf"^coco: .*set\.json: ({name}\[0\]|ids of {name})") as caught:
            data.coco(write(tmp_path, changed(content, name, 0, **{field: value})))
        assert field in str(caught.value) or "ids of categories must be" in str(caught.value)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: changed(c, "images", 1, id=7), r"images\[1\] \(id 7\) has the same id as .*images\[0\]"),
        (lambda c: changed(c, "images", 1, id=7.0), r"images\[1\] \(id 7.0\) has the same id as"),
        (lambda c: changed(c, "categories", 1, id=9), r"categories\[1\] \(id 9\) has the same id as"),
        (lambda c: changed(c, "annotations", 1, id=5, image_id="7"), r"annotations\[1\] \(id 5\) names image '7'"),
        (lambda c: changed(c, "annotations", 1, category_id=5), r"annotations\[1\] names image 7 and category 5"),
        (lambda c: {**c, "images": [*c["images"], 3]}, r"images\[2\] must be an object, got 3"),
        (lambda c: {**c, "annotations": [None]}, r"annotations\[0\] must be an object, got None"),
        (lambda c: {**c, "annotations": [[]]}, r"annotations\[0\] must be an object, got \[\]"),
        (lambda c: {**c, "images": {"id": 3}}, 'must have a list "images"'),
        (lambda c: {**c, "categories": None}, 'must have a list "categories"'),
        (lambda c: changed(c, "images", 0, height=..., width=...), r"images\[0\] has no height, width"),
        (lambda c: changed(c, "annotations", 2, bbox=...), r"annotations\[2\] has no bbox"),
        (lambda c: "[" * 200_000, "is not JSON that can be read: it nests too deeply"),
        (
            lambda c: json.dumps(c)[:-1] + ', "info": ' + "[" * 100_000 + "]" * 100_000 + "}",
            "is not JSON that can be read",
        ),
        (lambda c: '{"images": ' + "9" * 5000 + "}", "is not JSON"),
        (lambda c: json.dumps(c) + json.dumps(c), "is not JSON"),
        (lambda c: "null", "must hold an object, got a NoneType"),
        (lambda c: "NaN", "must hold an object, got a float"),
        (lambda c: '"text"', "must hold an object, got a str"),
        (lambda c: "  \n", "is empty but must be JSON"),
        (lambda c: b"\xef\xbb\xbf", "is not JSON"),
        (lambda c: b'{"images": "\xe9\xff"}', "is not JSON"),
    ],
)
def test_a_file_that_does_not_fit_raises_with_its_name_and_the_entry(tmp_path, content, change, message):
    given = change(content)
    path = write(tmp_path, "" if isinstance(given, bytes) else given)
    if isinstance(given, bytes):
        path.write_bytes(given)
    with pytest.raises(ValueError, match=rf"^coco: .*set\.json:? {message}"):
        data.coco(path)


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path, content, codec):
    content["categories"][0]["name"] = "犬"
    path = tmp_path / "set.json"
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode(codec))
    assert data.coco(path).classes == ("cat", "犬")


def test_fields_of_other_kinds_that_mean_the_same_are_read(tmp_path, content):
    """Whole numbers with a point, ids of text, backslashes, NaN where nothing is read."""
    expected = data.coco(write(tmp_path, content)).annotations
    content["images"] = [
        {**each, "id": str(each["id"]), "height": float(H), "file_name": f"sub\\{each['file_name']}"}
        for each in content["images"]
    ]
    content["annotations"] = [
        {
            **each,
            "image_id": str(each["image_id"]),
            "category_id": float(each["category_id"]),
            "area": float("nan"),
            "id": 1,
        }
        for each in content["annotations"]
    ]
    for one, other in zip(expected, data.coco(write(tmp_path, content)).annotations, strict=True):
        assert (other.path, other.size) == (tmp_path / "sub" / one.path.name, one.size)
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_category_ids_of_text_are_in_their_order_and_large_ones_exact(tmp_path, content):
    by_text = {9: "b", 4: "a"}
    by_size = {9: 2**60 + 1, 4: 2**60}
    for ids in (by_text, by_size):
        made = {
            **content,
            "categories": [{**each, "id": ids[each["id"]]} for each in content["categories"]],
            "annotations": [{**each, "category_id": ids[each["category_id"]]} for each in content["annotations"]],
        }
        found = data.coco(write(tmp_path, made))
        assert found.classes == ("cat", "dog")
        assert found.annotations[1].labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("value", "crowd"),
    [(0, False), (1, True), (False, False), (True, True), ("0", False), ("1", True), ("false", False), ("True", True),
     (0.0, False), (1.0, True), (None, False), ("", False)],
)  # fmt: skip
def test_crowds_are_recognised_in_every_spelling(tmp_path, content, value, crowd):
    found = data.coco(write(tmp_path, changed(content, "annotations", 0, iscrowd=value)))
    assert len(found.annotations[1].boxes) == (1 if crowd else 2)


def test_boxes_far_beyond_the_image_are_clipped_exactly(tmp_path, content):
    content["annotations"] = [entry(3, 9, [-(2.0**52), -1e9, 2.0**53, 2e9]), entry(3, 4, [2**53, 0, 5, 5])]
    with pytest.warns(UserWarning, match="skipped 1 box without area .*; clipped 1 box"):
        found = data.coco(write(tmp_path, content))
    np.testing.assert_array_equal(found.annotations[1].boxes, [[0, 0, W, H]])


def some(folder, **fields):
    given = {"path": "a.png", "size": (H, W), "boxes": [[1, 2, 3, 4]], "labels": [0], **fields}
    return data.Annotation(**{**given, "path": folder / given["path"]})


def test_what_is_written_reads_back_equal(tmp_path, rng):
    made = []
    for i in range(20):
        corners = np.sort(rng.uniform(0, 1, (i, 2, 2)) ** 3, axis=1) * (W, H)
        boxes = np.unique(corners.reshape(i, 4), axis=0)
        masks = [[[1, 2, 3.5, 4, 5, 6]], {"size": [H, W], "counts": [5, H * W - 5]}]
        parts = tuple(masks[k % 2] for k in range(i)) if i % 2 else ()
        made.append(
            some(
                tmp_path,
                path=tmp_path / f"im age {i}.png",
                boxes=boxes,
                labels=rng.integers(0, 3, i),
                segmentations=parts,
            )
        )
    classes = (" dog", "猫", "dog")
    path = tmp_path / "set.json"
    data.write_coco(path, made, classes)
    read = data.coco(path)
    assert read.classes == classes
    for one, other in zip(made, read.annotations, strict=True):
        assert (one.path, one.size, one.segmentations) == (other.path, other.size, other.segmentations)
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.labels, other.labels)
    data.write_coco(tmp_path / "again.json", read.annotations, read.classes)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert {each.name for each in tmp_path.iterdir()} == {"set.json", "again.json"}


@pytest.mark.parametrize(
    ("fields", "classes", "message"),
    [
        ({"boxes": [[1, 2, 1, 4]]}, ["x"], r"write_coco: .*a\.png has box 0 of \[1.0, 2.0, 1.0, 4.0\]"),
        ({"boxes": [[3, 2, 1, 4]]}, ["x"], r"write_coco: .*a\.png has box 0"),
        ({"boxes": [[-1, 2, 3, 4]]}, ["x"], r"write_coco: .*a\.png has box 0"),
        ({"boxes": [[1, 2, 3, H + 1]]}, ["x"], r"write_coco: .*a\.png has box 0"),
        ({"boxes": [[2, 2, 2 + 1e-9, 4]]}, ["x"], r"write_coco: .*a\.png has box 0"),
        ({"labels": [1]}, ["x"], r"write_coco: .*a\.png has label 1 but there are 1 classes"),
        ({"boxes": [], "labels": []}, [], "write_coco: classes must be names"),
        ({}, "x", "write_coco: classes must be names"),
        ({}, [""], "write_coco: classes must be names"),
        ({}, [3], "write_coco: classes must be names"),
        ({}, ["\ud800"], "write_coco: classes must be names"),
        ({"path": "back\\slash.png"}, ["x"], "write_coco: .* has a name that COCO's readers would read as another"),
        ({"path": "."}, ["x"], "write_coco: .* has a name that COCO's readers would read as another"),
        (
            {"segmentations": ({"size": [H, W], "counts": [5]},)},
            ["x"],
            r"decode_mask: .*a\.png, object 0, has counts of 5",
        ),
        (
            {"segmentations": ([[1, 2, float("nan"), 4, 5, 6]],)},
            ["x"],
            r"decode_mask: .*a\.png, object 0, must have polygons",
        ),
        ({"segmentations": (None,)}, ["x"], r"decode_mask: .*a\.png, object 0, must have polygons"),
        (None, ["x"], "write_coco: there are no annotations"),
    ],
)
def test_a_good_file_is_never_replaced_by_a_bad_one(tmp_path, fields, classes, message):
    path = tmp_path / "set.json"
    data.write_coco(path, [some(tmp_path)], ["x"])
    before = path.read_bytes()
    given = [] if fields is None else [some(tmp_path, boxes=[], labels=[]), some(tmp_path, **fields)]
    with pytest.raises(ValueError, match=message):
        data.write_coco(path, given, classes)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "set.json"
    data.write_coco(path, [some(tmp_path)], ["x"])
    before = path.read_bytes()
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, lambda *_: (_ for _ in ()).throw(OSError("no space left")))
            with pytest.raises(OSError, match="no space left"):
                data.write_coco(path, [some(tmp_path)] * 2, ["x"])
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one_when_its_file_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "real" / "set.json")
    data.write_coco(tmp_path / "link.json", [some(tmp_path)], ["x"])
    assert (tmp_path / "link.json").is_symlink()
    assert len(data.coco(tmp_path / "real" / "set.json")) == 1


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"boxes": [[1, 2, 3, np.nan]]}, ValueError, "takes boxes of finite numbers"),
        ({"boxes": [[1, 2, np.inf, 4]]}, ValueError, "takes boxes of finite numbers"),
        ({"boxes": [[1, 2, 3, 1e300]]}, ValueError, "takes boxes of finite numbers"),
        ({"boxes": [[1, 2, 3]]}, ValueError, r"has 1 labels but boxes \(1, 3\)"),
        ({"boxes": []}, ValueError, r"has 1 labels but boxes \(0, 4\)"),
        ({"boxes": [["1", "2", "3", "4"]]}, TypeError, "takes boxes of numbers"),
        ({"boxes": [[True] * 4]}, TypeError, "takes boxes of numbers"),
        ({"boxes": [[1j] * 4]}, TypeError, "takes boxes of numbers"),
        ({"labels": [0.5]}, TypeError, "labels .* of whole numbers"),
        ({"labels": ["0"]}, TypeError, "labels .* of whole numbers"),
        ({"labels": [-1]}, ValueError, "labels of at least 0"),
        ({"labels": 0}, TypeError, "labels .* of whole numbers"),
        ({"labels": None}, TypeError, "labels .* of whole numbers"),
        ({"boxes": None}, TypeError, "takes boxes of numbers"),
        ({"labels": [[0]]}, TypeError, "labels .* of whole numbers"),
        ({"size": (0, W)}, ValueError, r"size must be \(height, width\)"),
        ({"size": (H, W, 3)}, TypeError, r"size must be \(height, width\)"),
        ({"size": (H, 2.5)}, TypeError, r"size must be \(height, width\)"),
        ({"size": None}, TypeError, r"size must be \(height, width\)"),
    ],
)
def test_an_invalid_annotation_raises(tmp_path, fields, error, message):
    with pytest.raises(error, match=rf"^Annotation: .*a\.png:? {message}|^Annotation: .*a\.png takes.*{message}"):
        some(tmp_path, **fields)


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int64", "uint64", "float16", "float32", "float64"]
)
def test_an_annotation_takes_numbers_of_any_kind(tmp_path, dtype):
    found = some(
        tmp_path, boxes=np.array([[1, 2, 3, 4]], dtype), size=np.array([H, W], "int16"), labels=np.array([1], "uint8")
    )
    assert (found.boxes.dtype, found.labels.dtype, found.size) == (np.float32, np.int64, (H, W))
    data.write_coco(tmp_path / "set.json", [found], ["x", "y"])
    np.testing.assert_array_equal(data.coco(tmp_path / "set.json").annotations[0].boxes, [[1, 2, 3, 4]])
    assert some(tmp_path, boxes=[], labels=[]).boxes.shape == (0, 4)


def test_labels_have_classes(tmp_path):
    with pytest.raises(ValueError, match=r"BoxDataset: .*a\.png has label 2 but there are 2 classes"):
        data.BoxDataset([some(tmp_path, labels=[2])], ["x", "y"])


def test_codes_and_polygons_of_arrays_and_bytes_are_written_as_text_and_lists(tmp_path):
    mask = disc(9, 9, 5)
    code = data.encode_mask(mask)
    made = {"size": np.array([H, W]), "counts": code["counts"].encode()}
    polygon = np.array([4, 3, 11, 3, 11, 9, 4, 9], np.float32)
    annotations = [some(tmp_path, segmentations=(part,)) for part in (made, [polygon], polygon[None])]
    data.write_coco(tmp_path / "set.json", annotations, ["x"])
    read = data.coco(tmp_path / "set.json").annotations
    assert [each.segmentations[0] for each in read] == [code, [polygon.tolist()], [polygon.tolist()]]
    for one, other in zip(annotations, read, strict=True):
        np.testing.assert_array_equal(one.masks(), other.masks())


def test_no_samples_are_empty_arrays(tmp_path):
    images, boxes, labels = data.BoxDataset([some(tmp_path)], ["x"])[np.array([], int)]
    assert (images.shape, boxes.shape, labels.shape) == ((0, H, W, 3), (0, 1, 4), (0, 1))
    assert (images.dtype, boxes.dtype, labels.dtype) == (np.uint8, np.float32, np.int64)


def test_labels_of_masks_are_whole_numbers_and_a_file_needs_a_folder(tmp_path):
    mask = disc(9, 9, 5)[None]
    for labels in ([0.7], ["0"], [True]):
        with pytest.raises(TypeError, match=r"^Annotation: a\.png takes .* labels \(K,\) of whole numbers"):
            data.annotate_masks("a.png", mask, labels)
    with pytest.raises(ValueError, match=r"^annotate_masks: a\.png takes masks .* got \(1, 20, 24\) and \(1, 1\)"):
        data.annotate_masks("a.png", mask, [[0]])
    with pytest.raises(FileNotFoundError, match="write_coco: there is no folder .*gone"):
        data.write_coco(tmp_path / "gone" / "set.json", [some(tmp_path)], ["x"], images=tmp_path)
    assert data.annotate_masks("a.png", mask[:0], []).boxes.shape == (0, 4)
