"""Pascal VOC's layout, from files that the tests write; and BCCD where it is."""

import os
from pathlib import Path

import numpy as np
import pytest

from gpunet import data

Image = pytest.importorskip("PIL.Image")
W, H = 40, 30


def annotation(objects, *, name="a.png", width=W, height=H):
    body = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
        "</bndbox></object>"
        for label, (x0, y0, x1, y1) in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}</filename>{size}{body}</annotation>"


@pytest.fixture
def folder(tmp_path, rng):
    """Two images; the first has a cat and a dog, the second a cat."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    for name in "ab":
        Image.fromarray(rng.integers(0, 255, (H, W, 3), np.uint8)).save(tmp_path / "JPEGImages" / f"{name}.png")
    write(tmp_path, "a", annotation([("dog", (2, 3, 12, 9)), ("cat", (20, 10, 40, 30))]))
    write(tmp_path, "b", annotation([("cat", (0, 0, 4, 8))], name="b.png"))
    (tmp_path / "ImageSets/Main/train.txt").write_text("a  1\nb -1\n")
    (tmp_path / "ImageSets/Main/test.txt").write_text("b\n")
    return tmp_path


def write(folder, name, text):
    (folder / "Annotations" / f"{name}.xml").write_text(text)


def test_images_come_with_their_boxes_and_the_rows_left_over_stand_for_none(folder):
    found = data.voc(folder, "train")
    assert (len(found), found.classes) == (2, ("cat", "dog"))
    images, boxes, labels = found[np.arange(2)]
    assert (images.shape, images.dtype) == ((2, H, W, 3), np.uint8)
    np.testing.assert_array_equal(images[1], np.asarray(Image.open(folder / "JPEGImages/b.png")))
    np.testing.assert_array_equal(boxes[0], [[2, 3, 12, 9], [20, 10, 40, 30]])
    np.testing.assert_array_equal(boxes[1], [[0, 0, 4, 8], [0, 0, 0, 0]])
    np.testing.assert_array_equal(labels, [[1, 0], [0, -1]])
    for one, several in zip(found[1], (images, boxes, labels), strict=True):
        np.testing.assert_array_equal(one, several[1])


def test_boxes_are_scaled_with_their_images(folder):
    images, boxes, _ = data.voc(folder, "train", size=(H // 2, W * 2))[np.arange(2)]
    assert images.shape == (2, H // 2, W * 2, 3)
    np.testing.assert_array_equal(boxes[0, 0], [4, 1.5, 24, 4.5])


def test_classes_are_those_of_every_split_unless_they_are_given(folder):
    assert data.voc(folder, "test").classes == ("cat", "dog")
    found = data.voc(folder, "test", classes=["fish", "cat"])
    assert found.annotations[0].labels.tolist() == [1]
    with pytest.raises(ValueError, match=r'voc: .*a\.xml names class "dog" but classes are cat'):
        data.voc(folder, "train", classes=["cat"])


def test_loader_and_joint_take_it(folder):
    transform = data.Joint([data.RandomFlip(), data.Normalize((0.5, 0.4, 0.3), (0.2, 0.2, 0.3))], boxes=(1,))
    loader = data.DataLoader(data.voc(folder, "train"), 2, transform=transform)
    images, boxes, labels = next(iter(loader))
    assert (images.dtype, boxes.shape, labels.shape) == (np.float32, (2, 2, 4), (2, 2))
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    np.testing.assert_array_equal(area > 0, labels >= 0)


def test_boxes_without_area_are_skipped_and_those_that_reach_out_cut_off_with_one_warning_that_counts(folder):
    objects = [("dog", (5, 5, 5, 5)), ("cat", (-3, 2, 8, 50)), ("cat", (41, 3, 60, 9)), ("dog", (1, 2, 3, 4))]
    write(folder, "a", annotation(objects))
    message = r"voc: skipped 2 boxes without area in the image \(a\.xml\); cut off 1 box that reach out of the image \(a\.xml\)"
    with pytest.warns(UserWarning, match=message):
        found = data.voc(folder, "train")
    np.testing.assert_array_equal(found.annotations[0].boxes, [[0, 2, 8, 30], [1, 2, 3, 4]])
    assert found.annotations[0].labels.tolist() == [0, 1]


def test_image_without_objects_has_no_boxes(folder):
    write(folder, "a", annotation([]))
    _, boxes, labels = data.voc(folder, "train")[0]
    assert not boxes.any()
    assert (labels == -1).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty but must be XML"),
        ("<annotation><size>", "is not well-formed XML"),
        ("<annotation></annotation>", "must have a number as size/height, got None"),
        (annotation([("cat", (1, "two", 3, 4))]), "must have a number as bndbox/ymin, got 'two'"),
        (annotation([("cat", (1, "nan", 3, 4))]), "must have a number as bndbox/ymin, got 'nan'"),
        (annotation([("", (1, 2, 3, 4))]), "has an object without a name"),
        (annotation([], width=0), "states a size of"),
    ],
)
def test_bad_annotation_raises_with_its_files_name(folder, text, message):
    write(folder, "b", text)
    with pytest.raises(ValueError, match=rf"^voc: .*b\.xml {message}"):
        data.voc(folder, "train")


def test_what_is_missing_raises_with_its_name(folder):
    with pytest.raises(FileNotFoundError, match=r"voc: there is no split .*val\.txt"):
        data.voc(folder, "val")
    (folder / "ImageSets/Main/train.txt").write_text("a\nghost\n")
    with pytest.raises(FileNotFoundError, match=r"voc: cannot read .*ghost\.xml"):
        data.voc(folder, "train")
    (folder / "ImageSets/Main/train.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"voc: split .*train\.txt names no images"):
        data.voc(folder, "train")


def test_image_that_is_not_as_annotated_raises_with_its_name(folder):
    write(folder, "b", annotation([], name="b.png", width=W + 1))
    with pytest.raises(ValueError, match=r"images must be of one size unless size= is given, got .*b\.png"):
        data.voc(folder, "train")
    with pytest.raises(ValueError, match=r"b\.png is \(30, 40\) \(height, width\) but annotated as \(30, 41\)"):
        data.voc(folder, "train", size=(8, 8))[1]
    (folder / "JPEGImages/a.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"cannot read .*a\.png"):
        data.voc(folder, "train", size=(8, 8))[0]


def test_bccd_has_its_published_numbers_and_two_boxes_without_area():
    if not (root := os.environ.get("GPUNET_DATA")) or not Path(root, "BCCD").is_dir():
        pytest.skip("GPUNET_DATA names no folder with BCCD")
    with pytest.warns(UserWarning, match=r"skipped 2 boxes .*\(BloodImage_00338.xml, BloodImage_00343.xml\)"):
        train = data.bccd("trainval")
    test = data.bccd("test")
    assert (len(train), len(test)) == (292, 72)
    counts = sum(np.bincount(each.labels, minlength=3) for each in (*train.annotations, *test.annotations))
    assert (counts.sum(), test.classes) == (4888 - 2, ("RBC", "WBC", "Platelets"))
    assert test[0][0].shape == (480, 640, 3)


def test_bccd_that_is_nowhere_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"bccd: there is no folder .*BCCD; get it from https://github.com"):
        data.bccd("test", tmp_path)
