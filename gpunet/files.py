"""Files that are whole or not there: written aside, then renamed."""

from __future__ import annotations

import os
from pathlib import Path
from secrets import token_hex


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file, with its folder; where that fails, or is interrupted, what was there before stays as it was."""
    target = Path(os.path.realpath(path))  # through a link, not in its place
    if target.exists() and not target.is_file():  # a terminal or a pipe
        target.write_bytes(content)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{token_hex(8)}")  # known before it exists, so that it is always removed
    try:
        with open(aside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
