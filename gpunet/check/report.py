"""What a record says, for people: a table for the terminal, and a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gpunet.check.record import BEGIN, END, Result

FILE = "report.md"
Rows = list[tuple[str, ...]]


def summary(results: Sequence[Result]) -> str:
    """A line for each stage, and each failure below."""
    rows: Rows = [("stage", "passed", "failed", "not here", "seconds", ""), *_stages(results)]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = []
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(w) for cell, w in zip(row[1:5], widths[1:], strict=True)),
            row[5],
        ]
        lines.append("  ".join(cells).rstrip())
    failures = [f"  {r.stage}: {r.what}: {r.error}" for r in _failures(results)]
    return "\n".join([*lines, *(["", "failed:", *failures] if failures else [])])


def write(folder: Path, results: Sequence[Result]) -> Path:
    """Write the page -> its path."""
    path = folder / FILE
    path.write_text("\n".join(_page(results)) + "\n", encoding="utf-8")
    return path


def _page(results: Sequence[Result]) -> Iterator[str]:
    begin = next((r.numbers for r in results if r.stage == BEGIN), {})
    device = next((r.numbers for r in results if (r.stage, r.what) == ("environment", "device")), {})
    yield f"# gpunet check, {begin.get('when', 'at an unknown time')}"
    yield ""
    yield f"`{begin.get('command', 'gpunet check')}` on {device.get('device', 'a device that did not answer')}."
    yield ""
    yield from _table([("stage", "passed", "failed", "not here", "seconds", "how it ended"), *_stages(results)])
    failures = _failures(results)
    if failures:
        yield from ("", "## Failed", "")
        yield from _table([("stage", "what", "error"), *((r.stage, r.what, r.error) for r in failures)])
    if not_here := [r for r in results if r.ok is None and r.stage != BEGIN]:
        yield from ("", "## Not looked at here", "")
        yield from _table([("stage", "what", "why"), *((r.stage, r.what, r.error) for r in not_here)])
    for stage in dict.fromkeys(r.stage for r in results if r.stage not in (BEGIN, "agreement")):
        yield from ("", f"## {stage.capitalize()}", "")
        rows = [r for r in results if r.stage == stage and r.what != END and r.ok is not None]
        yield from _table([("what", "", "numbers", "seconds"), *map(_row, rows)])
    if table := agreement(results):
        yield from ("", "## Agreement", "")
        yield "The largest difference of each kernel's results over all cases that launch it: in numbers of the result's dtype"
        yield "between the two (ulp), and as ‖a - b‖ / ‖b‖."
        yield ""
        yield from _table(table)


def agreement(results: Sequence[Result]) -> Rows:
    """A row for each kernel and dtype; empty if nothing was compared."""
    worst: dict[str, tuple[int, float, int, bool]] = {}
    for r in results:
        for instance in r.numbers.get("kernels", ()):
            name = _family(instance)
            ulp, error, runs, same = worst.get(name, (0, 0.0, 0, True))
            found = r.numbers
            worst[name] = (
                max(ulp, found["ulp"]), max(error, found["error"]), runs + 1, same and found["same bits"] and r.ok is not False
            )  # fmt: skip
    if not worst:
        return []
    head = ("kernel", "ulp", "error", "runs", "two runs, same bits")
    rows = [
        (name, str(u), f"{e:.1e}", str(n), "yes" if same else "no") for name, (u, e, n, same) in sorted(worst.items())
    ]
    return [head, *rows]


def _family(instance: str) -> str:
    """The kernel with the dtype that it stores: ``matmul_tiled<half>`` of ``matmul_tiled<half, 64, …>``."""
    name, _, arguments = instance.partition("<")
    return f"{name}<{arguments.partition(',')[0].rstrip('>')}>" if arguments else name


def _stages(results: Sequence[Result]) -> Rows:
    rows = []
    for stage in dict.fromkeys(r.stage for r in results if r.stage != BEGIN):
        own = [r for r in results if r.stage == stage and r.what != END]
        end = next((r for r in results if r.stage == stage and r.what == END), None)
        counts = (str(sum(r.ok is ok for r in own)) for ok in (True, False, None))
        how = "it has no end in the record" if end is None else end.error or "passed"
        rows.append((stage, *counts, "" if end is None else f"{end.seconds:.1f}", how))
    return rows


def _failures(results: Sequence[Result]) -> list[Result]:
    """What failed; the end of a stage only if it says more than that something in it did."""
    failed = [r for r in results if r.ok is False]
    inside = {r.stage for r in failed if r.what != END}
    return [r for r in failed if r.what != END or r.stage not in inside or "not all is well" not in r.error]


def _row(r: Result) -> tuple[str, ...]:
    numbers = ", ".join(
        f"{name} {_cell(value)}" for name, value in r.numbers.items() if not isinstance(value, dict | list)
    )
    return r.what, "ok" if r.ok else "failed", numbers, f"{r.seconds:.1f}"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The first row is the head."""
    for i, row in enumerate(rows):
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
        if i == 0:
            yield "|" + "---|" * len(row)
