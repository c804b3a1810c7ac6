"""gpunet shards: folders, splits and indices; and training on what it writes."""

import json
import tarfile

import numpy as np
import pytest
from safetensors.numpy import load_file

import gpunet as gp
from gpunet import data
from gpunet.cli import main
from gpunet.train import recipes

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

LEVELS = {"bright": 200, "dark": 0, "middle": 100}


def run(capsys, *arguments):
    """(exit status, stdout, stderr)"""
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def make(root, counts):
    """Images 8x8 of each class: {class: how many}."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(LEVELS[name], LEVELS[name] + 40, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def train(capsys, folder, *options):
    quick = ("--epochs", 8, "--batch-size", 8, "--seed", 3, "--backend", "numpy")
    return run(capsys, "train", "--dataset", folder, *quick, *options)


def test_a_folder_becomes_shards(capsys, tmp_path):
    make(tmp_path / "images", {"bright": 9, "dark": 8})
    status, out, err = run(capsys, "shards", tmp_path / "images", tmp_path / "out", "--samples", 5)
    names = sorted(contents(tmp_path / "out"))
    tars = [f"shard-{i:06}.tar" for i in range(4)]
    assert names == sorted(["classes.json", *tars, *(f"{name}.json" for name in tars)])
    total = sum((tmp_path / "out" / name).stat().st_size for name in tars)
    assert (status, out, err) == (
        0,
        f"{tmp_path / 'out'}: 17 images of 2 classes, tar files: 4, bytes: {total:,}\n",
        "",
    )
    assert sorted(data.ImageShards(tmp_path / "out").labels) == [0] * 9 + [1] * 8
    run(capsys, "shards", tmp_path / "images", tmp_path / "same", "--samples", 5, "--seed", 0)
    run(capsys, "shards", tmp_path / "images", tmp_path / "other", "--samples", 5, "--seed", 1)
    assert contents(tmp_path / "same") == contents(tmp_path / "out") != contents(tmp_path / "other")
    run(capsys, "shards", tmp_path / "images", tmp_path / "small", "--shard-size", "0.0215")
    assert {path.stat().st_size for path in (tmp_path / "small").glob("*.tar")} == {20480}


def test_a_folder_of_splits_becomes_shards_with_the_same_labels(capsys, tmp_path):
    make(tmp_path / "images" / "train", {"bright": 4, "dark": 3, "middle": 5})
    make(tmp_path / "images" / "val", {"dark": 2, "middle": 1})
    status, out, _ = run(capsys, "shards", tmp_path / "images", tmp_path / "out")
    assert status == 0
    assert [line.partition(" classes")[0] for line in out.splitlines()] == [
        f"{tmp_path / 'out' / 'train'}: 12 images of 3",
        f"{tmp_path / 'out' / 'valid'}: 3 images of 3",
    ]
    assert sorted(data.ImageShards(tmp_path / "out" / "valid").labels) == [1, 1, 2]
    splits = recipes.load_splits(str(tmp_path / "out"))
    assert (len(splits.train) + len(splits.test), len(splits.valid)) == (12, 3)


def test_nothing_is_left_where_a_split_fails(capsys, tmp_path):
    make(tmp_path / "images" / "train", {"bright": 4, "dark": 3})
    make(tmp_path / "images" / "val", {"middle": 2})
    status, _, err = run(capsys, "shards", tmp_path / "images", tmp_path / "deep" / "out")
    assert status == 2
    assert "classes 'middle' that are not among" in err
    assert list((tmp_path / "deep").iterdir()) == []


def test_nothing_is_overwritten(capsys, tmp_path):
    make(tmp_path / "images", {"bright": 1, "dark": 1})
    (tmp_path / "out").mkdir()
    status, _, err = run(capsys, "shards", tmp_path / "images", tmp_path / "out")
    assert (status, err) == (
        2,
        f"gpunet shards: {tmp_path / 'out'} exists, and is not overwritten: name another folder, or remove it\n",
    )
    assert list((tmp_path / "out").iterdir()) == []


def test_images_that_cannot_be_read_are_left_out_or_stop_it(capsys, tmp_path):
    make(tmp_path / "images", {"bright": 2, "dark": 2})
    (tmp_path / "images" / "dark" / "x.png").write_bytes(b"no image")
    status, _, err = run(capsys, "shards", tmp_path / "images", tmp_path / "out", "--strict")
    assert status == 2
    assert "1 of 5 images cannot be read" in err
    with pytest.warns(UserWarning, match="1 of 5 images cannot be read and are left out"):
        main(["shards", str(tmp_path / "images"), str(tmp_path / "out")])
    assert len(data.ImageShards(tmp_path / "out")) == 4


def test_without_an_output_indices_are_written(capsys, tmp_path):
    make(tmp_path / "images", {"bright": 3, "dark": 3})
    run(capsys, "shards", tmp_path / "images", tmp_path / "out", "--samples", 2)
    before = contents(tmp_path / "out")
    for path in (tmp_path / "out").glob("*.tar.json"):
        path.unlink()
    assert run(capsys, "shards", tmp_path / "out") == (0, f"{tmp_path / 'out'}: indices of 6 images\n", "")
    assert contents(tmp_path / "out") == before
    status, _, err = run(capsys, "shards", tmp_path / "images")
    assert (status, "holds no tar files" in err) == (2, True)
    status, _, err = run(capsys, "shards", tmp_path / "out", "--seed", 1, "--samples", 3)
    assert (status, err) == (2, "gpunet shards: --samples, --seed and no OUTPUT: name the folder to write\n")


# ---- training


@pytest.fixture
def shards(capsys, tmp_path):
    make(tmp_path / "images", dict.fromkeys(LEVELS, 20))
    assert run(capsys, "shards", tmp_path / "images", tmp_path / "shards", "--samples", 16)[0] == 0
    return tmp_path / "shards"


def test_train_and_eval_take_shards(capsys, shards, tmp_path):
    status, out, err = train(capsys, shards, "--output", tmp_path / "run", "--valid", 0.25)
    assert (status, err) == (0, "")
    assert f"data set: {shards}, 36 images to train, 12 to validate, 12 to test" in out
    assert "test accuracy: 100.0%" in out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["classes"] == ["bright", "dark", "middle"]
    _, out, _ = run(capsys, "eval", tmp_path / "run" / "best.safetensors", "--backend", "numpy")
    assert f"data set: {shards}, 12 test images of 60, since the folder has no split test/\naccuracy: 100.00%" in out


def test_training_on_shards_goes_on_within_an_epoch_with_the_same_bits(capsys, shards, tmp_path, monkeypatch):
    train(capsys, shards, "--output", tmp_path / "whole")
    steps, batch = [], data.DataLoader._batch

    def stop(self, *arguments):
        steps.append(1)
        if len(steps) == 16:  # in the third epoch of six batches
            raise KeyboardInterrupt
        return batch(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(data.DataLoader, "_batch", stop)
        train(capsys, shards, "--output", tmp_path / "parts", "--checkpoint-steps", 1)
    status, out, _ = run(capsys, "train", "--resume", tmp_path / "parts")
    assert status == 0
    assert "of 8 epochs finished" in out
    whole, parts = (load_file(tmp_path / name / "best.safetensors") for name in ("whole", "parts"))
    assert {name: array.tobytes() for name, array in whole.items()} == {n: a.tobytes() for n, a in parts.items()}


def test_held_out_images_of_shards_are_the_same_each_time(shards):
    first = recipes.load_splits(str(shards), valid=0.2)
    gp.seed(7)
    second = recipes.load_splits(str(shards), valid=0.2)
    for one, other in zip(vars(first).values(), vars(second).values(), strict=True):
        np.testing.assert_array_equal(one[np.arange(len(one))][0], other[np.arange(len(other))][0])
    alone = recipes.load_splits(str(shards)).test
    of_names = recipes.load_test(str(shards), ("bright", "dark", "middle"))
    for test in (alone, of_names):
        np.testing.assert_array_equal(test.indices, first.test.indices)
    parts = [part[np.arange(len(part))][0] for part in vars(first).values()]
    assert len({image.tobytes() for part in parts for image in part}) == 60


def test_training_images_come_through_a_shuffle_buffer(shards, tmp_path):
    for folder, kind in ((shards, data.ShuffleBuffer), (tmp_path / "images", type(None))):
        for valid in (0.0, 0.2):
            splits = recipes.load_splits(str(folder), valid=valid)
            train, test = recipes.make_loaders(recipes.recipe(str(folder)), splits.train, splits.test)
            assert (type(train.sampler), train.shuffle) == (kind, kind is type(None))
            assert (test.sampler, test.shuffle) == (None, False)
            assert sorted(train.order(0)) == list(range(len(splits.train)))


def test_unreadable_images_stop_training_before_it_begins_only_if_strict(capsys, shards):
    path = sorted(shards.glob("*.tar"))[0]
    index = json.loads((shards / f"{path.name}.json").read_text())
    content = bytearray(path.read_bytes())
    content[index["offsets"][3] : index["offsets"][3] + 8] = b"no image"
    path.write_bytes(content)
    status, out, err = train(capsys, shards, "--strict")
    assert (status, out) == (2, "")
    assert "1 of 60 images cannot be read: cannot read 00000003.png in" in err
    status, out, err = train(capsys, shards)
    assert status == 2
    assert "data set:" in out
    assert "cannot read 00000003.png in" in err


def test_the_shards_are_read_by_pythons_tarfile(shards):
    names = []
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as archive:
            names += archive.getnames()
    assert names == [f"{key:08}.{kind}" for key in range(60) for kind in ("png", "cls")]
