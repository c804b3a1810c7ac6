"""The record of a check: a line of JSON for each result, written at once, so that a run killed at any moment has kept all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from errno import ENOSPC
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

FILE = "record.jsonl"
"""Name of the record in the output folder."""
BEGIN = "begin"
"""The stage of the line that a run begins with: its numbers say how the command was called."""
END = "end of the stage"
"""What the last line of each stage is about."""

SOME_FAILED = "something in it failed"
"""The error of that line where the results before it say more."""


@dataclass(frozen=True)
class Result:
    """One thing that was looked at."""

    stage: str
    what: str
    ok: bool | None
    """None where it does not apply here; `error` then says why."""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""


class Record:
    """The file of a folder, to which results are appended, also by several processes.

    Args:
        folder: made if it is not there. An earlier run's lines stay, above this one's.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE

    def append(self, result: Result) -> None:
        """Write a line by one call of the system, which no other process's line divides."""
        line = (json.dumps(asdict(result), default=_plain) + "\n").encode()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            written = os.write(descriptor, line)
        finally:
            os.close(descriptor)
        if written < len(line):
            raise OSError(ENOSPC, "no space left on the disk", str(self.path))

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Inside, no other check writes here; a line that an earlier one could not finish is cut off.

        Raises:
            BlockingIOError: another check does.
        """
        with self.path.open("ab") as file:
            try:  # the system gives the lock back, however this process ends
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:  # some file systems of clusters have no locks
                pass
            self.mend()
            yield

    def mend(self) -> None:
        """Cut off a line without an end: its writer was killed, or found no space. Nobody else may be writing."""
        with self.path.open("ab+") as file:
            file.seek(0)
            lines, end, _ = file.read().rpartition(b"\n")
            file.truncate(len(lines) + len(end))

    def results(self) -> list[Result]:
        """Those of the last run, the line of its beginning among them."""
        return last_run(read(self.path))


def read(path: Path) -> list[Result]:
    """Every result of a file; a last line without an end is one that was never written.

    Raises:
        ValueError: a line that is none; the message names the file and the line.
    """
    results = []
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            results.append(Result(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}:{number}: not a result of gpunet check: {error}") from None
    return results


def last_run(results: list[Result]) -> list[Result]:
    """The results from the last beginning on."""
    begins = [i for i, result in enumerate(results) if result.stage == BEGIN]
    return results[begins[-1] if begins else 0 :]


def said(numbers: Mapping[str, Any]) -> str:
    """Numbers in a line, without those that are lists."""
    short = {
        name: f"{v:.4g}" if isinstance(v, float) else v for name, v in numbers.items() if not isinstance(v, list | dict)
    }
    return ", ".join(f"{name} {value}" for name, value in short.items())


def _plain(value: Any) -> Any:
    """NumPy's numbers, and whatever else is in a result, as JSON has them."""
    return value.item() if hasattr(value, "item") else str(value)
