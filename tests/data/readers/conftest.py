"""A small folder of images, and the shards that are written of it."""

import pytest

from gpunet import data


@pytest.fixture
def folder(tmp_path, rng):
    """41 images of four classes in several formats."""
    from helpers.shard_files import make_folder  # which takes Pillow

    return data.ImageFolder(make_folder(tmp_path / "images", rng, {"ant": 13, "bee": 7, "cat": 1, "dog": 20}))


@pytest.fixture
def shards(folder, tmp_path):
    """The same images in tar files of nine."""
    data.write_shards(folder, tmp_path / "shards", samples=9, seed=3)
    return tmp_path / "shards"
