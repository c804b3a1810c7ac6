"""Files that are complete or not there at all: written aside, then renamed."""

from __future__ import annotations

import os
from pathlib import Path
from secrets import token_hex


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file, and make its folder, so that the old file stays as it was if writing fails."""
    target = Path(os.path.realpath(path))  # the file that a link leads to, so that the link stays
    if target.exists() and not target.is_file():  # a terminal or a pipe
        target.write_bytes(content)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # The name is chosen before the file exists, so that the file is removed in every case.
    aside = target.with_name(f".{target.name}.{token_hex(8)}")
    try:
        with open(aside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
