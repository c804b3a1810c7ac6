"""A user's own images: which files and folders count, and `ImageFolder`, one folder per class."""

from __future__ import annotations

import math
import os
import unicodedata
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.data.datasets import Subset
from gpunet.data.readers.checks import checked_size
from gpunet.data.readers.images import SUFFIXES, WHITE, Background, checked_background, read_image

SKIPPED = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__")
"""Folders that systems leave among a user's own; passed over, as are names that begin with a dot."""
UNREADABLE = ("warn", "raise", "later")
SPLITS = {
    "train": "train", "training": "train",
    "val": "valid", "valid": "valid", "validation": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
"""What a folder of one split may be called, in upper or lower case."""


class ImageFolder:
    """Images below ``root/CLASS/``, decoded when they are asked for; classes and files in the order of their names.

    A sample is (image (H, W, C) uint8, label int64), several (images (B, H, W, C) uint8, labels (B,) int64), with images as
    `read_image` gives them: C is 3, or 1 if `grey`. Which files count: see `image_files`.

    Args:
        root: the folder that holds one folder per class.
        size: (height, width) in pixels that every image is scaled to (bilinear, antialiased); if None, all images must
            be of one size.
        grey: whether to take the luma instead of red, green and blue.
        background: what transparent images lie on, from 0 to 255: a level of grey, or (red, green, blue).
        classes: names of the labels, in their order, such as those of another split or of a checkpoint: labels then follow
            the names, and folders may be there for some of them only. If None, the names of the folders, sorted.
        unreadable: "warn": every image is decoded once now, and those that cannot be are left out, with one warning that
            counts them; "raise": they are an error now; "later": nothing is decoded now, and they are an error when they
            are asked for.
    Attributes:
        paths, names: of the images, and their names relative to `root`, as "CLASS/NAME.png" on every system.
        labels: int64 (N,).
    Raises:
        FileNotFoundError: no such folder.
        ValueError: no classes, one that is not in `classes`, or one without images; splits such as ``train/`` in place of
            classes, see `split_folders`; later, an image that cannot be read or has another size.
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
        self.size, self.background = checked_size("ImageFolder", size), checked_background("ImageFolder", background)
        folders = _class_folders(self.root)
        names = [folder.name for folder in folders]
        self.classes = tuple(names if classes is None else classes)
        labels = match_classes("ImageFolder", str(self.root), names, self.classes)
        listed = [image_files(folder) for folder in folders]
        _check_filled(folders, listed, f"holds no images ({', '.join(SUFFIXES)})")
        every = [path for found in listed for path in found]
        readable = check_readable("ImageFolder", every, unreadable, grey=grey, background=self.background)
        self.paths = [path for path, fine in zip(every, readable, strict=True) if fine]
        counts = [int(part.sum()) for part in np.split(readable, np.cumsum([len(found) for found in listed])[:-1])]
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
        chosen = np.arange(len(self))[index]
        return np.stack([self._decode(self.paths[i]) for i in chosen]), labels

    def _decode(self, path: Path) -> np.ndarray:
        """The image as (H, W, C) uint8, of the same shape as every other."""
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


# ---- a part held out


def stable_split(dataset: ImageFolder | Subset, share: float, purpose: str = "test") -> tuple[Subset, Subset]:
    """(the rest, what is held out) of a folder's images, as each image's own name decides.

    A number from 0 to 1 is computed from `purpose` and the image's name relative to the root, "CLASS/NAME.png"; an image is
    held out if its number is below `share`. So neither another image, nor a seed, nor where the folder lies, nor the system
    changes where an image belongs. Per class, about `share` of n images are held out; where chance would hold out fewer than
    half of ``share * n`` or more than one and a half times as many, as happens to small classes, the images next to the
    border change sides. Of a class of two or more, at least one is held out and at least one is not; an only image is not.

    Args:
        dataset: an `ImageFolder`, or a `Subset` of one.
        share: how much to hold out, above 0 and below 1.
        purpose: splits of different purposes are independent.
    Raises:
        ValueError: another share; a data set of which nothing is held out, since no class has two images.
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
        raise ValueError(f"stable_split: no class has two images, so that none is left to {purpose}")
    return Subset(dataset, np.flatnonzero(~held_out)), Subset(dataset, np.flatnonzero(held_out))


def _count(below: int, total: int, share: float) -> int:
    """How many of a class's images are held out, of which `below` have a number below the share."""
    fewest = max(math.ceil(share * total / 2), 1)
    most = max(math.floor(share * total * 3 / 2), fewest)
    return min(max(below, fewest), most, total - 1)


def _number(purpose: str, name: str) -> float:
    """From 0 to 1, the same on every system: file systems differ in the Unicode form of one name."""
    text = f"{purpose}/{unicodedata.normalize('NFC', name)}"
    digest = blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _relative_names(dataset: ImageFolder | Subset) -> list[str]:
    if isinstance(dataset, Subset):
        names = _relative_names(dataset.dataset)  # type: ignore[arg-type]
        return [names[i] for i in dataset.indices]
    return list(dataset.names)


# ---- which files and folders count


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and in the folders below it, in the order of their names.

    An image is a file whose name ends in one of `SUFFIXES`, in upper or lower case. Names that begin with a dot and the
    folders named in `SKIPPED` are passed over. Links to files and to folders are followed, but no folder is entered twice,
    and none that `folder` lies in, so that circles of links end. A folder named like an image is a folder. A link to a
    file that is not there counts as an image, which cannot be read.
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
                found.append(path)  # what is neither, such as a pipe, would block its reader
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits "train", "valid" and "test" that are in `root`; none if it holds folders of classes.

    The folders are splits if all of them are named in `SPLITS` and hold folders of classes. A class may be called "train",
    if there are others that are not named so and its images lie directly in its folder.

    Raises:
        ValueError: splits and classes beside each other, two folders of one split, a split without classes.
    """
    folders = _folders(root)
    named = [folder for folder in folders if folder.name.casefold() in SPLITS]
    nested = [folder for folder in named if _folders(folder)]
    found = f"{root} holds {_listed(folder.name + '/' for folder in folders)}"
    if len(named) < len(folders):
        if nested:
            raise ValueError(
                f"{found}, of which {_listed(folder.name + '/' for folder in nested)} holds folders as a split does, and "
                "the others do not: it must hold either classes, or splits (train/, valid/, test/) of classes"
            )
        return {}
    if len(nested) < len(named):
        flat = [folder.name + "/" for folder in named if folder not in nested]
        raise ValueError(f"{found}, named as splits, but {_listed(flat)} holds no folders of classes")
    splits: dict[str, Path] = {}
    for folder in named:
        other = splits.setdefault(SPLITS[folder.name.casefold()], folder)
        if other != folder:
            raise ValueError(f"{found}, of which {other.name}/ and {folder.name}/ stand for one split")
    return splits


def match_classes(operation: str, source: str, found: Sequence[str], known: Sequence[str]) -> list[int]:
    """The label of each class that is `found` in `source`: the position of its name among the `known` names.

    Raises:
        ValueError: names that are not known, with those that differ only in how they are written.
    """
    labels = {name: label for label, name in enumerate(known)}
    extra = [name for name in found if name not in labels]
    if not extra:
        return [labels[name] for name in found]
    alike = {_simplified(name): name for name in known}
    pairs = [(name, alike[_simplified(name)]) for name in extra if _simplified(name) in alike]
    hints = [f"; {name!a} is written {other!a} there" for name, other in pairs]
    raise ValueError(
        f"{operation}: {source} has classes {_listed(map(repr, extra))} that are not among the {len(known)} known ones "
        f"({_listed(known, 10)}){''.join(hints[:3])}"
    )


def check_readable(
    operation: str, paths: Sequence[Path], unreadable: str, *, grey: bool, background: Background
) -> np.ndarray:
    """bool (N,): which images can be read; arguments as for `ImageFolder`. Decodes them in several threads.

    Raises:
        ValueError: unreadable images, if they are to raise, or if there are no others.
    """
    if unreadable not in UNREADABLE:
        raise ValueError(f"{operation}: unreadable is {unreadable!r} but takes {', '.join(UNREADABLE)}")
    if unreadable == "later":
        return np.ones(len(paths), bool)

    def fault(path: Path) -> str:
        try:
            read_image(path, grey=grey, background=background)
        except ValueError as error:
            return str(error)
        return ""

    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        faults = list(pool.map(fault, paths))
    finally:
        pool.shutdown(cancel_futures=True)
    wrong = [(path, said) for path, said in zip(paths, faults, strict=True) if said]
    if wrong:
        reason = wrong[0][1].removeprefix("read_image: ")
        others = f"; also {_listed(str(path) for path, _ in wrong[1:])}" if wrong[1:] else ""
        counted = f"{operation}: {len(wrong)} of {len(paths)} images cannot be read"
        if unreadable == "raise" or len(wrong) == len(paths):
            raise ValueError(f"{counted}: {reason}{others}")
        warnings.warn(f"{counted} and are left out: {reason}{others}", stacklevel=3)
    return np.array([not said for said in faults], bool)


def checked_folder(operation: str, argument: str, value: str | os.PathLike[str]) -> Path:
    """The folder that a user named.

    Raises:
        FileNotFoundError: there is none.
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
    folders = _folders(root)
    if not folders:
        raise ValueError(f"ImageFolder: root {root} holds no folders but takes one folder a class")
    if splits := split_folders(root):
        raise ValueError(
            f"ImageFolder: root {root} holds splits, {_listed(path.name + '/' for path in splits.values())}, but takes one "
            f"folder a class: give the folder of a split, such as {next(iter(splits.values()))}"
        )
    return folders


def _folders(root: Path) -> list[Path]:
    """The folders in `root` that count, in the order of their names; no link back to where `root` lies."""
    above = _above(root)
    return [path for path in _visible(root) if path.is_dir() and path.resolve() not in above]


def _visible(folder: Path) -> list[Path]:
    kept = [path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in SKIPPED]
    return sorted(kept, key=lambda path: path.name)


def _above(folder: Path) -> set[Path]:
    """The folder and all that it lies in, by its own name and behind its links."""
    named = folder.absolute()
    return {path.resolve() for path in (named, *named.parents)} | set(folder.resolve().parents)


def _check_filled(folders: Sequence[Path], contents: Sequence[Any], lack: str) -> None:
    """Raise a ValueError that names the class folders whose contents are nothing."""
    empty = [str(folder) for folder, content in zip(folders, contents, strict=True) if not content]
    if empty:
        raise ValueError(f"ImageFolder: class folder {_listed(empty)} {lack}")


def _simplified(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _listed(names: Any, most: int = 3) -> str:
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
