"""Keeps the outputs of compilers in a folder, each named by the hash of its inputs."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from gpunet.errors import warn


def folder(kind: str) -> Path:
    """Return the folder for new files of a kind.

    It lies in ``GPUNET_CACHE``, or in gpunet's folder of the user's cache. If there is none or it
    cannot be written to, it lies in a temporary folder, and a warning says so once.
    """
    return writable(_chosen(), "GPUNET_CACHE", kind)


def writable(wanted: Path | None, variable: str, within: str) -> Path:
    """Return the folder `within` another, and make both if they are missing.

    If one of them cannot be written to, because a command that ran as another user made it, for
    example, the folder lies in a temporary one instead, and a warning says so.

    Args:
        wanted: the other folder; None if no home folder is known.
        variable: the environment variable with which the user can choose another; for the warning.
        within: the folder's name.
    """
    if wanted is None:
        return _temporary("no home folder is known to keep files in", variable) / within
    for path in (wanted, wanted / within):
        if not _made(path):
            return _temporary(f"the cache folder {path} cannot be written to", variable) / within
    return wanted / within


def _made(path: Path) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True)
        return os.access(path, os.W_OK | os.X_OK)
    except OSError:
        return False


def digest(*parts: object) -> str:
    """Return a file name that depends on the `repr` of each part."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def find(kind: str, name: str) -> Path | None:
    """Return a cached file, also from a folder that cannot be written to; None if there is none."""
    chosen = _chosen()
    if chosen is not None and os.path.exists(chosen / kind / name):
        return chosen / kind / name
    path = folder(kind) / name
    return path if path.exists() else None


def keep(kind: str, name: str, make: Callable[[Path], object]) -> Path:
    """Return a cached file, and make it if there is none.

    It is made in another folder and then renamed, so that a reader never sees part of a file.

    Args:
        make: writes the file to the path that it is given.
    """
    found = find(kind, name)
    if found is not None:
        return found
    path = folder(kind) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="making-") as aside:
        made = Path(aside) / name
        make(made)
        made.replace(path)
    return path


def _chosen() -> Path | None:
    """Return the folder that the environment chooses; None if no home folder is known."""
    chosen = os.environ.get("GPUNET_CACHE")
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    if base and os.path.isabs(base):
        return Path(base) / "gpunet"
    home = os.path.expanduser("~")  # stays "~" if the system does not know the user
    return Path(home) / ".cache" / "gpunet" if os.path.isabs(home) else None


@cache
def _temporary(why: str, variable: str) -> Path:
    """Return a temporary folder to which only this user can write, since code in it is run."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    path = Path(tempfile.gettempdir()) / f"gpunet-{user}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        own = user == "user" or (found.st_uid == user and not found.st_mode & 0o022)
        private = stat.S_ISDIR(found.st_mode) and own
    except OSError:
        private = False
    if not private or not os.access(path, os.W_OK | os.X_OK):
        path = Path(tempfile.mkdtemp(prefix="gpunet-"))
    warn(f"{why}: {path} is used instead; {variable} can name another", RuntimeWarning)
    return path
