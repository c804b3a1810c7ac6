"""The record of a check: a line of JSON for each result, written at once, so that a run killed at any moment has kept all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE = "record.jsonl"
"""Of the output folder."""
BEGIN = "begin"
"""The stage of the line that a run begins with: its numbers say how the command was called."""
END = "end of the stage"
"""What the last line of each stage is about."""


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
        """Write a line by one call of the system, which no other process's line and no signal divides."""
        line = json.dumps(asdict(result), default=_plain) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def results(self) -> list[Result]:
        """Those of the last run, the line of its beginning among them."""
        return last_run(read(self.path))


def read(path: Path) -> list[Result]:
    """Every result of a file.

    Raises:
        ValueError: a line that is none; the message names the file and the line.
    """
    results = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            results.append(Result(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}:{number}: not a result of gpunet check: {error}") from None
    return results


def last_run(results: list[Result]) -> list[Result]:
    """The results from the last beginning on."""
    begins = [i for i, result in enumerate(results) if result.stage == BEGIN]
    return results[begins[-1] if begins else 0 :]


def _plain(value: Any) -> Any:
    """NumPy's numbers, and whatever else is in a result, as JSON has them."""
    return value.item() if hasattr(value, "item") else str(value)
