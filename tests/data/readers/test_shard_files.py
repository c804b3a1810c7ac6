"""What tar files must hold, damage, which is named, and indices, which are believed while they fit."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
from helpers.shard_files import encoded, make_tar, samples_of

import gpunet as gp
from gpunet import data
from gpunet.data.readers import tars
from gpunet.data.readers.shards import shard_splits

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


# ---- what lies in a tar file


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_other_writers_tar_files_are_read_with_long_names_and_other_members(tmp_path, rng, form):
    image = encoded(rng)
    deep = "/".join(["folder" * 5] * 3)
    names = (
        [f"{deep}/a.b.png", f"{deep}/a.cls"]
        if form == tarfile.USTAR_FORMAT
        else [f"{deep * 4}/ü.png", f"{deep * 4}/ü.cls"]
    )
    if form == tarfile.USTAR_FORMAT:
        names[0] = f"{deep}/a.png"
    members = [
        ("__mean__.png", b"of all images"), ("._0.png", b"macOS"), ("read.me", b"not a sample"),
        (names[0], image), (names[0].replace("png", "json"), b"{}" * 40_000), (names[1], b" 2\n"),
        ("1.CLS", b"0"), ("1.seg.png", b"a mask"), ("1.JPEG", encoded(rng, "jpeg")),
    ]  # fmt: skip
    make_tar(tmp_path / "x.tar", members, format=form)
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        archive.addfile(tarfile.TarInfo("."))
    dataset = data.ImageShards(tmp_path)
    assert dataset.labels.tolist() == [2, 0]
    assert dataset.classes == ("0", "1", "2")
    np.testing.assert_array_equal(dataset[0][0], np.array(Image.open(io.BytesIO(image))))
    assert data.index_shards(tmp_path) == 2
    np.testing.assert_array_equal(data.ImageShards(tmp_path)[np.array([1, 0])][0], dataset[np.array([1, 0])][0])


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("0.png", b"x"), ("1.png", b"y"), ("1.cls", b"0")], "0.png has no label"),
        ([("0.png", b"x"), ("0.cls", b"0"), ("1.png", b"y")], "1.png has no label"),
        ([("a/0.png", b"x"), ("b/0.cls", b"0")], "a/0.png has no label"),
        ([("0.txt", b"x"), ("0.cls", b"0")], "0.cls has no image"),
        ([("0.png", b"x"), ("0.jpg", b"x"), ("0.cls", b"0")], "0 has two images, 0.jpg"),
        ([("0.png", b"x"), ("0.cls", b"cat")], "0.cls must hold an integer, got b'cat'"),
        ([("0.png", b"x"), ("0.cls", b"1" * 50)], "0.cls must hold an integer"),
        ([("0.png", b"x"), ("0.cls", b"-1")], "labels must be from 0 to"),
        ([("0.txt", b"x")], "holds no samples"),
        ([], "holds no samples"),
    ],
)
def test_a_tar_file_without_the_convention_is_named_with_the_member(tmp_path, members, said):
    path = make_tar(tmp_path / "wrong.tar", members)
    with pytest.raises(ValueError, match=said) as caught:
        data.ImageShards(tmp_path)
    assert str(path) in str(caught.value)


def test_the_label_of_a_class_without_a_name_is_refused(tmp_path, rng):
    make_tar(tmp_path / "a.tar", samples_of(rng, [0, 1]))
    path = make_tar(tmp_path / "b.tar", samples_of(rng, [1, 2]))
    (tmp_path / "classes.json").write_text('["x", "y"]')
    with pytest.raises(ValueError, match=r"b\.tar: labels must be from 0 to 1, got 2"):
        data.ImageShards(tmp_path)
    path.unlink()
    assert data.ImageShards(tmp_path).classes == ("x", "y")
    make_tar(tmp_path / "b.tar", samples_of(rng, [10**15]))
    (tmp_path / "classes.json").unlink()
    with pytest.raises(ValueError, match=r"b\.tar: labels must be from 0 to .*, got 1000000000000000"):
        data.ImageShards(tmp_path)


def test_classes_are_matched_by_name(shards):
    own = data.ImageShards(shards)
    other = data.ImageShards(shards, classes=("dog", "eel", "cat", "bee", "ant"))
    assert [other.classes[label] for label in other.labels] == [own.classes[label] for label in own.labels]
    assert other[0][1] == other.labels[0]
    with pytest.raises(ValueError, match="classes 'cat' that are not among the 3 known ones"):
        data.ImageShards(shards, classes=("ant", "bee", "dog"))
    (shards / "classes.json").unlink()
    assert data.ImageShards(shards).classes == ("0", "1", "2", "3")
    assert data.ImageShards(shards, classes="wxyz").classes == ("w", "x", "y", "z")


@pytest.mark.parametrize("content", ["[", "{}", "[]", "[1]", '["a", "a"]'])
def test_a_wrong_list_of_classes_is_named(shards, content):
    (shards / "classes.json").write_text(content)
    with pytest.raises(ValueError, match=r"shards.classes\.json"):
        data.ImageShards(shards)


def test_tar_files_with_different_classes_beside_them_are_refused(tmp_path, rng):
    for name in "ab":
        make_tar(tmp_path / name / "0.tar", samples_of(rng, [0]))
        (tmp_path / name / "classes.json").write_text(json.dumps([name]))
    with pytest.raises(ValueError, match="must be equal"):
        data.ImageShards([tmp_path / "a" / "0.tar", tmp_path / "b" / "0.tar"])


def test_a_source_without_tar_files_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no tar files"):
        data.ImageShards(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        data.ImageShards(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"absent\.tar"):
        data.ImageShards([tmp_path / "absent.tar"])
    with pytest.raises(FileNotFoundError, match="source is empty"):
        data.ImageShards([])
    with pytest.raises(ValueError, match="unreadable is 'no'"):
        data.ImageShards(tmp_path, unreadable="no") if make_tar(tmp_path / "0.tar", []) else None


def test_splits_are_found_by_their_folders(tmp_path):
    assert shard_splits(tmp_path) == {}
    for name in ("Train", "val", "other"):
        make_tar(tmp_path / name / "0.tar", [])
    (tmp_path / "test").mkdir()
    assert shard_splits(tmp_path) == {"train": tmp_path / "Train", "valid": tmp_path / "val"}
    make_tar(tmp_path / "0.tar", [])
    assert shard_splits(tmp_path) == {"train": tmp_path}


# ---- damage


def test_a_tar_file_that_is_cut_anywhere_is_named(shards):
    """Where the index was written for the whole file, it no longer fits; the headers say that the file is cut."""
    path = sorted(shards.glob("*.tar"))[1]
    whole = path.read_bytes()
    last = data.readers.tars.scan(path)
    end = int(last.offsets[-1] + last.sizes[-1])
    end += -end % 512 + 1024  # behind the last label
    for length in (*range(0, end, 512), 7, 700, end - 1, end):
        path.write_bytes(whole[:length])
        with pytest.raises(gp.DamagedFileError) as caught:
            data.ImageShards(shards)
        assert str(path) in str(caught.value)
    path.write_bytes(whole[: end + 512])  # one empty block is an end
    assert len(data.ImageShards(shards)) == 41


def test_a_damaged_header_is_named(shards):
    path = sorted(shards.glob("*.tar"))[0]
    whole = bytearray(path.read_bytes())
    dataset = data.ImageShards(shards)
    place = int(tars.scan(path).offsets[3]) - 512
    whole[place + 130] ^= 1  # within the size
    path.write_bytes(whole)
    tars.index_path(path).unlink()
    with pytest.raises(gp.DamagedFileError, match=rf"{path.name}: .* at byte {place:,}"):
        data.ImageShards(shards)
    dataset[np.arange(3)]  # others can be read
    with pytest.raises(gp.DamagedFileError, match=rf"{path.name}: is damaged or has changed since .* at byte"):
        dataset[np.arange(5)]


def test_a_file_that_gets_shorter_later_is_named(shards):
    dataset, path = data.ImageShards(shards), sorted(shards.glob("*.tar"))[0]
    index = tars.load_index(path)
    for length in (int(index.offsets[8] + index.sizes[8]) - 1, int(index.offsets[8]) - 5, 100):
        os.truncate(path, length)
        with pytest.raises(gp.DamagedFileError, match=path.name):
            dataset[np.arange(9)]


def test_a_compressed_tar_file_is_no_shard(tmp_path, rng):
    with tarfile.open(tmp_path / "x.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("0.png"))
    with pytest.raises(gp.DamagedFileError, match=r"x\.tar: is no tar file, or is compressed, truncated or damaged: "):
        data.ImageShards(tmp_path)


def broken(tmp_path, rng):
    members = samples_of(rng, [0, 1, 0, 1, 1])
    members[2] = ("0001.png", b"no image")
    make_tar(tmp_path / "b.tar", samples_of(rng, [0, 1], first=10))
    return make_tar(tmp_path / "a.tar", members)


def test_an_image_that_cannot_be_read_is_named_with_its_tar_file(tmp_path, rng):
    path = broken(tmp_path, rng)
    dataset = data.ImageShards(tmp_path)
    assert len(dataset[np.array([0, 2, 3])][1]) == 3
    with pytest.raises(ValueError, match=rf"cannot read 0001\.png in {path}: cannot identify image file"):
        dataset[np.array([0, 1])]
    with pytest.raises(ValueError, match=r"ImageShards: 1 of 7 images cannot be read: cannot read 0001\.png in"):
        data.ImageShards(tmp_path, unreadable="raise")


def test_images_that_cannot_be_read_are_left_out_if_asked_for(tmp_path, rng):
    broken(tmp_path, rng)
    make_tar(tmp_path / "c.tar", [("2.png", b"no image either"), ("2.cls", b"0")])
    whole = data.ImageShards(tmp_path)
    with pytest.warns(UserWarning, match=r"2 of 8 images cannot be read and are left out: cannot read 0001\.png"):
        dataset = data.ImageShards(tmp_path, unreadable="warn")
    assert dataset.samples_per_shard.tolist() == [4, 2, 0]
    kept = np.array([0, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(dataset[np.arange(6)][0], whole[kept][0])
    np.testing.assert_array_equal(dataset.labels, whole.labels[kept])
    assert sorted(data.ShuffleBuffer(dataset, 2).order(0, 0)) == list(range(6))


def test_images_of_another_size_are_named(tmp_path, rng):
    members = samples_of(rng, [0, 1, 0])
    members[2] = ("0001.png", encoded(rng, extents=(9, 8)))
    make_tar(tmp_path / "a.tar", members)
    with pytest.raises(ValueError, match=r"of one size unless size= is given, got 0001\.png in .* with \(9, 8\)"):
        data.ImageShards(tmp_path)[1]
    assert data.ImageShards(tmp_path, (4, 4))[np.arange(3)][0].shape == (3, 4, 4, 3)


# ---- indices


def test_an_index_is_used_while_it_is_of_its_file(shards, monkeypatch, tmp_path):
    plain = data.ImageShards(shards)

    def refuse(path):
        raise AssertionError(f"scanned {path}")

    monkeypatch.setattr(tars, "scan", refuse)
    data.ImageShards(shards)
    copy = tmp_path / "copy"  # a copy has other times
    copy.mkdir()
    for path in shards.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
        os.utime(copy / path.name, (1, 1))
    np.testing.assert_array_equal(data.ImageShards(copy).labels, plain.labels)
    (tars.index_path(plain.paths[2])).unlink()
    with pytest.raises(AssertionError, match=plain.paths[2].name):
        data.ImageShards(shards)


@pytest.mark.parametrize("change", ["longer", "first", "last", "exchanged"])
def test_an_index_of_another_file_is_not_believed(shards, change):
    first, second = sorted(shards.glob("*.tar"))[:2]
    plain = data.ImageShards(shards)
    if change == "exchanged":
        other = tars.index_path(second).read_bytes()
        tars.index_path(first).write_bytes(other)
    elif change == "longer":
        with open(first, "ab") as file:
            file.write(bytes(512))
    else:
        content = bytearray(first.read_bytes())
        content[520 if change == "first" else -1] ^= 1
        first.write_bytes(content)
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        scan = tars.scan
        patch.setattr(tars, "scan", lambda path: [calls.append(path), scan(path)][1])
        np.testing.assert_array_equal(data.ImageShards(shards).labels, plain.labels)
    assert calls == [first]


def test_an_index_is_compared_with_both_ends_of_a_large_file(tmp_path, rng):
    members = [(f"{i}.{kind}", encoded(rng, "bmp", (100, 137)) if kind == "bmp" else b"1")
               for i in range(6) for kind in ("bmp", "cls")]  # fmt: skip
    path = make_tar(tmp_path / "a.tar", members)
    data.index_shards(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(b"5.cls") + 512] = ord("0")
    path.write_bytes(content)
    assert data.ImageShards(tmp_path).labels.tolist() == [1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    "change",
    [
        lambda found: [],
        lambda found: {**found, "labels": found["labels"][1:]},
        lambda found: {**found, "labels": ["a"] * 9},
        lambda found: {**found, "offsets": found["offsets"][::-1]},
        lambda found: {**found, "offsets": [0, *found["offsets"][1:]]},
        lambda found: {**found, "sizes": [10**12] * 9},
        lambda found: {**found, "sizes": [-1] * 9},
        lambda found: {**found, "sizes": [2**70] * 9},
        lambda found: {name: value for name, value in found.items() if name != "sizes"},
    ],
)
def test_a_damaged_index_is_not_believed(shards, change):
    plain = data.ImageShards(shards)
    path = tars.index_path(plain.paths[0])
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    again = data.ImageShards(shards)
    np.testing.assert_array_equal(again[np.arange(9)][0], plain[np.arange(9)][0])
    path.write_bytes(b"{\xff")
    np.testing.assert_array_equal(data.ImageShards(shards).labels, plain.labels)


def test_indices_are_written_for_the_tar_files_of_others(shards):
    before = {path.name: path.read_bytes() for path in shards.iterdir()}
    for path in shards.glob("*.tar.json"):
        path.unlink()
    assert data.index_shards(shards) == 41
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == before
