"""The record of a check: one line of JSON for each result, written as soon as the result is known.

So a check that is killed has recorded everything that it had found until then.
"""

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
"""The name of the record in the output folder."""
BEGIN = "begin"
"""The `stage` of the first line of a run, whose numbers say how the command was called."""
END = "end of the stage"
"""The `what` of the last line of each stage."""

SOME_FAILED = "something in it failed"
"""The `error` of the last line of a stage whose other results say what failed."""


@dataclass(frozen=True)
class Result:
    """The result of one thing that was checked."""

    stage: str
    what: str
    """What was checked, in words."""
    ok: bool | None
    """Whether it passed; None if it does not apply here, and `error` says why."""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""


class Record:
    """The record in a folder. Several processes may append results to it.

    Args:
        folder: created if it does not exist. The lines of an earlier run stay, before those of this
            one.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE

    def append(self, result: Result) -> None:
        """Append a result in one write, which the lines of other processes cannot divide."""
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
        """A context in which no other check writes here. A line that an earlier check could not
        finish is cut off.

        Raises:
            BlockingIOError: another check writes here.
        """
        with self.path.open("ab") as file:
            try:  # the system releases the lock when this process ends, for whatever reason
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:  # the file systems of some clusters have no locks
                pass
            self.mend()
            yield

    def mend(self) -> None:
        """Cut off a last line without an end, whose writer was killed or found no space. No other
        process may be writing."""
        with self.path.open("ab+") as file:
            file.seek(0)
            lines, end, _ = file.read().rpartition(b"\n")
            file.truncate(len(lines) + len(end))

    def results(self) -> list[Result]:
        """The results of the last run, with its first line."""
        return last_run(read(self.path))


def read(path: Path) -> list[Result]:
    """Every result in a file, without a last line that has no end.

    Raises:
        ValueError: a line holds no result; the message names the file and the line.
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
    """The results from the last line on whose stage is `BEGIN`."""
    begins = [i for i, result in enumerate(results) if result.stage == BEGIN]
    return results[begins[-1] if begins else 0 :]


def numbers_text(numbers: Mapping[str, Any]) -> str:
    """The numbers of a result in one line, without lists and dictionaries."""
    short = {
        name: f"{v:.4g}" if isinstance(v, float) else v for name, v in numbers.items() if not isinstance(v, list | dict)
    }
    return ", ".join(f"{name} {value}" for name, value in short.items())


def _plain(value: Any) -> Any:
    """A number of NumPy as Python's, and anything else as text, for JSON."""
    return value.item() if hasattr(value, "item") else str(value)
