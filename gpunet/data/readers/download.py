"""Where the files of a public data set are: in a folder of the user's, in the cache, or online."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gpunet.cache import writable
from gpunet.progress import Progress, track

ENVIRONMENT = "GPUNET_DATA"
"""The environment variable that names the folder of the data sets."""

Root = str | os.PathLike[str] | None
"""The folder that holds the folders of data sets; None stands for what GPUNET_DATA names."""

SPLITS = ("train", "test")

_PROBLEMS = (OSError, ValueError, EOFError, ImportError, tarfile.TarError)
"""What pooch, requests and tarfile raise."""


@dataclass(frozen=True, slots=True)
class Source:
    """A public data set: the folder of its files, and what to download.

    Attributes:
        folder: name of the folder, below the user's root or the cache.
        url: the official address; ends in "/", after which the names of `md5` follow.
        md5: the checksum of each file to download: ``.gz`` files of the folder, or one ``.tar.gz``
            that holds it.
    """

    folder: str
    url: str
    md5: Mapping[str, str]


def checked_split(operation: str, root: Root, split: str) -> str:
    """The split, checked to be "train" or "test".

    Raises:
        ValueError: another split; or a root that is the name of a split and not a folder, from a
            call such as ``mnist("test")``.
    """
    if split not in SPLITS:
        raise ValueError(f'{operation}: split is {split!r} but takes "train" or "test"')
    if root in SPLITS and not Path(root).is_dir():
        raise ValueError(f"{operation}: root is {root!r}, which is a split, not a folder; write split={root!r}")
    return split


def find_files(operation: str, source: Source, names: Sequence[str], root: Root, download: bool) -> list[Path]:
    """The paths of files of a data set, which are downloaded if they are nowhere.

    A file gets its final name only when it is complete and checked.

    Args:
        operation: the name of the reader, which begins errors.
        names: of files in ``source.folder``; ``NAME.gz`` is also found as ``NAME``.
        root: the folder that holds ``source.folder``; if None, the folder in GPUNET_DATA, then the
            cache.
        download: whether to download missing files, into root or the cache.
    Raises:
        FileNotFoundError: a file is nowhere and cannot be downloaded; the message says where it was
            looked for, what went wrong, and what to do.
    """
    if root is not None:
        bases = [Path(root).expanduser()]
    else:
        named = os.environ.get(ENVIRONMENT)
        bases = [base for base in (Path(named).expanduser() if named else None, _cache()) if base]
    folders = [base / source.folder for base in bases]
    for folder in folders:
        if found := _present(folder, names):
            return found
    try:
        if not download:
            raise OSError("download=False")
        folder = _fetch(source, names, folders[-1] if root is not None else None)
        if found := _present(folder, names):
            return found
        raise OSError(f"{', '.join(source.md5)} does not contain them")
    except _PROBLEMS as error:
        looked = " or ".join(map(str, folders)) or f"{ENVIRONMENT}, which is not set,"
        why = " ".join(str(error).split()).rstrip(".")
        raise FileNotFoundError(
            f"{operation}: {', '.join(names)} are not in {looked} and were not fetched from {source.url}: {why}; "
            f'put them into a folder "{source.folder}" and name the folder that holds it by root= or {ENVIRONMENT}'
        ) from error


def find_folder(operation: str, name: str, root: Root, address: str) -> Path:
    """The folder of a data set that is not downloaded: in root, or in GPUNET_DATA's folder.

    Args:
        operation: the name of the reader, which begins errors.
        name: of the folder.
        address: where the data set is published, for the message.
    Raises:
        FileNotFoundError: it is not there; the message says where it was looked for, and what to
            do.
    """
    base = os.environ.get(ENVIRONMENT) if root is None else root
    folder = Path(base).expanduser() / name if base else None
    if folder is None or not folder.is_dir():
        looked = folder or f"{name} in {ENVIRONMENT}, which is not set"
        raise FileNotFoundError(
            f"{operation}: there is no folder {looked}; get it from {address}, unpack it, and name the folder that holds "
            f'"{name}" by root= or {ENVIRONMENT}'
        )
    return folder


def _present(folder: Path, names: Sequence[str]) -> list[Path] | None:
    """The paths of all names in a folder, unpacked or as published; None if one is missing."""
    paths = []
    for name in names:
        path = next((path for path in (folder / name.removesuffix(".gz"), folder / name) if path.is_file()), None)
        if path is None:
            return None
        paths.append(path)
    return paths


def _cache() -> Path | None:
    """gpunet's folder in the user's cache; None without pooch or a home folder."""
    try:
        import pooch
    except ImportError:
        return None
    folder = Path(os.path.expanduser(pooch.os_cache("gpunet")))
    return folder if folder.is_absolute() else None  # without a home folder, "~/…" is not expanded


def _fetch(source: Source, names: Sequence[str], folder: Path | None) -> Path:
    """Download what is missing of `names` into a folder and return the folder.

    Each file is complete and checked before it gets its name.

    Args:
        folder: if None, the cache, or a temporary folder, with a warning, if the cache cannot be
            written to.
    """
    try:
        import pooch
    except ImportError as error:
        raise ImportError('downloads need pooch: pip install "gpunet[examples]"') from error
    if folder is None:
        folder = writable(_cache(), ENVIRONMENT, source.folder)
        if _present(folder, names):
            return folder
    missing = [name for name in names if not _present(folder, [name])]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder)
    except OSError as error:
        raise OSError(f"cannot write into folder {folder}: {error.strerror}") from error
    with aside as work:
        for name, checksum in source.md5.items():
            archive = name.endswith(".tar.gz")
            if archive or name in missing:
                fetched = Path(pooch.retrieve(source.url + name, f"md5:{checksum}", name, work, downloader=_stream))
                for path in _unpack(fetched, source.folder) if archive else [fetched]:
                    os.replace(path, folder / path.name)
    return folder


def _stream(url: str, path: str, _: object) -> None:
    """Write the content of an address to a temporary file, which pooch then checks."""
    import requests

    name = url.rpartition("/")[2]
    with requests.get(url, stream=True, timeout=30) as answer:
        answer.raise_for_status()
        size = int(answer.headers.get("Content-Length", 0)) or None
        with open(path, "wb") as file, Progress(f"downloading {name}", size, "B") as shown:
            for chunk in answer.iter_content(1 << 16):
                shown.update(file.write(chunk))


def _unpack(archive: Path, folder: str) -> list[Path]:
    """Unpack the files of one folder of an archive beside the archive.

    Only the last part of a member's name counts, so no file is written anywhere else.
    """
    paths = []
    with tarfile.open(archive) as members:
        for member in track(members, f"unpacking {archive.name}", "file"):
            name = PurePosixPath(member.name)
            content = members.extractfile(member) if member.isfile() and name.parent.name == folder else None
            if content is not None:
                paths.append(archive.parent / name.name)
                with content, paths[-1].open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
    return paths
