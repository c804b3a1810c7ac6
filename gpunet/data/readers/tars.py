"""Tar files of samples: where each image lies, by an index beside the file or by its headers.

The convention is webdataset's: the members of one sample follow each other and share a key, which
ends at the first dot of the name, such as ``0001.jpg`` and ``0001.cls``.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.data.readers.checks import shown
from gpunet.data.readers.images import SUFFIXES
from gpunet.errors import DamagedFileError
from gpunet.files import write_whole

BLOCK = tarfile.BLOCKSIZE
ENDS = 1 << 16
"""How many bytes at each end of a file its fingerprint covers."""
GAP = 1 << 15
"""Bytes between two images that are read along with them: less time than another request takes."""
LONGEST_LABEL = 32
"""Bytes of a label's member at most; a larger one is no integer."""


@dataclass(frozen=True)
class ShardIndex:
    """Where the images of one tar file begin, their bytes, and their labels: int64 (N,) each."""

    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray


class Member(io.BytesIO):
    """The content of one member, as an open file that messages name by the tar file and the member."""

    def __init__(self, content: bytes, path: Path, name: str) -> None:
        super().__init__(content)
        self._shown = f"{name} in {path}"

    def __repr__(self) -> str:
        return self._shown

    __str__ = __repr__


# ---- indices


def load_index(path: Path) -> ShardIndex:
    """The index beside a tar file if it is one of this file, or else what the headers say.

    Raises:
        DamagedFileError, ValueError, OSError: as `scan`, which is called if there is no such index.
    """
    found = _read_index(path)
    return scan(path) if found is None else found


def index_path(path: Path) -> Path:
    """The name of the index beside a tar file."""
    return path.with_name(f"{path.name}.json")


def write_index(path: Path, index: ShardIndex) -> None:
    """Write the index of a tar file beside it."""
    columns = {name: column.tolist() for name, column in vars(index).items()}
    write_whole(index_path(path), json.dumps({**_fingerprint(path), **columns}).encode())


def _read_index(path: Path) -> ShardIndex | None:
    """The index beside a tar file; None if there is none, or one of another file."""
    try:
        found = json.loads(index_path(path).read_bytes())
        if any(found[name] != value for name, value in _fingerprint(path).items()):
            return None
        columns = [np.array(found[name]) for name in ShardIndex.__dataclass_fields__]
    except (FileNotFoundError, KeyError, TypeError, ValueError):  # walking the headers is right in any case
        return None
    if len({column.shape for column in columns}) > 1 or any(c.dtype != np.int64 or c.ndim != 1 for c in columns):
        return None
    offsets, sizes, _ = columns
    fits = offsets.min() >= BLOCK and sizes.min() >= 0 and (np.diff(offsets) > 0).all()
    return ShardIndex(*columns) if fits and (offsets + sizes).max() <= found["bytes"] else None


def _fingerprint(path: Path) -> dict[str, int | str]:
    """What tells whether an index is of this file: its length, and a hash of its first and last bytes.

    A time would change when the file is copied, and a hash of everything would take reading it. So
    a change in the middle that keeps the length goes unseen here: of a label until `write_index`
    is called again, of an image's place until it is read, since the header before it is compared.
    """
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size
        ends = file.read(ENDS)
        file.seek(max(length - ENDS, 0))
        ends += file.read(ENDS)
    return {"bytes": length, "digest": blake2b(ends, digest_size=16).hexdigest()}


def scan(path: Path) -> ShardIndex:
    """Go through the headers of a tar file, without reading the images.

    Raises:
        DamagedFileError: no tar file, or one that is truncated or damaged.
        ValueError: a sample without an image or without a label, with two images, or with a label
            that is no integer.
        OSError: the file cannot be opened.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            rows = list(_samples(archive, path))
    except (tarfile.TarError, EOFError) as error:
        raise DamagedFileError(f"{path}: is no tar file, or is compressed, truncated or damaged: {error}") from error
    offsets, sizes, labels = np.array(rows, np.int64).reshape(-1, 3).T.copy()
    return ShardIndex(offsets, sizes, labels)


def _samples(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[int, int, int]]:
    """(offset and size of the image, label) of each sample of a tar file."""
    key, image, label, last = "", None, None, ""
    for member in archive:
        folder, _, base = member.name.rpartition("/")
        stem, _, kind = base.partition(".")
        # Hidden files, such as macOS's, and webdataset's own notes, such as __meta__.json.
        if not member.isfile() or not stem or (stem.startswith("__") and stem.endswith("__")):
            continue
        if (own := f"{folder}/{stem}") != key:
            if row := _row(path, last, image, label):
                yield row
            key, image, label, last = own, None, None, member.name
        if f".{kind.lower()}" in SUFFIXES:
            if image is not None:
                raise ValueError(f"{path}: {own.lstrip('/')} has two images, {member.name} being the second")
            image, last = (member.offset_data, member.size), member.name
        elif kind.lower() == "cls":
            label, last = _label(archive, member, path), member.name
    _check_end(archive, path)
    if row := _row(path, last, image, label):
        yield row


def _check_end(archive: tarfile.TarFile, path: Path) -> None:
    """Raise DamagedFileError if there is no empty block behind the last member: `tarfile` takes the
    end of the file, and a damaged header, for the end of the archive."""
    file: Any = archive.fileobj
    file.seek(archive.offset)
    if file.read(BLOCK) != bytes(BLOCK):
        raise DamagedFileError(
            f"{path}: is truncated or damaged: there is no header of a member at byte {archive.offset:,}"
        )


def _row(path: Path, name: str, image: tuple[int, int] | None, label: int | None) -> tuple[int, int, int] | None:
    """The entry of one sample; None for members that are neither image nor label."""
    if image is None and label is None:
        return None
    if label is None:
        raise ValueError(f"{path}: {name} has no label: a member of the same name that ends in .cls must be next to it")
    if image is None:
        raise ValueError(f"{path}: {name} has no image ({', '.join(SUFFIXES)}) next to it")
    return *image, label


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> int:
    """The integer that a label's member holds."""
    opened = archive.extractfile(member) if member.size <= LONGEST_LABEL else None
    content = b"(long)" if opened is None else opened.read()
    try:
        return int(content)
    except ValueError as error:
        raise ValueError(f"{path}: {member.name} must hold an integer, got {shown(content)}") from error


# ---- images


def read_members(path: Path, offsets: np.ndarray, sizes: np.ndarray) -> list[Member]:
    """Read images of one tar file, those that stand close to each other at once.

    The file is open during the call alone, so that no more files are open than threads read.

    Args:
        offsets, sizes: int64 (B,), by rising offset; an image may stand there several times.
    Raises:
        DamagedFileError: the file ends too early, or has no header of such an image there.
    """
    begins, ends = offsets - BLOCK, offsets + sizes  # with the header, which is compared
    cuts = np.flatnonzero(begins[1:] - ends[:-1] > GAP) + 1
    found = []
    with open(path, "rb") as file:
        for run in np.split(np.arange(len(offsets)), cuts):
            start = int(begins[run[0]])
            file.seek(start)
            content = file.read(int(ends[run].max()) - start)
            for i in run:
                begin = int(begins[i]) - start
                image = content[begin + BLOCK : begin + BLOCK + int(sizes[i])]
                name = _checked_name(content[begin : begin + BLOCK], int(sizes[i]), int(offsets[i]), path)
                if len(image) < sizes[i]:
                    raise DamagedFileError(f"{path}: is truncated within {name}")
                found.append(Member(image, path, name))
    return found


def _checked_name(header: bytes, size: int, offset: int, path: Path) -> str:
    """The name of the member with this header; DamagedFileError if it is not of such a size."""
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        member = tarfile.TarInfo()
        member.size = -1
    if member.size != size:
        raise DamagedFileError(
            f"{path}: is damaged or has changed since its index was made: no image of {size:,} bytes begins at byte "
            f"{offset:,}; delete {index_path(path).name} if the tar file is right"
        )
    return member.name
