"""Files that are complete or not there at all: written aside, then renamed.

A file may keep older versions of itself beside it: `last.safetensors` has `last-1.safetensors`, the
one just before it, then `last-2.safetensors`, and so on.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from shutil import rmtree
from typing import TypeAlias

PathLike: TypeAlias = str | os.PathLike[str]
Part: TypeAlias = bytes | bytearray | memoryview
"""What a file is written from."""
ASIDE = 8
"""Bytes of the random number, written in hexadecimal digits, at the end of a name aside."""
LEFTOVER = re.compile(rf"\.(.+)\.[0-9a-f]{{{2 * ASIDE}}}")
"""The names of files that are being written, or that killed writes have left: with the target's."""


def write_whole(path: PathLike, content: Part | Iterable[Part], keep: int = 1) -> None:
    """Write a file, and make its folder, so that the old file stays as it was if writing fails.

    The new file is on the disk, with its name, when this returns.

    Args:
        path: the file; where it is a link, the file that the link leads to.
        content: its bytes, or parts that are written one after another.
        keep: how many versions there are in all: the new one, and at most ``keep - 1`` older ones
            as `previous` names them. Versions beyond these are left alone.
    Raises:
        OSError: writing failed. It is of the same class and number as the system's error, and names
            the file.
    """
    if keep < 1:
        raise ValueError(f"write_whole: keep is {keep} but must be at least 1")
    target = _target(path)
    parts = [content] if isinstance(content, bytes | bytearray | memoryview) else content
    with _named_errors(path):
        if Path(path).exists() and not target.is_file():  # a terminal or a pipe
            with open(path, "wb") as file:
                file.writelines(parts)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with _aside(target) as written:
            with open(written, "xb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            _put_in_place(target, written, keep)
    _flush_folder(target)


@contextmanager
def whole_folder(path: PathLike) -> Iterator[Path]:
    """Make a folder that is complete or not there at all.

    The ``with`` gets an empty folder beside it, to fill, which has the name `path` afterwards. If
    the block raises, the folder beside it is removed with all that it holds.

    Raises:
        FileExistsError: something has this name, before or afterwards.
        OSError: the folder cannot be made.
    """
    target = Path(path)
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "is there already, and would be replaced", os.fspath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{token_hex(ASIDE)}")
    try:
        aside.mkdir()
        yield aside
        os.rename(aside, target)
    except BaseException:
        rmtree(aside, ignore_errors=True)
        raise
    _flush_folder(target)


def previous(path: PathLike, n: int) -> Path:
    """The name of the `n`-th version before the file at `path`; 1 is the one just before it."""
    target = _target(path)
    return target.with_name(f"{target.stem}-{n}{target.suffix}")


def versions(path: PathLike) -> list[Path]:
    """The versions of a file that exist, newest first."""
    target = _target(path)
    found = [target] if target.is_file() else []
    n = 1
    # A process that was killed while it renamed versions leaves one number out, never two.
    while (here := previous(target, n)).is_file() or previous(target, n + 1).is_file():
        found += [here] if here.is_file() else []
        n += 1
    return found


def remove_leftovers(path: PathLike) -> None:
    """Delete what killed writes of this file left in its folder.

    Call it where no other process writes the file, for such a write could not end then.
    """
    target = _target(path)
    if not target.parent.is_dir():
        return
    for found in target.parent.iterdir():
        written = LEFTOVER.fullmatch(found.name)
        if written is not None and written[1] == target.name and found.is_file() and not found.is_symlink():
            found.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Whether a file has the name of one that is being written, or that a killed write has left."""
    return LEFTOVER.fullmatch(path.name) is not None


def _target(path: PathLike) -> Path:
    """The file itself where the path is a link to it, so that the link stays."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A free name beside the target, under which no file is left afterwards."""
    # The name is chosen before the file exists, so that the file is removed in every case.
    name = target.with_name(f".{target.name}.{token_hex(ASIDE)}")
    try:
        yield name
    finally:
        # If this fails too, the error before it is the one to see, and remove_leftovers will do it.
        with suppress(OSError):
            name.unlink(missing_ok=True)


def _put_in_place(target: Path, written: Path, keep: int) -> None:
    """Rename the written file to the target, and the versions before it if they are kept."""
    last = previous(target, 1)
    # Both are one file after a process was killed between the two renamings below: the version is
    # kept already.
    if keep == 1 or not target.exists() or (last.exists() and last.samefile(target)):
        os.replace(written, target)
        return
    free = next((n for n in range(1, keep) if not previous(target, n).exists()), keep - 1)
    for n in range(free, 1, -1):
        os.replace(previous(target, n - 1), previous(target, n))
    with _aside(target) as link:
        try:
            os.link(target, link)
        except (OSError, AttributeError, NotImplementedError):
            _rename_both(target, written, last)
        else:  # the target is there at every moment
            os.replace(link, last)
            os.replace(written, target)


def _rename_both(target: Path, written: Path, last: Path) -> None:
    """For disks without hard links: the target is missing for a moment between two renamings."""
    os.replace(target, last)
    try:
        os.replace(written, target)
    except BaseException:
        os.replace(last, target)
        raise


@contextmanager
def _named_errors(path: PathLike) -> Iterator[None]:
    """Have an OSError name the file that was to be written, and say what became of the old one if there is one."""
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error}{'; the file there is as it was' if os.path.isfile(path) else ''}"
        if error.errno is None:
            raise OSError(f"{reason}: {os.fspath(path)!r}") from error
        raise OSError(error.errno, reason, os.fspath(path)) from error


def _flush_folder(target: Path) -> None:
    """Have the name itself survive a power cut, on systems whose folders can be opened.

    Raises:
        OSError: the disk failed; the new file has its name, but may lose it in a power cut.
    """
    try:
        folder = os.open(target.parent, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # a disk that flushes no folders
            reason = f"{error.strerror or error}; the new file is there, but may not survive a power cut"
            raise OSError(error.errno, reason, os.fspath(target)) from error
    finally:
        os.close(folder)
