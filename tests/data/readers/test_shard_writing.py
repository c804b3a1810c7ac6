"""Folders of images as tar files: their bytes, their sizes, and nothing by halves."""

import json
import os
import tarfile
from itertools import pairwise

import pytest
from helpers.shard_files import KINDS
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpunet import data
from gpunet.data.readers import tars

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


# ---- writing


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_are_copied_byte_for_byte_in_the_convention(folder, shards):
    written = []
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path, "r:") as archive:
            members = archive.getmembers()
            for image, label in zip(members[::2], members[1::2], strict=True):
                assert image.name.partition(".")[0] == label.name.partition(".")[0] == f"{len(written):08}"
                assert label.name.endswith(".cls")
                written.append((archive.extractfile(image).read(), int(archive.extractfile(label).read())))
                assert image.name.rpartition(".")[2] in {kind.lower() for kind in KINDS}
            assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
        assert path.stat().st_size % tarfile.RECORDSIZE == 0
    original = [path.read_bytes() for path in folder.paths]
    assert sorted(written) == sorted(zip(original, folder.labels.tolist(), strict=True))
    assert written != list(zip(original, folder.labels.tolist(), strict=True))
    assert json.loads((shards / "classes.json").read_text()) == ["ant", "bee", "cat", "dog"]
    for path in shards.glob("*.tar"):
        scanned, index = tars.scan(path), tars._read_index(path)
        assert all((getattr(scanned, name) == column).all() for name, column in vars(index).items())


def test_the_same_images_and_seed_give_the_same_bytes(folder, shards, tmp_path):
    for path in folder.paths:
        os.utime(path, (5, 5))
    data.write_shards(folder, tmp_path / "again", samples=9, seed=3)
    data.write_shards(folder, tmp_path / "other", samples=9, seed=4)
    assert contents(tmp_path / "again") == contents(shards) != contents(tmp_path / "other")


@given(st.lists(st.integers(1, 60_000), min_size=1, max_size=30), st.integers(1, 150_000))
@settings(max_examples=25)
@example([512] * 20, 25_000)
def test_no_tar_file_is_larger_than_asked_for_unless_one_image_is(tmp_path_factory, sizes, limit):
    root = tmp_path_factory.mktemp("sizes")
    (root / "images" / "a").mkdir(parents=True)
    for i, size in enumerate(sizes):
        (root / "images" / "a" / f"{i:02}.png").write_bytes(bytes(size))
    folder = data.ImageFolder(root / "images", unreadable="later")
    paths = data.write_shards(folder, root / "out", shard_bytes=limit)
    counts = [len(tars.scan(path).sizes) for path in paths]
    assert sum(counts) == len(sizes)
    for path, count in zip(paths, counts, strict=True):
        assert count >= 1
        assert path.stat().st_size <= limit or count == 1
    assert all(one.stat().st_size + other.stat().st_size > limit for one, other in pairwise(paths))


def test_nothing_is_left_where_writing_fails(folder, tmp_path):
    folder.paths[17].unlink()
    folder.paths[17].mkdir()
    with pytest.raises(ValueError, match=rf"cannot read .*{folder.paths[17].name}"):
        data.write_shards(folder, tmp_path / "out" / "deep", samples=4)
    assert list((tmp_path / "out").iterdir()) == []


def test_nothing_is_overwritten(folder, shards):
    before = contents(shards)
    with pytest.raises(FileExistsError, match="shards"):
        data.write_shards(folder, shards)
    assert contents(shards) == before


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"shard_bytes": 0}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(folder, tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        data.write_shards(folder, tmp_path / "out", **wrong)
