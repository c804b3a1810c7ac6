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
    transform = data.Joint([data.RandomHorizontalFlip(), data.Normalize((0.5, 0.4, 0.3), (0.2, 0.2, 0.3))], boxes=(1,))
    loader = data.DataLoader(data.voc(folder, "train"), 2, transform=transform)
    images, boxes, labels = next(iter(loader))
    assert (images.dtype, boxes.shape, labels.shape) == (np.float32, (2, 2, 4), (2, 2))
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    np.testing.assert_array_equal(area > 0, labels >= 0)


def test_boxes_without_area_are_skipped_and_boxes_beyond_the_image_clipped_with_one_warning(folder):
    objects = [("dog", (5, 5, 5, 5)), ("cat", (-3, 2, 8, 50)), ("cat", (41, 3, 60, 9)), ("dog", (1, 2, 3, 4))]
    write(folder, "a", annotation(objects))
    message = (
        r"voc: skipped 2 boxes without area in the image \(a\.xml\); clipped 1 box partly outside the image \(a\.xml\)"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        found = data.voc(folder, "train")
    assert caught[0].filename == __file__
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


BODY = "<size><width>40</width><height>30</height></size><object><name>%s</name>%s</object>"
BOX = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>12</xmax><ymax>9</ymax></bndbox>"


def single(folder, content, **options):
    """The annotation of image b, whose file holds `content`."""
    (folder / "Annotations" / "a.xml").write_text(annotation([]))
    content = content if isinstance(content, bytes) else content.encode()
    (folder / "Annotations" / "b.xml").write_bytes(content)
    found = data.voc(folder, "test", **options)
    return found.annotations[0], found.classes


@pytest.mark.parametrize(
    ("declared", "codec", "name"),
    [
        ("gb2312", "gb2312", "细胞"),
        ("gb2312", "gbk", "細胞"),  # characters of the wider encoding under the narrower one's name
        ("GBK", "gbk", "细胞"),
        ("gb18030", "gb18030", "细胞"),
        ("shift_jis", "shift_jis", "細胞"),
        ("Shift_JIS", "cp932", "①細胞"),
        ("euc-jp", "euc-jp", "細胞"),
        ("euc-kr", "euc-kr", "세포"),
        ("big5", "big5", "細胞"),
        ("iso-8859-1", "latin-1", "Zelle ü"),
        ("windows-1252", "cp1252", "Zelle € ü"),
        ("koi8-r", "koi8-r", "клетка"),
        ("utf-8", "utf-8", "细胞"),
        ("utf-8", "utf-8-sig", "细胞"),
        ("gb2312", "utf-8-sig", "细胞"),
        ("utf-16", "utf-16", "细胞"),
        ("utf-16", "utf-16-le", "细胞"),
        ("utf-16", "utf-16-be", "细胞"),
        ("utf-16", "utf-8", "细胞"),  # read as one byte per character, so it cannot be UTF-16
        ("utf-32", "utf-32", "细胞"),
        (None, "utf-8", "细胞"),
        (None, "utf-8-sig", "细胞"),
        (None, "utf-16", "细胞"),
    ],
)
def test_text_is_read_in_its_encoding(folder, declared, codec, name):
    head = f'<?xml version="1.0" encoding="{declared}"?>\n' if declared else ""
    text = f"{head}<annotation>{BODY % (name, BOX)}</annotation>"
    assert single(folder, text.encode(codec))[1] == (name,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'<?xml version="1.0" encoding="nonsense"?><annotation/>', "is not text in the encoding nonsense"),
        (b'<?xml version="1.0" encoding="base64"?><annotation/>', "is not text in the encoding base64"),
        (b"<annotation><name>\xff\xfe\xe9</name></annotation>", "is not text in the encoding utf-8"),
        (b'<?xml version="1.0" encoding="gb2312"?><annotation>\xff\xff</annotation>', "is not text in the encoding gb2312"),
        (b"\xff\xfe<", "is not text in the encoding utf-16"),
        (b"\x00\x01\x02", "is not text in the encoding utf-8: it holds null characters"),
        ("<!DOCTYPE annotation><annotation/>", "has a document type, which is refused"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><a>&x;</a>', "has a document type"),
        ("<annotation>&undefined;</annotation>", "is not well-formed XML"),
        (f"<annotation>{BODY % ('cat', BOX + BOX)}</annotation>", "has an object with 2 boxes"),
        (f"<annotation>{BODY % ('cat</name><name>dog', BOX)}</annotation>", "has name 2 times in one element"),
        (f"<annotation>{BODY % ('cat', '')}</annotation>", "must have a number as bndbox/xmin, got None"),
        (f"<annotation>{BODY % ('cat', BOX.replace('9', '1_0'))}</annotation>", "must have a number as bndbox/ymax, got '1_0'"),
        (f"<annotation>{BODY % ('cat', BOX.replace('9', '1e300'))}</annotation>", "must have a number as bndbox/ymax"),
        (f"<annotation>{BODY % ('cat', BOX + '<difficult>no idea</difficult>')}</annotation>", "must have 0 or 1 as difficult"),
        (annotation([], width="40.5"), "states a size of"),
        (annotation([], height=10**9), "states a size of"),
        (annotation([], height="inf"), "must have a number as size/height"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_raises_with_the_files_name(folder, content, message):
    with pytest.raises(ValueError, match=rf"^voc: .*b\.xml {message}"):
        single(folder, content)


def test_entities_that_expand_without_end_are_refused_at_once(folder):
    entities = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(12))
    bomb = f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY e0 "ha">{entities}]><a>&e12;</a>'
    with pytest.raises(ValueError, match=r"^voc: .*b\.xml has a document type"):
        single(folder, bomb)


def test_deeply_nested_parts_are_read_past_and_their_boxes_are_not_the_objects(folder):
    part = "<part><name>head</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>1</xmax><ymax>1</ymax></bndbox></part>"
    deep = "<x>" * 3000 + "</x>" * 3000
    found, classes = single(folder, f"<annotation>{BODY % ('person', part + part + deep + BOX)}</annotation>")
    assert classes == ("person",)
    np.testing.assert_array_equal(found.boxes, [[2, 3, 12, 9]])


def test_coordinates_are_numbers_with_fractions_and_may_count_from_one(folder):
    text = annotation([("cat", (2.5, "3.25", " 12 ", "9e0")), ("cat", (1, 1, W, H))], width="40.0")
    np.testing.assert_array_equal(single(folder, text)[0].boxes, [[2.5, 3.25, 12, 9], [1, 1, W, H]])
    found, _ = single(folder, text, one_based=True)
    np.testing.assert_array_equal(found.boxes, [[1.5, 2.25, 12, 9], [0, 0, W, H]])


def test_difficult_objects_are_left_out_where_asked(folder):
    marks = (None, "0", "1", " 1 ", "true", "False", "")
    text = "".join(
        f"<object><name>c{i}</name>{BOX}{'' if mark is None else f'<difficult>{mark}</difficult>'}</object>"
        for i, mark in enumerate(marks)
    )
    text = annotation([]).replace("</annotation>", f"{text}</annotation>")
    found, classes = single(folder, text)
    assert len(found.boxes) == len(classes) == 7
    found, classes = single(folder, text, skip_difficult=True)
    assert (found.labels.tolist(), len(classes)) == ([0, 1, 5, 6], 7)
    found, _ = single(folder, text, skip_difficult=True, classes=["c0", "c1", "c5", "c6"])
    assert found.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_splits_are_read_whatever_their_byte_order_mark_line_ends_and_blanks(folder, codec, end):
    for name in ("my image", "photo 1", "图"):
        write(folder, name, annotation([], name=f"{name}.png"))
    lines = ["", "a", "  b  ", "my image", "photo 1", "  ", "图", ""]
    (folder / "ImageSets/Main/train.txt").write_bytes(end.join(lines).encode(codec))
    found = data.voc(folder, "train")
    assert [each.path.stem for each in found.annotations] == ["a", "b", "my image", "photo 1", "图"]


def test_a_split_of_one_class_has_all_of_its_images(folder):
    write(folder, "my image", annotation([], name="my image.png"))
    (folder / "ImageSets/Main/cat_train.txt").write_text("a  1\nb -1\nmy image  0\na\t1\n")
    found = data.voc(folder, "cat_train")
    assert [each.path.stem for each in found.annotations] == ["a", "b", "my image", "a"]


def test_a_split_file_that_is_not_text_raises_with_its_name(folder):
    for content in (b"a\n\xff\xfe\xe9\n", b"a\0b\n", "a\nb\n".encode("utf-16-le")):
        (folder / "ImageSets/Main/train.txt").write_bytes(content)
        with pytest.raises(ValueError, match=r"^voc: .*train\.txt is not text in the encoding utf-8"):
            data.voc(folder, "train")


def test_hidden_annotation_files_are_ignored(folder):
    (folder / "Annotations" / "._a.xml").write_bytes(b"\x00\x05\x16\x07\x00")
    (folder / "Annotations" / ".x.xml").write_text(annotation([("ghost", (1, 2, 3, 4))]))
    assert data.voc(folder, "train").classes == ("cat", "dog")


@pytest.mark.parametrize(
    "filename",
    [
        "",
        "   ",
        "b",
        "b.jpg",
        "B.PNG",
        "nowhere.png",
        "C:\\data\\b.png",
        "/home/me/b.png",
        "../b.png",
        "a.png",
        "..",
        "b.png",
    ],
)
def test_the_image_is_that_of_the_annotations_name_whatever_the_filename_says(folder, filename):
    found, _ = single(folder, annotation([], name=filename))
    assert found.path == folder / "JPEGImages" / "b.png"
    without = annotation([]).replace("<filename>a.png</filename>", "")
    assert single(folder, without)[0].path == folder / "JPEGImages" / "b.png"


def test_the_filename_counts_where_no_image_has_the_annotations_name(folder):
    write(folder, "one", annotation([], name="C:\\data\\b.png"))
    (folder / "ImageSets/Main/test.txt").write_text("one\n")
    assert data.voc(folder, "test").annotations[0].path == folder / "JPEGImages" / "b.png"
    (folder / "JPEGImages" / "one.JPG").write_bytes((folder / "JPEGImages" / "b.png").read_bytes())
    assert data.voc(folder, "test").annotations[0].path == folder / "JPEGImages" / "one.JPG"
    write(folder, "one", annotation([], name="gone.png"))
    (folder / "JPEGImages" / "one.JPG").unlink()
    with pytest.raises(ValueError, match=r"read_image: cannot read .*gone\.png"):
        data.voc(folder, "test")[0]


def test_bccd_has_its_published_numbers_and_two_boxes_without_area():
    if not (root := os.environ.get("GPUNET_DATA")) or not Path(root, "BCCD").is_dir():
        pytest.skip("GPUNET_DATA names no folder with BCCD")
    with pytest.warns(UserWarning, match=r"skipped 2 boxes .*\(BloodImage_00338.xml, BloodImage_00343.xml\)"):
        train = data.bccd(split="trainval")
    test = data.bccd(split="test")
    assert (len(train), len(test)) == (292, 72)
    counts = sum(np.bincount(each.labels, minlength=3) for each in (*train.annotations, *test.annotations))
    assert (counts.sum(), test.classes) == (4888 - 2, ("RBC", "WBC", "Platelets"))
    assert test[0][0].shape == (480, 640, 3)


def test_bccd_that_is_nowhere_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"bccd: there is no folder .*BCCD; get it from https://github.com"):
        data.bccd(tmp_path, "test")
