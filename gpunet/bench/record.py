"""The record of a benchmark: JSON with the machine, the command and the rows, and a table."""

from __future__ import annotations

import json
import os
import platform
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from math import floor, log10
from pathlib import Path
from shlex import quote
from typing import Any

from gpunet.backends import get_backend
from gpunet.bench.worker import TIMEOUT, Worker
from gpunet.files import write_whole

UNRECORDED = ("kind", "run", "output", "plot", "timeout")
"""Options that the recorded command leaves out, because they change nothing that is measured."""


def add_arguments(parser: ArgumentParser, rivals: Sequence[str] = ()) -> None:
    """Add the options of all kinds of measurement, and `--against` where there are rivals."""
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="CPU threads (default: all, %(default)s)"
    )
    if rivals:
        parser.add_argument(
            "--against", nargs="+", choices=("torch", *rivals), default=[], metavar="RIVAL",
            help="rivals to measure in turns with gpunet, each in a process of its own: torch for all of them, or some "
            f"of {', '.join(rivals)}",
        )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=12, help="turns of each contender (default: %(default)s)")
    parser.add_argument(
        "--repeats", "--steps", type=int, default=10,
        help="runs in a turn; on a GPU short runs are repeated more often (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT, metavar="SECONDS",
        help="time limit for each answer of a contender's process, such as preparing a case (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="FILE.json",
        help="write the measurements to this file after each row, and a table beside it as .md",
    )  # fmt: skip


def add_backend(parser: ArgumentParser) -> None:
    """Add the option of the kinds that measure one backend."""
    parser.add_argument(
        "--backend", default="auto", help="gpunet's backend (default: CUDA if a GPU answers, else numpy)"
    )


def resolve(options: Namespace, rivals: Sequence[str] = ()) -> None:
    """Check the options, replace "auto" and "torch" by what they stand for, and put the rivals in
    the order of measurement.

    Raises:
        ValueError: a number is below 1, the output is a Markdown file, or there is no backend of
            that name.
        BackendError: the backend cannot be used here.
    """
    if options.output and options.output.suffix == ".md":
        raise ValueError(
            f"bench: --output is {options.output} but names the JSON; the table is written beside it as .md"
        )
    for name in ("batch", "side", "size", "images", "threads", "rounds", "repeats", "timeout", "parameters"):
        given = getattr(options, name, None)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and value < 1:
                raise ValueError(f"bench: --{name} is {value:g} but must be at least 1")
    if hasattr(options, "backend"):
        backend = get_backend(options.backend)
        options.backend = backend.name if options.backend == "auto" else options.backend
    if hasattr(options, "against"):
        options.against = [name for name in rivals if name in options.against or "torch" in options.against]


class Record:
    """The measurements of one command, printed and written row by row.

    If the command names an output file, the file exists from the start, first without rows. It
    holds valid JSON at every moment, also if the command is killed.

    Args:
        title: the title of the table, in the plural.
        options: the options of the command.
        ours: the contender by whose time the ratios divide.
    """

    def __init__(self, title: str, options: Namespace, ours: str = "gpunet"):
        self._title, self._ours = title, ours
        self._output: Path | None = options.output
        self.contents: dict[str, Any] = {
            "benchmark": options.kind,
            "command": command(options),
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {"platform": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()},
            "ours": ours,
            "contenders": {},
            "finished": False,
            "rows": [],
        }
        self._write()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows that were measured, as `measure.measure` returns them."""
        rows: list[dict[str, Any]] = self.contents["rows"]
        return rows

    def add(self, row: dict[str, Any], workers: dict[str, Worker]) -> None:
        """Add a row, and what its contenders say of themselves."""
        self.rows.append(row)
        self.contents["contenders"].update({name: w.about for name, w in workers.items() if w.about is not None})
        self._write()
        print(line(row, self._ours), flush=True)

    def finish(self) -> int:
        """Print where the files are -> the exit status: 1 if a contender failed or gave a wrong
        result, else 0."""
        self.contents["finished"] = True
        self._write()
        if self._output:
            print(f"written to {self._output} and {self._output.with_suffix('.md')}")
        return int(any("error" in times for row in self.rows for times in row["times"].values()))

    def _write(self) -> None:
        if self._output:
            write_whole(self._output, (json.dumps(self.contents, indent=1) + "\n").encode())
            write_whole(self._output.with_suffix(".md"), table(self.contents, self._title).encode())


def command(options: Namespace) -> str:
    """The command with every option that changes what is measured, defaults included."""
    core = os.environ.get("OPENBLAS_CORETYPE")
    words = [f"OPENBLAS_CORETYPE={core}"] if core else []
    words += ["gpunet", "bench", options.kind]
    for name, value in vars(options).items():
        if name not in UNRECORDED and value not in (None, []):
            words.append(f"--{name.replace('_', '-')}")
            words += [quote(str(v)) for v in (value if isinstance(value, list) else [value])]
    return " ".join(words)


def line(row: dict[str, Any], ours: str) -> str:
    """A row as a line for the terminal."""
    parts = []
    for name, times in row["times"].items():
        parts.append(f"{name} {_spread(times)}" if "median_ms" in times else f"{name} {_time(times)} ({_why(times)})")
    ratios = [f"; time {name} / {ours}: {_ratio(ratio)}" for name, ratio in row["ratios"].items()]
    return f"{' '.join(_cell(value) for value in row['case'].values())}: {', '.join(parts)}{''.join(ratios)}"


def table(record: dict[str, Any], title: str) -> str:
    """The Markdown table of a record."""
    rows, ours = record["rows"], record["ours"]
    columns = list(dict.fromkeys(key for row in rows for key in row["case"]))
    names = list(dict.fromkeys(name for row in rows for name in row["times"]))
    rivals = [name for name in names if name != ours]
    notes = list(dict.fromkeys(key for row in rows for key in row["notes"]))
    head = [*columns, *notes, *(f"{name}, ms" for name in names), *(f"{name} / {ours}" for name in rivals)]
    lines = [
        f"# {title}, {record['when'][:10]}",
        "",
        f"`{record['command']}`. Medians; a ratio above 1 means that {ours} is ahead.",
        "",
        *(["| " + " | ".join(head) + " |", "|" + "---|" * len(head)] if rows else ["No row is done."]),
    ]
    for row in rows:
        cells = [_cell(row["case"].get(key, "")) for key in columns]
        cells += [_cell(row["notes"].get(key, "")) for key in notes]
        cells += [_time(row["times"].get(name, {})) for name in names]
        cells += [_rival(row, name) for name in rivals]
        lines.append("| " + " | ".join(cells) + " |")
    about = [f"- {name}: {_pairs(values)}" for name, values in record["contenders"].items()]
    return "\n".join([*lines, "", *_reasons(rows), *about, f"- machine: {_pairs(record['machine'])}"]) + "\n"


def _reasons(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each reason why a contender has no time, with the names of those contenders."""
    # (word of the table, reason) -> names, in their order
    reasons: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        for name, times in row["times"].items():
            if "median_ms" not in times:
                reasons.setdefault((_time(times), _why(times)), {})[name] = None
    return [f"- {word}: {', '.join(names)}: {why}" for (word, why), names in reasons.items()]


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _time(times: dict[str, Any]) -> str:
    if "median_ms" in times:
        return number(times["median_ms"])
    return "failed" if "error" in times else "not measured"


def _why(times: dict[str, Any]) -> str:
    why: str = times.get("error") or times["not_measured"]
    return why


def _rival(row: dict[str, Any], name: str) -> str:
    """The cell of the table that holds the ratio of a rival."""
    if name in row["ratios"]:
        return _ratio(row["ratios"][name])
    return "failed" if "error" in row["times"].get(name, {}) else "not measured"


def _ratio(ratio: dict[str, float]) -> str:
    median, low, high = (f"{ratio[key]:.{2 if ratio[key] >= 0.1 else 3}f}" for key in ("median", "p10", "p90"))
    return f"{median} (p10 {low}, p90 {high})"


def _spread(times: dict[str, float]) -> str:
    return f"{_time(times)} ms (p10 {number(times['p10_ms'])}, p90 {number(times['p90_ms'])})"


def number(value: float) -> str:
    """A number with four digits and without an exponent."""
    return f"{value:.{max(0, 3 - floor(log10(value)))}f}" if value > 0 else "0"
