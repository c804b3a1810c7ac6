"""A folder for what compilers made, each file named by the hash of everything that it was made from."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def folder(kind: str) -> Path:
    """Where files of a kind are kept: in ``GPUNET_CACHE``, or in gpunet's folder of the user's cache."""
    chosen = os.environ.get("GPUNET_CACHE")
    if chosen:
        return Path(chosen) / kind
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gpunet" / kind


def digest(*parts: object) -> str:
    """A file name for what depends on the parts; a part is known by its `repr`."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def keep(kind: str, name: str, make: Callable[[Path], object]) -> Path:
    """The cached file of that name, made aside and renamed if it is not there: who reads sees all of it or nothing.

    Args:
        make: writes the file at the path that it is given.
    """
    path = folder(kind) / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="making-") as aside:
            made = Path(aside) / name
            make(made)
            made.replace(path)
    return path
