"""Images in tar files, the shards of a data set that may be larger than memory, read where they lie."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.data.readers.checks import checked_size
from gpunet.data.readers.folders import (
    SPLITS,
    checked_folder,
    checked_unreadable,
    fault_of,
    keep_readable,
    match_classes,
)
from gpunet.data.readers.images import WHITE, Background, checked_background, read_image
from gpunet.data.readers.tars import Member, ShardIndex, load_index, read_members, scan, write_index
from gpunet.data.readers.threads import in_threads
from gpunet.progress import track

__all__ = ["ImageShards", "index_shards"]

CLASSES = "classes.json"
"""The file beside shards that lists the names of their labels."""
CHECKED = 256
"""Images that are held in memory at once where all are checked."""
MOST_CLASSES = 1 << 20
"""Classes at most of shards without a classes.json: a damaged label must not fill the memory."""
PathLike = str | os.PathLike[str]


class ImageShards:
    """Images in tar files, in webdataset's convention: members ``KEY.jpg`` (or another image) and
    ``KEY.cls``, which holds the label as an integer, next to each other; others are ignored.

    Samples are those of `ImageFolder`: (image (H, W, C) uint8, label int64), or several, (images
    (B, H, W, C) uint8, labels (B,) int64). Memory holds 32 bytes for each image, and the images
    that are asked for: these are read where they lie, neighbours at once, and decoded in several
    threads. `ShuffleBuffer` gives orders in which neighbours are asked for together.

    Where the images lie is read from the file ``NAME.tar.json`` beside each tar file, which
    `write_shards` and `index_shards` write, if its length and a hash of its first and last 64 KiB
    agree with the tar file; or else from the headers of all members.

    Args:
        source: a folder, of which all ``*.tar`` files are taken, sorted by name; or the paths of
            tar files, in their order.
        size, grey, background: as for `ImageFolder`.
        classes: names of the labels in their order. If the tar files have a ``classes.json``
            beside them, which lists the names of their own labels, labels are matched by name.
            If None, the names in that file, or else the labels as text, from "0" on.
        unreadable: as for `ImageFolder`; but "later" by default, since decoding everything would
            take long.
    Attributes:
        paths: of the tar files.
        samples_per_shard: int64 (S,), of each tar file.
        labels: int64 (N,).
    Raises:
        FileNotFoundError: no such folder, no such tar file, or a folder without any.
        DamagedFileError: a tar file that is truncated or damaged, also while reading.
        ValueError: a sample without label or image, or a label without a name; tar files with
            different classes beside them; later, an image that cannot be read or has another size.
        ImportError: Pillow is not installed.
    """

    def __init__(
        self,
        source: PathLike | Iterable[PathLike],
        size: tuple[int, int] | None = None,
        grey: bool = False,
        *,
        background: Background = WHITE,
        classes: Sequence[str] | None = None,
        unreadable: str = "later",
    ) -> None:
        self.paths = _tar_paths("ImageShards", source)
        self.size = None if size is None else checked_size("ImageShards", size)
        self.grey, self.background = grey, checked_background("ImageShards", background)
        checked_unreadable("ImageShards", unreadable)
        indices = list(track(in_threads(load_index, self.paths), "reading indices", "shard", len(self.paths)))
        own, source_name = _own_classes(self.paths)
        self.classes = _class_names(own, classes, indices)
        self.labels = _labels(self.paths, indices, self.classes if own is None else own)
        if own is not None and classes is not None:
            positions = match_classes("ImageShards", str(source_name), own, self.classes)
            self.labels = np.array(positions, np.int64)[self.labels]
        self._offsets = np.concatenate([index.offsets for index in indices])
        self._sizes = np.concatenate([index.sizes for index in indices])
        self._count([len(index.labels) for index in indices])
        self._shape: tuple[int, ...] | None = None
        if unreadable != "later":
            self._keep_readable(unreadable)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        positions = self._positions[index]
        if np.ndim(positions) == 0:
            return self._images(positions[np.newaxis])[0], self.labels[index]
        return self._images(positions), self.labels[positions]

    def _count(self, samples: Sequence[int]) -> None:
        """Note how many samples each shard has."""
        self.samples_per_shard = np.array(samples, np.int64)
        self._ends = np.cumsum(self.samples_per_shard)
        self._positions = np.arange(self._ends[-1])
        self._positions.flags.writeable = False

    def _images(self, positions: np.ndarray) -> np.ndarray:
        """The images at int64 positions (B,), uint8 (B, H, W, C)."""
        if self.size is None and self._shape is None:
            self._shape = self._decode(self._members(self._positions[:1])[0]).shape
        order = np.argsort(positions, kind="stable")  # the order in which they lie in the files
        images = list(in_threads(self._decode, self._members(positions[order])))
        return np.stack([images[i] for i in np.argsort(order)])

    def _members(self, positions: np.ndarray) -> list[Member]:
        """The files of the images at rising positions."""
        shards, begins = np.unique(np.searchsorted(self._ends, positions, side="right"), return_index=True)
        parts = list(zip(shards, np.split(positions, begins[1:]), strict=True))
        return [member for members in in_threads(self._read, parts) for member in members]

    def _read(self, part: tuple[int, np.ndarray]) -> list[Member]:
        shard, positions = part
        return read_members(self.paths[shard], self._offsets[positions], self._sizes[positions])

    def _decode(self, member: Member) -> np.ndarray:
        """The image as (H, W, C) uint8; ValueError if its shape differs from the first one's."""
        pixels = read_image(member, self.size, self.grey, background=self.background)
        if self._shape is not None and pixels.shape != self._shape:
            raise ValueError(
                f"ImageShards: images must be of one size unless size= is given, got {member} with "
                f"{pixels.shape[:2]} and the first image with {self._shape[:2]} (height, width)"
            )
        return pixels

    def _keep_readable(self, unreadable: str) -> None:
        """Decode every image, and leave out what cannot be decoded, or raise."""
        fault = partial(fault_of, grey=self.grey, background=self.background)
        checked: list[tuple[object, str]] = []
        starts = range(0, len(self), CHECKED)
        for start in track(starts, "checking images", f"batch of {CHECKED}"):
            members = self._members(self._positions[start : start + CHECKED])
            faults = in_threads(fault, members)
            checked += [(str(member) if said else "", said) for member, said in zip(members, faults, strict=True)]
        kept = keep_readable("ImageShards", checked, unreadable)
        self.labels, self._offsets, self._sizes = self.labels[kept], self._offsets[kept], self._sizes[kept]
        shards = np.searchsorted(self._ends, self._positions[kept], side="right")
        self._count(np.bincount(shards, minlength=len(self.paths)).tolist())


def index_shards(source: PathLike | Iterable[PathLike]) -> int:
    """Write the index ``NAME.tar.json`` beside each tar file, so that `ImageShards` starts at once.

    Args:
        source: as for `ImageShards`.
    Returns:
        How many samples there are.
    Raises:
        As `ImageShards`; OSError where an index cannot be written.
    """

    def index(path: Path) -> int:
        found = scan(path)
        write_index(path, found)
        return len(found.labels)

    paths = _tar_paths("index_shards", source)
    return sum(track(in_threads(index, paths), "writing indices", "shard", len(paths)))


def shard_splits(root: Path) -> dict[str, Path]:
    """The folders of shards in `root`, by split: {"train": root} if the tar files lie in `root`
    itself, or the folders that are named as splits; {} if there are no tar files."""
    if _tars_in(root):
        return {"train": root}
    folders = sorted(path for path in root.iterdir() if path.name.casefold() in SPLITS and path.is_dir())
    return {SPLITS[folder.name.casefold()]: folder for folder in folders if _tars_in(folder)}


def _tars_in(folder: Path) -> list[Path]:
    """The tar files in a folder, sorted by name; hidden ones do not count."""
    return sorted(path for path in folder.glob("*.tar") if path.is_file() and not path.name.startswith("."))


def _tar_paths(operation: str, source: PathLike | Iterable[PathLike]) -> tuple[Path, ...]:
    """The tar files that `source` stands for.

    Raises:
        FileNotFoundError: there are none.
    """
    if not isinstance(source, str | os.PathLike):
        paths = tuple(Path(path).expanduser() for path in source)
        if not paths:
            raise FileNotFoundError(f"{operation}: source is empty but must name at least one tar file")
        return paths
    folder = checked_folder(operation, "source", source)
    found = tuple(_tars_in(folder))
    if not found:
        raise FileNotFoundError(f"{operation}: source {folder} holds no tar files")
    return found


def _own_classes(paths: Sequence[Path]) -> tuple[tuple[str, ...] | None, Path]:
    """(the names in classes.json beside the tar files, its path); None for names if there is none.

    Raises:
        ValueError: the file lists no names, or the tar files have different ones.
    """
    folders = dict.fromkeys(path.parent for path in paths)
    first, *others = [(_read_classes(folder / CLASSES), folder / CLASSES) for folder in folders]
    for names, path in others:
        if names != first[0]:
            raise ValueError(f"ImageShards: {path} and {first[1]} must be equal, but have other classes")
    return first


def _read_classes(path: Path) -> tuple[str, ...] | None:
    if not path.is_file():
        return None
    try:
        names = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"ImageShards: {path} is no JSON: {error}") from error
    distinct = isinstance(names, list) and all(isinstance(name, str) for name in names) and len({*names}) == len(names)
    if not distinct or not names:
        raise ValueError(f"ImageShards: {path} must hold a list of different names, one for each label")
    return tuple(names)


def _class_names(
    own: tuple[str, ...] | None, given: Sequence[str] | None, indices: Sequence[ShardIndex]
) -> tuple[str, ...]:
    """The names of the labels that the data set gives."""
    if given is not None:
        return tuple(given)
    if own is not None:
        return own
    largest = max(int(index.labels.max(initial=-1)) for index in indices)
    return tuple(str(label) for label in range(min(largest + 1, MOST_CLASSES)))


def _labels(paths: Sequence[Path], indices: Sequence[ShardIndex], names: Sequence[str]) -> np.ndarray:
    """The labels of all shards, int64 (N,); ValueError if there are none, or one is out of range."""
    for path, index in zip(paths, indices, strict=True):
        wrong = (index.labels < 0) | (index.labels >= len(names))
        if wrong.any():
            got = index.labels[wrong][0]
            raise ValueError(f"ImageShards: {path}: labels must be from 0 to {len(names) - 1}, got {got}")
    labels = np.concatenate([index.labels for index in indices])
    if not len(labels):
        raise ValueError(
            f"ImageShards: {paths[0]} holds no samples, members KEY.jpg and KEY.cls, nor does any other shard"
        )
    return labels
