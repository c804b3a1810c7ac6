"""Folders of small images, and tar files of samples, for the tests of shards."""

import io
import tarfile

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

KINDS = ("png", "jpg", "jpeg", "bmp", "PNG")


def encoded(rng, kind="png", extents=(6, 5)):
    """The bytes of a random image."""
    file = io.BytesIO()
    pixels = rng.integers(0, 256, (*extents, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, {"jpg": "jpeg"}.get(kind.lower(), kind))
    return file.getvalue()


def make_folder(root, rng, counts, extents=(6, 5)):
    """A folder of images in several formats: {class: how many}."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            kind = KINDS[i % len(KINDS)]
            (root / name / f"{i:03}.{kind}").write_bytes(encoded(rng, kind, extents))
    return root


def make_tar(path, members, **options):
    """A tar file of (name, content) pairs, by Python's own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def samples_of(rng, labels, first=0):
    """Members of a shard with these labels."""
    keys = [f"{first + i:04}" for i in range(len(labels))]
    return [
        pair
        for key, label in zip(keys, labels, strict=True)
        for pair in ((f"{key}.png", encoded(rng)), (f"{key}.cls", b"%d" % label))
    ]
