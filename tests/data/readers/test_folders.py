"""Which files and folders count, classes by name, and splits."""

import os
import shutil
import unicodedata

import numpy as np
import pytest

from gpunet import data
from gpunet.data.readers.folders import image_files, match_classes, split_folders

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def save(path, level=9):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((3, 4, 3), level, np.uint8)).save(path)


def make(root, *names):
    for name in names:
        save(root / name)
    return root


def listed(folder):
    return [path.relative_to(folder).as_posix() for path in image_files(folder)]


# ---- which files count


def test_hidden_and_foreign_files_and_folders_are_passed_over(tmp_path):
    make(
        tmp_path, "a/1.png", "a/.ipynb_checkpoints/1-checkpoint.png", "a/.2.png", "a/__MACOSX/3.png", "a/@eaDir/4.jpg",
        ".git/x/5.png", "__MACOSX/a/6.png", "b/x.png/7.PNG", "b/deep/.hidden/8.png", "b/deep/9.JPeG",
    )  # fmt: skip
    for junk in ("a/._1.png", "a/Thumbs.db", "a/.DS_Store", "b/notes.txt", "b/png"):
        (tmp_path / junk).write_bytes(b"junk")
    dataset = data.ImageFolder(tmp_path)
    assert dataset.classes == ("a", "b")
    assert dataset.names == ("a/1.png", "b/deep/9.JPeG", "b/x.png/7.PNG")
    assert dataset.labels.tolist() == [0, 1, 1]
    assert listed(tmp_path) == list(dataset.names)


def test_links_are_followed_but_no_circle_and_no_folder_twice(tmp_path):
    root, elsewhere = make(tmp_path / "root", "a/1.png", "b/2.png"), make(tmp_path / "elsewhere", "3.png", "deep/4.png")
    try:
        (root / "c").symlink_to(elsewhere, target_is_directory=True)
    except OSError:
        pytest.skip("no links here")
    (root / "a" / "more").symlink_to(elsewhere / "deep", target_is_directory=True)
    (root / "a" / "again").symlink_to(elsewhere / "deep", target_is_directory=True)
    (root / "a" / "file.png").symlink_to(elsewhere / "3.png")
    (root / "a" / "up").symlink_to(root, target_is_directory=True)
    (root / "b" / "self").symlink_to(root / "b", target_is_directory=True)
    (elsewhere / "deep" / "back").symlink_to(elsewhere, target_is_directory=True)
    (root / "all").symlink_to(root, target_is_directory=True)
    (root / "gone").symlink_to(tmp_path / "absent", target_is_directory=True)
    dataset = data.ImageFolder(root)
    assert dataset.classes == ("a", "b", "c")
    by_class = [[n.split("/", 1)[1] for n in dataset.names if n.startswith(name)] for name in ("a/", "b/", "c/")]
    assert [len(names) for names in by_class] == [
        4,
        1,
        2,
    ]  # a: its own, the linked file, and deep/ with what is behind back/
    assert by_class[1:] == [["2.png"], ["3.png", "deep/4.png"]]
    assert {"1.png", "file.png"} < set(by_class[0])


def test_a_pipe_named_like_an_image_is_ignored(tmp_path):
    make(tmp_path, "a/1.png")
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    os.mkfifo(tmp_path / "a/2.png")
    assert data.ImageFolder(tmp_path).names == ("a/1.png",)


@pytest.fixture
def damaged(tmp_path):
    """Classes a and b of three images each, and of unreadable ones."""
    make(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in (1, 3, 5)))
    (tmp_path / "a/0.png").write_bytes(b"")
    (tmp_path / "a/2.jpg").write_bytes(b"no image")
    (tmp_path / "b/4.png").write_bytes((tmp_path / "b/3.png").read_bytes()[:-30])
    (tmp_path / "b/2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path


def test_unreadable_images_are_left_out_with_one_warning_and_labels_stay_aligned(damaged):
    with pytest.warns(UserWarning, match="cannot be read") as caught:
        dataset = data.ImageFolder(damaged)
    assert [warning.filename for warning in caught] == [__file__]
    said = str(caught[0].message)
    assert said.startswith("ImageFolder: 4 of 10 images cannot be read and are left out: ")
    assert all(name in said for name in ("0.png", "2.jpg", "2.png", "4.png"))
    assert dataset.names == tuple(f"{c}/{i}.png" for c in "ab" for i in (1, 3, 5))
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset[np.arange(6)][0].shape == (6, 3, 4, 3)


def test_a_long_list_of_unreadable_images_is_cut(tmp_path):
    make(tmp_path, "a/x.png")
    for i in range(9):
        (tmp_path / f"a/{i}.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"9 of 10 images .*0\.png.*; also .*1\.png, .*2\.png, .*3\.png and 5 more$"):
        data.ImageFolder(tmp_path)


def test_a_broken_link_counts_as_unreadable(tmp_path):
    make(tmp_path, "a/1.png")
    (tmp_path / "a/2.png").symlink_to(tmp_path / "absent.png")
    with pytest.warns(UserWarning, match=r"1 of 2 images cannot be read and are left out: cannot read .*2\.png"):
        assert len(data.ImageFolder(tmp_path)) == 1


def test_unreadable_images_can_be_an_error_now_or_later(damaged):
    with pytest.raises(ValueError, match=r"^ImageFolder: 4 of 10 images cannot be read: cannot read .*0\.png"):
        data.ImageFolder(damaged, unreadable="raise")
    later = data.ImageFolder(damaged, unreadable="later")
    assert len(later) == 10
    with pytest.raises(ValueError, match=r"cannot read .*0\.png"):
        later[0]
    with pytest.raises(ValueError, match="unreadable is 'never' but takes warn, raise, later"):
        data.ImageFolder(damaged, unreadable="never")


def test_a_folder_without_a_readable_image_raises(damaged):
    for path in damaged.glob("*/*"):
        path.write_bytes(b"x")
    with pytest.raises(ValueError, match="^ImageFolder: 10 of 10 images cannot be read: "):
        data.ImageFolder(damaged)


def test_a_class_without_a_readable_image_raises(damaged):
    for path in (damaged / "b").iterdir():
        path.write_bytes(b"x")
    with (
        pytest.warns(UserWarning, match="7 of 10"),
        pytest.raises(ValueError, match="class folder .*b holds no image that can be read"),
    ):
        data.ImageFolder(damaged)


@pytest.mark.parametrize("name", ["", "file.zip", "absent"])
def test_a_root_that_is_not_a_folder_raises(tmp_path, monkeypatch, name):
    monkeypatch.chdir(make(tmp_path, "a/1.png"))
    (tmp_path / "file.zip").write_bytes(b"x")
    message = {
        "": "is empty but must name a folder",
        "file.zip": "is a file, not a folder",
        "absent": "is not a folder",
    }
    with pytest.raises((ValueError, FileNotFoundError), match=f"^ImageFolder: root .*{message[name]}"):
        data.ImageFolder(name)


# ---- classes by name


def test_labels_follow_the_names_that_are_given(tmp_path):
    make(tmp_path, "dog/1.png", "cat/2.png")
    dataset = data.ImageFolder(tmp_path, classes=("zebra", "dog", "cat"))
    assert dataset.classes == ("zebra", "dog", "cat")
    assert list(zip(dataset.names, dataset.labels.tolist(), strict=True)) == [("cat/2.png", 2), ("dog/1.png", 1)]


@pytest.mark.parametrize(
    ("found", "known", "hint"),
    [
        ("Cat", "cat", r"'Cat' is written 'cat' there"),
        ("cat ", "cat", r"'cat ' is written 'cat' there"),
        (unicodedata.normalize("NFD", "café"), "café", r"'cafe\\u0301' is written 'caf\\xe9' there"),
        ("bird", "cat", r"\(cat, dog\)$"),
    ],
)
def test_names_that_are_not_known_raise_with_those_that_are_alike(found, known, hint):
    with pytest.raises(ValueError, match=f"^eval: here has classes .* not among the 2 known ones .*{hint}"):
        match_classes("eval", "here", [found], [known, "dog"])


# ---- splits


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train", "val"], {"train": "train", "valid": "val"}),
        (["Train", "TEST"], {"train": "Train", "test": "TEST"}),
        (["train", "validation", "test"], {"train": "train", "valid": "validation", "test": "test"}),
        (["training", "dev"], {"train": "training", "valid": "dev"}),
        (["train"], {"train": "train"}),
        (["test"], {"test": "test"}),
    ],
)
def test_folders_named_as_splits_are_splits(tmp_path, names, expected):
    for name in names:
        make(tmp_path, f"{name}/a/1.png", f"{name}/b/2.png")
    make(tmp_path, ".cache/x/1.png", "__MACOSX/train/a/1.png")
    (tmp_path / names[0] / "labels.csv").write_text("")
    assert split_folders(tmp_path) == {split: tmp_path / name for split, name in expected.items()}
    with pytest.raises(ValueError, match="holds splits, .* pass the folder of a split, such as "):
        data.ImageFolder(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/a/1.png", "cat/1.png"], "of which only train/ holds folders as a split does"),
        (["train/a/1.png", "val/a/1.png", "images/1.png"], "of which only train/, val/ holds folders"),
        (["train/1.png", "test/1.png"], "named as splits, but test/, train/ holds no folders of classes"),
        (["train/a/1.png", "test/1.png"], "named as splits, but test/ holds no folders of classes"),
        (["train/a/1.png", "val/a/1.png", "valid/a/1.png"], "of which val/ and valid/ are the same split"),
    ],
)
def test_mixtures_of_splits_and_classes_raise(tmp_path, files, message):
    make(tmp_path, *files)
    with pytest.raises(ValueError, match=message):
        data.ImageFolder(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    make(tmp_path, "train/1.png", "car/2.png", "bus/3.png")
    assert data.ImageFolder(tmp_path).classes == ("bus", "car", "train")


# ---- a stable split


@pytest.fixture
def many(tmp_path):
    sizes = {"a": 60, "b": 17, "c": 5, "d": 2, "e": 1}
    return make(tmp_path / "many", *(f"{name}/{i:03}.png" for name, count in sizes.items() for i in range(count)))


def held_out(root, share=0.2, purpose="test", **options):
    rest, part = data.stable_split(data.ImageFolder(root, unreadable="later", **options), share, purpose)
    names = np.array(part.dataset.names)
    assert sorted([*rest.indices, *part.indices]) == list(range(len(names)))
    return set(names[part.indices].tolist()), set(names[rest.indices].tolist())


def test_each_class_keeps_its_share_within_a_half_and_an_image_to_train_on(many):
    for purpose in ("test", "validate", "x", "y"):
        part, rest = held_out(many, purpose=purpose)
        counts = {name: sum(each.startswith(name) for each in part) for name in "abcde"}
        assert 6 <= counts["a"] <= 18
        assert 2 <= counts["b"] <= 5
        assert 1 <= counts["c"] <= 2
        assert (counts["d"], counts["e"]) == (1, 0)
        assert {each[0] for each in rest} == set("abcde")


def test_the_split_does_not_depend_on_where_the_folder_is_nor_on_the_order_of_its_classes(many, tmp_path):
    expected = held_out(many)
    copy = tmp_path / "other" / "place"
    shutil.copytree(many, copy)
    assert held_out(copy) == expected
    assert held_out(copy, classes=("e", "x", "d", "c", "b", "a")) == expected
    assert held_out(many, purpose="validate") != expected


def test_the_split_is_the_same_everywhere():
    """Numbers computed once: another release, system or Python must not change them."""
    from gpunet.data.readers.folders import _number

    assert _number("test", "cat/1.png") == pytest.approx(0.9543019344252608, abs=1e-12)
    assert _number("test", unicodedata.normalize("NFD", "café/1.png")) == _number("test", "café/1.png")


def test_more_images_move_hardly_any_other(many):
    """Only in a class whose share chance has left the bounds may an image change sides, one for each that is added."""
    part, rest = held_out(many)
    moved = 0
    for i in range(60):
        save(many / "ab"[i % 2] / f"new{i}.png")
        after, rest_after = held_out(many)
        moved += len(part - after) + len(rest - rest_after)
        part, rest = after, rest_after
    assert moved <= 3


def test_a_class_within_its_bounds_never_changes(many):
    part, rest = held_out(many)
    make(many, *(f"a/more{i}.png" for i in range(25)), *(f"f/{i}.png" for i in range(9)))
    after, rest_after = held_out(many)
    assert part <= after
    assert rest <= rest_after


def test_a_part_of_a_part_can_be_held_out(many):
    rest, test = data.stable_split(data.ImageFolder(many), 0.2)
    train, valid = data.stable_split(rest, 0.25, "validate")
    positions = [rest.indices[train.indices], rest.indices[valid.indices], test.indices]
    assert sorted(np.concatenate(positions)) == list(range(85))
    np.testing.assert_array_equal(valid.labels, [valid[i][1] for i in range(len(valid))])


def test_invalid_splits_raise(tmp_path):
    dataset = data.ImageFolder(make(tmp_path, "a/1.png", "b/1.png"))
    with pytest.raises(ValueError, match="no class has two images, so none can be held out to test"):
        data.stable_split(dataset, 0.2)
    for share in (0, 1, -1):
        with pytest.raises(ValueError, match="share must be above 0 and below 1"):
            data.stable_split(dataset, share)
