"""Writes a folder of images as shards: tar files in webdataset's convention, and their indices."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gpunet import random
from gpunet.data.datasets import checked_seed
from gpunet.data.readers.folders import ImageFolder
from gpunet.data.readers.shards import CLASSES
from gpunet.data.readers.tars import BLOCK, ShardIndex, write_index
from gpunet.files import whole_folder, write_whole
from gpunet.geometry import positive_int
from gpunet.progress import Progress

__all__ = ["write_shards"]

SHARD_BYTES = 256 * 10**6
"""Bytes of a shard at most, unless asked for otherwise: large enough to be read at a disk's full
speed, and small enough that a data set has many, whose order is shuffled in each epoch."""
WRITING = 4
"""The call of the stream that shuffles what is written; see `sampling` for the others."""


def write_shards(
    folder: ImageFolder,
    output: str | os.PathLike[str],
    *,
    shard_bytes: int = SHARD_BYTES,
    samples: int | None = None,
    seed: int | None = None,
) -> list[Path]:
    """Write the images of a folder as tar files ``shard-000000.tar`` and so on.

    The files of the images are copied byte for byte, as members ``00000000.jpg`` (or another
    ending, in lower case) and ``00000000.cls``. They are shuffled once: a folder has the images of
    one class next to each other, and a buffer smaller than a class could not mix them. Beside each
    tar file stands its index, and beside all of them ``classes.json``, the names of the labels. The
    same images, classes and seed give the same bytes.

    Args:
        folder: the images; its `size` and `grey` change nothing. Images that are left out there are
            not written.
        output: the folder to write, which is complete or not there at all.
        shard_bytes: the largest size of a tar file; a single image may exceed it.
        samples: how many images each tar file has; then `shard_bytes` does not matter.
        seed: decides the order; the seed that `gpunet.seed` last set if None.
    Returns:
        The paths of the tar files.
    Raises:
        FileExistsError: there is something at `output`.
        ValueError, TypeError: a number out of range, or no integer; an image cannot be read.
        OSError: the disk is full, or `output` cannot be made.
    """
    limit = positive_int("write_shards", "shard_bytes", shard_bytes)
    stream = random.Stream(checked_seed("write_shards", seed), random.PURPOSES["shuffle"], call=WRITING)
    order = random.permutation(stream, len(folder))
    if samples is None:
        parts = _split(order, np.array([_sample_bytes(path.stat().st_size) for path in folder.paths])[order], limit)
    else:
        step = positive_int("write_shards", "samples", samples)
        parts = [order[i : i + step] for i in range(0, len(order), step)]
    names = [f"shard-{i:06}.tar" for i in range(len(parts))]
    with whole_folder(output) as made, Progress("writing shards", len(folder), "image") as shown:
        first = 0
        for name, part in zip(names, parts, strict=True):
            _write_shard(made / name, folder, part, first, shown)
            first += len(part)
        write_whole(made / CLASSES, (json.dumps(folder.classes, indent=0) + "\n").encode())
    return [Path(output) / name for name in names]


def _split(order: np.ndarray, sizes: np.ndarray, limit: int) -> Sequence[np.ndarray]:
    """The order, cut so that no part has more than `limit` bytes unless it is a single sample."""
    ends, cuts = np.cumsum(sizes), [0]
    # A tar file is of whole records, with two empty blocks at the end.
    room = limit // tarfile.RECORDSIZE * tarfile.RECORDSIZE - 2 * BLOCK
    while cuts[-1] < len(order):
        before = ends[cuts[-1] - 1] if cuts[-1] else 0
        cuts.append(max(int(np.searchsorted(ends, before + room, side="right")), cuts[-1] + 1))
    return np.split(order, cuts[1:-1])


def _write_shard(path: Path, folder: ImageFolder, part: np.ndarray, first: int, shown: Progress) -> None:
    """Write one tar file and its index; the first sample's key is the number `first`."""
    offsets, sizes = [], []

    def content() -> Iterator[bytes]:
        written = 0
        for key, i in enumerate(part, first):
            image, kind = _read(folder.paths[i]), folder.paths[i].suffix.lower()
            offsets.append(written + BLOCK)
            sizes.append(len(image))
            for block in (*_member(f"{key:08}{kind}", image), *_member(f"{key:08}.cls", b"%d" % folder.labels[i])):
                written += len(block)
                yield block
            shown.update()
        yield bytes(2 * BLOCK + _padding(written + 2 * BLOCK, tarfile.RECORDSIZE))

    write_whole(path, content())
    write_index(path, ShardIndex(np.array(offsets), np.array(sizes), folder.labels[part]))


def _read(path: Path) -> bytes:
    """The bytes of an image; a ValueError, since an OSError would be taken for one of the tar file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"write_shards: cannot read {path}: {error.strerror}") from error


def _member(name: str, content: bytes) -> tuple[bytes, bytes, bytes]:
    """Header, content and padding of a member, with no time and no owner that could differ."""
    header = tarfile.TarInfo(name)  # mode 644, time 0, owner 0
    header.size = len(content)
    return header.tobuf(tarfile.USTAR_FORMAT), content, bytes(_padding(len(content), BLOCK))


def _sample_bytes(image: int) -> int:
    """The bytes that a sample takes in a tar file."""
    return BLOCK + image + _padding(image, BLOCK) + 2 * BLOCK


def _padding(length: int, unit: int) -> int:
    """The bytes from `length` to the next multiple of `unit`."""
    return -length % unit
