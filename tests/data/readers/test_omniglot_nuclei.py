"""Omniglot's and the Data Science Bowl's folders, from files that the tests write; and the real ones where they are."""

import os
from pathlib import Path

import numpy as np
import pytest

from gpunet import data

Image = pytest.importorskip("PIL.Image")


def drawing(path, ink, size=21):
    """Black ink on white paper, a bit a pixel, as Omniglot has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size, size), 255, np.uint8)
    pixels[:ink] = 0
    Image.fromarray(pixels).convert("1").save(path)


@pytest.fixture
def alphabets(tmp_path):
    for alphabet, characters in (("Latin", 2), ("Greek", 3)):
        for k in range(1, characters + 1):
            for d in range(1, 5):
                drawing(
                    tmp_path / f"omniglot/images_background/{alphabet}/character{k:02}/00{k}_{d:02}.png", 7 * (k - 1)
                )
    return tmp_path


def test_omniglot_keeps_alphabets_characters_and_drawers(alphabets):
    found = data.omniglot(alphabets, "train", size=7)
    images, characters = found.arrays
    assert (images.shape, images.dtype) == ((20, 7, 7, 1), np.uint8)
    assert found.alphabets == ("Greek", "Latin")
    assert found.classes[:4] == ("Greek/character01", "Greek/character02", "Greek/character03", "Latin/character01")
    np.testing.assert_array_equal(found.alphabet, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(characters, np.repeat(np.arange(5), 4))
    np.testing.assert_array_equal(found.drawer, np.tile(np.arange(4), 5))
    # a third of the rows is ink for each character after the first: 255 there and 0 on the paper, but near the edge
    second = images[4, ..., 0]
    assert (second[0] == 255).all()
    assert (second[5:] == 0).all()


def test_hidden_files_and_folders_are_not_read_as_drawings(alphabets):
    expected = data.omniglot(alphabets, "train")
    base = alphabets / "omniglot/images_background"
    for hidden in (".ipynb_checkpoints/character01", "Greek/.ipynb_checkpoints"):
        (base / hidden).mkdir(parents=True)
    (base / "Greek/character01/._001_01.png").write_bytes(b"no image")
    found = data.omniglot(alphabets, "train")
    assert found.classes == expected.classes
    for one, other in zip(found.arrays, expected.arrays, strict=True):
        np.testing.assert_array_equal(one, other)


def test_omniglot_says_what_is_wrong_with_its_folders(alphabets):
    with pytest.raises(ValueError, match='omniglot: split is "?\'dev\'"? but takes "train" or "test"'):
        data.omniglot(alphabets, "dev")
    with pytest.raises(ValueError, match=r"omniglot: .*images_evaluation must hold ALPHABET/characterNN folders"):
        data.omniglot(alphabets, "test")
    with pytest.raises(FileNotFoundError, match=r"omniglot: there is no folder .*; get it from https://github.com"):
        data.omniglot(alphabets / "nowhere", "train")
    character = alphabets / "omniglot/images_background/Greek/character02"
    (character / "002_01.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cannot read .*002_01\.png"):
        data.omniglot(alphabets, "train")
    for path in character.glob("*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"omniglot: .*character02 holds no drawings"):
        data.omniglot(alphabets, "train")


@pytest.fixture
def cells(tmp_path, rng):
    """Six images 8x9 of two cells each."""
    for i in range(6):
        for part in ("images", "masks"):
            (tmp_path / f"dsb2018/stage1_train/{i}/{part}").mkdir(parents=True)
        folder = tmp_path / f"dsb2018/stage1_train/{i}"
        Image.fromarray(rng.integers(0, 255, (8, 9, 4), np.uint8), "RGBA").save(folder / f"images/{i}.png")
        for k, rows in enumerate((slice(0, 2), slice(4, 6))):
            mask = np.zeros((8, 9), np.uint8)
            mask[rows, i : i + 3] = 255
            Image.fromarray(mask).save(folder / f"masks/{k}.png")
    return tmp_path


def test_nuclei_are_numbered_and_every_fifth_image_is_held_out(cells):
    (images, instances), test = data.nuclei(cells, "train").arrays, data.nuclei(cells, "test")
    assert (images.shape, instances.shape, len(test)) == ((5, 8, 9, 3), (5, 8, 9), 1)
    np.testing.assert_array_equal(np.unique(instances[0]), [0, 1, 2])
    np.testing.assert_array_equal(instances[0, :2, :3], 1)
    np.testing.assert_array_equal(instances[0, 4:6, :3], 2)
    assert (instances[0] > 0).sum() == 12
    np.testing.assert_array_equal(test.arrays[1][0, :2, 4:7], 1)


def test_nuclei_of_several_sizes_are_scaled(cells):
    folder = cells / "dsb2018/stage1_train/2"
    image, left = np.zeros((16, 27, 3), np.uint8), np.zeros((16, 27), np.uint8)
    image[:, :9], left[:, :9] = 200, 255
    Image.fromarray(image).save(next((folder / "images").glob("*.png")))
    for path in (folder / "masks").iterdir():
        path.unlink()
    Image.fromarray(left).save(folder / "masks/0.png")
    with pytest.raises(ValueError, match=r"nuclei: images must be of one size unless size= is given, got .*2 with"):
        data.nuclei(cells, "train")
    images, instances = data.nuclei(cells, "train", size=(8, 9)).arrays
    assert (images.shape, instances.shape) == ((5, 8, 9, 3), (5, 8, 9))
    np.testing.assert_array_equal(instances[2], np.broadcast_to(np.arange(9) < 3, (8, 9)))
    assert (images[2, :, :2] == 200).all()
    assert (images[2, :, 4:] == 0).all()
    np.testing.assert_array_equal(instances[0, 4:6, :3], 2)  # of its own size: as it was
    with pytest.raises(ValueError, match="nuclei: size"):
        data.nuclei(cells, "train", size=(0, 9))


def test_hidden_files_and_folders_are_not_read_as_nuclei(cells):
    expected = data.nuclei(cells, "train").arrays
    base = cells / "dsb2018/stage1_train"
    (base / ".ipynb_checkpoints").mkdir()
    for part in ("images", "masks"):
        (base / "0" / part / "._0.png").write_bytes(b"no image")
    for one, other in zip(data.nuclei(cells, "train").arrays, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_nuclei_say_what_is_wrong_with_their_files(cells):
    folder = cells / "dsb2018/stage1_train/3"
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "masks/1.png")
    with pytest.raises(ValueError, match=r"nuclei: mask .*1\.png is \(9, 9\) but its image \(8, 9\)"):
        data.nuclei(cells, "train")
    (folder / "masks/1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cannot read .*1\.png"):
        data.nuclei(cells, "train")
    for path in (folder / "masks").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"nuclei: .*3 must hold one image and its masks, got 1 and 0"):
        data.nuclei(cells, "train")
    with pytest.raises(ValueError, match="nuclei: split is 'all'"):
        data.nuclei(cells, "all")


def real(name):
    root = os.environ.get("GPUNET_DATA")
    if not root or not Path(root, name).is_dir():
        pytest.skip(f"GPUNET_DATA names no folder with {name}")


@pytest.mark.slow
def test_real_omniglot_has_its_published_numbers():
    real("omniglot")
    found = data.omniglot(split="test")
    assert (len(found), len(found.classes), len(found.alphabets)) == (13_180, 659, 20)
    assert (np.bincount(found.arrays[1]) == 20).all()


def test_real_nuclei_are_read():
    real("dsb2018")
    images, instances = data.nuclei(split="test").arrays
    assert images.shape == (66, 256, 256, 3)
    assert 0.05 < (instances > 0).mean() < 0.5
