"""A user's own images: which files and folders count, `ImageFolder`, and a stable split of it."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gpunet.data.datasets import Subset
from gpunet.data.readers.checks import checked_size, listed
from gpunet.data.readers.images import SUFFIXES, WHITE, Background, checked_background, read_image
from gpunet.data.readers.threads import in_threads
from gpunet.errors import warn
from gpunet.progress import track

__all__ = ["ImageFolder", "stable_split"]

SKIPPED = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__")
"""Folders that operating systems and tools create.

They are ignored, as are names that begin with a dot.
"""
UNREADABLE = ("warn", "raise", "later")
SPLITS = {
    "train": "train", "training": "train",
    "val": "valid", "valid": "valid", "validation": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
"""The names, in lower case, that a split's folder may have, and the split of each."""


class ImageFolder:
    """Images in ``root/CLASS/``, sorted by class and name, decoded when they are asked for; several at
    once in as many threads as the NumPy backend has, 8 at most.

    One sample is (image (H, W, C) uint8, label int64); several are (images (B, H, W, C) uint8,
    labels (B,) int64). `read_image` decodes the images: C is 3, or 1 if `grey`. `image_files` says
    which files count.

    Args:
        root: the folder that holds one folder for each class.
        size: (height, width) in pixels to which every image is scaled (bilinear, antialiased); if
            None, all images must have one size.
        grey: whether to take the luma instead of red, green and blue.
        background: the colour behind transparent images, from 0 to 255: a level of grey, or (red,
            green, blue).
        classes: names of the labels in their order, such as those of another split or of a
            checkpoint. Labels then follow these names, and some of them may have no folder. If
            None, the folders' names, sorted.
        unreadable: "warn": every image is decoded once now; images that cannot be decoded are left
            out, and one warning counts them. "raise": they are an error now. "later": nothing is
            decoded now, and they are an error when they are asked for.
    Attributes:
        paths, names: the images' paths, and their names relative to `root`, "CLASS/NAME.png" on
            every system.
        labels: int64 (N,).
    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no classes, a class that is not in `classes` or has no images; splits such as
            ``train/`` where classes belong, see `split_folders`; later, an image that cannot be
            read or has another size.
        ImportError: Pillow is not installed.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        size: tuple[int, int] | None = None,
        grey: bool = False,
        *,
        background: Background = WHITE,
        classes: Sequence[str] | None = None,
        unreadable: str = "warn",
    ) -> None:
        self.root, self.grey = checked_folder("ImageFolder", "root", root), grey
        self.size = None if size is None else checked_size("ImageFolder", size)
        self.background = checked_background("ImageFolder", background)
        folders = _class_folders(self.root)
        names = [folder.name for folder in folders]
        self.classes = tuple(names if classes is None else classes)
        labels = match_classes("ImageFolder", str(self.root), names, self.classes)
        by_class = [image_files(folder) for folder in folders]
        _check_filled(folders, by_class, f"holds no images ({', '.join(SUFFIXES)})")
        every = [path for found in by_class for path in found]
        readable = check_readable("ImageFolder", every, unreadable, grey=grey, background=self.background)
        self.paths = [path for path, fine in zip(every, readable, strict=True) if fine]
        counts = [int(part.sum()) for part in np.split(readable, np.cumsum([len(found) for found in by_class])[:-1])]
        _check_filled(folders, counts, "holds no image that can be read")
        self.labels = np.repeat(np.array(labels, np.int64), counts)
        self.names = tuple(path.relative_to(self.root).as_posix() for path in self.paths)
        self._expected: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        labels = self.labels[index]
        if np.ndim(labels) == 0:
            return self._decode(self.paths[index]), labels
        paths = [self.paths[i] for i in np.arange(len(self))[index]]
        return np.stack(list(in_threads(self._decode, paths))), labels

    def _decode(self, path: Path) -> np.ndarray:
        """The image as (H, W, C) uint8; ValueError if its shape differs from the others'."""
        if self.size is None and not self._expected and path != self.paths[0]:
            self._decode(self.paths[0])
        pixels = read_image(path, self.size, self.grey, background=self.background)
        if self._expected and pixels.shape != self._expected:
            raise ValueError(
                f"ImageFolder: images must be of one size unless size= is given, got {path} with "
                f"{pixels.shape[:2]} and {self.paths[0]} with {self._expected[:2]} (height, width)"
            )
        self._expected = pixels.shape
        return pixels


# ---- holding out a part


def stable_split(dataset: ImageFolder | Subset, share: float, purpose: str = "test") -> tuple[Subset, Subset]:
    """Hold out a part of a folder's images that stays the same when the folder grows.

    A number from 0 to 1 is computed from `purpose` and from the image's name relative to the root,
    "CLASS/NAME.png"; an image is held out if its number is below `share`. So where an image belongs
    depends neither on other images, nor on a seed, nor on the folder's place, nor on the system.
    About `share` of the n images of each class are held out. If chance would hold out fewer than
    half of ``share * n`` or more than one and a half times as many, as it may in small classes, the
    images nearest to the limit change sides. Of a class of two or more images, at least one is held
    out and at least one is not; a single image is not held out.

    Args:
        dataset: an `ImageFolder`, or a `Subset` of one.
        share: how much to hold out, above 0 and below 1.
        purpose: splits for different purposes are independent.
    Returns:
        (the other images, the images that are held out).
    Raises:
        ValueError: a share out of range; or nothing to hold out, because no class has two images.
    """
    if not 0 < share < 1:
        raise ValueError(f"stable_split: share must be above 0 and below 1, got {share}")
    names = _relative_names(dataset)
    numbers = np.array([_number(purpose, name) for name in names])
    held_out = np.zeros(len(names), bool)
    for label in np.unique(dataset.labels):
        members = np.flatnonzero(dataset.labels == label)
        count = _count(int((numbers[members] < share).sum()), len(members), share)
        held_out[members[np.argsort(numbers[members], kind="stable")[:count]]] = True
    if not held_out.any():
        raise ValueError(f"stable_split: no class has two images, so none can be held out to {purpose}")
    return Subset(dataset, np.flatnonzero(~held_out)), Subset(dataset, np.flatnonzero(held_out))


def _count(below: int, total: int, share: float) -> int:
    """How many of a class's images to hold out, `below` of which have a number below the share."""
    fewest = max(math.ceil(share * total / 2), 1)
    most = max(math.floor(share * total * 3 / 2), fewest)
    return min(max(below, fewest), most, total - 1)


def _number(purpose: str, name: str) -> float:
    """A number from 0 to 1 from purpose and name.

    Names are normalised first, since file systems differ in the Unicode form of one name.
    """
    text = f"{purpose}/{unicodedata.normalize('NFC', name)}"
    digest = blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _relative_names(dataset: ImageFolder | Subset) -> list[str]:
    """The images' names relative to the root."""
    if isinstance(dataset, Subset):
        names = _relative_names(dataset.dataset)  # type: ignore[arg-type]
        return [names[i] for i in dataset.indices]
    return list(dataset.names)


# ---- which files and folders count


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and in the folders below it, in the order of their names.

    An image is a file whose name ends in one of `SUFFIXES`, in upper or lower case. Names that
    begin with a dot and the folders in `SKIPPED` are ignored. Links to files and to folders are
    followed, but no folder is entered twice, nor one that contains `folder`, so that circular links
    end. A folder that is named like an image is a folder. A link to a file that does not exist
    counts as an image that cannot be read.
    """
    found, pending, entered = [], [folder], _above(folder)
    while pending:
        for path in _visible(pending.pop()):
            if path.is_dir():
                real = path.resolve()
                if real not in entered:
                    entered.add(real)
                    pending.append(path)
            elif path.suffix.lower() in SUFFIXES and (path.is_file() or not path.exists()):
                found.append(path)  # anything else, such as a pipe, would block a reader
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits "train", "valid" and "test" in `root`; none if it holds classes.

    The folders are splits if all of them are named in `SPLITS` and hold folders of classes. A class
    may be called "train" if there are other classes and its images lie directly in its folder.

    Raises:
        ValueError: splits and classes beside each other, two folders for one split, or a split
            without classes.
    """
    folders = _folders(root)
    named = [folder for folder in folders if folder.name.casefold() in SPLITS]
    nested = [folder for folder in named if _folders(folder)]
    found = f"{root} holds {listed(folder.name + '/' for folder in folders)}"
    if len(named) < len(folders):
        if nested:
            raise ValueError(
                f"{found}, of which only {listed(folder.name + '/' for folder in nested)} holds folders as a split does: "
                "it must hold either classes, or splits (train/, valid/, test/) of classes"
            )
        return {}
    if len(nested) < len(named):
        flat = [folder.name + "/" for folder in named if folder not in nested]
        raise ValueError(f"{found}, named as splits, but {listed(flat)} holds no folders of classes")
    splits: dict[str, Path] = {}
    for folder in named:
        other = splits.setdefault(SPLITS[folder.name.casefold()], folder)
        if other != folder:
            raise ValueError(f"{found}, of which {other.name}/ and {folder.name}/ are the same split")
    return splits


def match_classes(operation: str, source: str, found: Sequence[str], known: Sequence[str]) -> list[int]:
    """The label of each class `found` in `source`: the position of its name in `known`.

    Raises:
        ValueError: names that are not known; the message shows known names that differ only in how
            they are written.
    """
    labels = {name: label for label, name in enumerate(known)}
    extra = [name for name in found if name not in labels]
    if not extra:
        return [labels[name] for name in found]
    alike = {_simplified(name): name for name in known}
    pairs = [(name, alike[_simplified(name)]) for name in extra if _simplified(name) in alike]
    hints = [f"; {name!a} is written {other!a} there" for name, other in pairs]
    raise ValueError(
        f"{operation}: {source} has classes {listed(map(repr, extra))} that are not among the {len(known)} known ones "
        f"({listed(known, 10)}){''.join(hints[:3])}"
    )


def check_readable(
    operation: str, paths: Sequence[Path], unreadable: str, *, grey: bool, background: Background
) -> np.ndarray:
    """Which images can be read, bool (N,); the images are decoded in several threads.

    The arguments are those of `ImageFolder`.

    Raises:
        ValueError: unreadable images, if they are to raise or if there are no others.
    """
    if checked_unreadable(operation, unreadable) == "later":
        return np.ones(len(paths), bool)

    def fault(path: Path) -> str:
        return fault_of(path, grey, background)

    faults = list(track(in_threads(fault, paths), "checking images", "image", len(paths)))
    return keep_readable(operation, list(zip(paths, faults, strict=True)), unreadable)


def checked_unreadable(operation: str, unreadable: str) -> str:
    """The argument `unreadable` of `ImageFolder`; ValueError for any other value."""
    if unreadable not in UNREADABLE:
        raise ValueError(f"{operation}: unreadable is {unreadable!r} but takes {', '.join(UNREADABLE)}")
    return unreadable


def fault_of(file: Path | BinaryIO, grey: bool, background: Background) -> str:
    """Why an image cannot be read, "" if it can."""
    try:
        read_image(file, grey=grey, background=background)
    except ValueError as error:
        return str(error)
    return ""


def keep_readable(operation: str, checked: Sequence[tuple[object, str]], unreadable: str) -> np.ndarray:
    """Which images can be read, bool (N,), of (the image's name, what `fault_of` said) of each.

    Raises:
        ValueError: unreadable images, if they are to raise or if there are no others.
    """
    wrong = [(name, said) for name, said in checked if said]
    if wrong:
        reason = wrong[0][1].removeprefix("read_image: ")
        others = f"; also {listed(str(name) for name, _ in wrong[1:])}" if wrong[1:] else ""
        counted = f"{operation}: {len(wrong)} of {len(checked)} images cannot be read"
        if unreadable == "raise" or len(wrong) == len(checked):
            raise ValueError(f"{counted}: {reason}{others}")
        warn(f"{counted} and are left out: {reason}{others}")
    return np.array([not said for _, said in checked], bool)


def checked_folder(operation: str, argument: str, value: str | os.PathLike[str]) -> Path:
    """The folder that a user named, as a path.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: an empty name.
    """
    if not os.fspath(value):
        raise ValueError(f"{operation}: {argument} is empty but must name a folder")
    folder = Path(value).expanduser()
    if not folder.is_dir():
        kind = "a file, not a folder" if folder.exists() else "not a folder"
        raise FileNotFoundError(f"{operation}: {argument} {folder} is {kind}")
    return folder


def _class_folders(root: Path) -> list[Path]:
    """The folders of classes in `root`; ValueError if there are none, or splits instead."""
    folders = _folders(root)
    if not folders:
        raise ValueError(f"ImageFolder: root {root} holds no folders but must hold one for each class")
    if splits := split_folders(root):
        raise ValueError(
            f"ImageFolder: root {root} holds splits, {listed(path.name + '/' for path in splits.values())}, but must hold "
            f"one folder for each class: pass the folder of a split, such as {next(iter(splits.values()))}"
        )
    return folders


def _folders(root: Path) -> list[Path]:
    """The folders in `root` that count, sorted by name; no links to folders above `root`."""
    above = _above(root)
    return [path for path in _visible(root) if path.is_dir() and path.resolve() not in above]


def _visible(folder: Path) -> list[Path]:
    """The files and folders in a folder that are not ignored, in the order of their names."""
    kept = [path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in SKIPPED]
    return sorted(kept, key=lambda path: path.name)


def _above(folder: Path) -> set[Path]:
    """The folder and all folders that contain it, by its own name and with links resolved."""
    named = folder.absolute()
    return {path.resolve() for path in (named, *named.parents)} | set(folder.resolve().parents)


def _check_filled(folders: Sequence[Path], contents: Sequence[Any], lack: str) -> None:
    """Raises a ValueError that names the class folders whose contents are empty."""
    empty = [str(folder) for folder, content in zip(folders, contents, strict=True) if not content]
    if empty:
        raise ValueError(f"ImageFolder: class folder {listed(empty)} {lack}")


def _simplified(name: str) -> str:
    """The name without differences of case, of spaces and of Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())
