"""A folder for what compilers made, each file named by the hash of everything that it was made from."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path


def folder(kind: str) -> Path:
    """Where new files of a kind are kept: in ``GPUNET_CACHE``, or in gpunet's folder of the user's cache; in a temporary
    folder, with one warning, where there is no such folder or it cannot be written to."""
    return writable(_chosen(), "GPUNET_CACHE", kind)


def writable(wanted: Path | None, variable: str, within: str) -> Path:
    """The folder `within` the one that is wanted, both made if they are not there; of a temporary one, with a warning, if
    either cannot be written to: a command that ran as another user may have left a folder that is not this one's.

    Args:
        wanted: None where no home folder is known.
        variable: of the environment, by which another folder can be named.
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
    """A file name for what depends on the parts; a part is known by its `repr`."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def find(kind: str, name: str) -> Path | None:
    """The cached file of that name, None if it is not there; one is also taken from a folder that can only be read."""
    chosen = _chosen()
    if chosen is not None and os.path.exists(chosen / kind / name):
        return chosen / kind / name
    path = folder(kind) / name
    return path if path.exists() else None


def keep(kind: str, name: str, make: Callable[[Path], object]) -> Path:
    """The cached file of that name, made aside and renamed if it is not there: who reads sees all of it or nothing.

    Args:
        make: writes the file at the path that it is given.
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
    """The folder that the environment names or implies, absolute; None where no home folder is known."""
    chosen = os.environ.get("GPUNET_CACHE")
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    if base and os.path.isabs(base):
        return Path(base) / "gpunet"
    home = os.path.expanduser("~")  # "~" itself for a user whom the system does not know
    return Path(home) / ".cache" / "gpunet" if os.path.isabs(home) else None


@cache
def _temporary(why: str, variable: str) -> Path:
    """This user's own temporary folder. Compiled code in it is run, so nobody else may write there."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    path = Path(tempfile.gettempdir()) / f"gpunet-{user}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        private = stat.S_ISDIR(found.st_mode) and (
            user == "user" or (found.st_uid == user and not found.st_mode & 0o022)
        )
    except OSError:
        private = False
    if not private or not os.access(path, os.W_OK | os.X_OK):
        path = Path(tempfile.mkdtemp(prefix="gpunet-"))
    warnings.warn(f"{why}: {path} is used instead; {variable} can name another", RuntimeWarning, stacklevel=4)
    return path
