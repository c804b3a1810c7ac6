"""Describes a record for people: a table for the terminal, and a page in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpunet.check.record import BEGIN, END, SOME_FAILED, Result, numbers_text

FILE = "report.md"
"""The name of the page in the output folder."""
Table = list[tuple[str, ...]]
"""The cells of a table, row by row."""


def summary(results: Sequence[Result]) -> str:
    """A line for each stage and for each failure, and the verdict."""
    rows: Table = [("stage", "passed", "failed", "skipped", "seconds", ""), *_stages(results)]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = []
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(w) for cell, w in zip(row[1:5], widths[1:], strict=True)),
            row[5],
        ]
        lines.append("  ".join(cells).rstrip())
    failures = [f"  {stage}: {what}: {error}" for stage, what, error in _failures(results)]
    return "\n".join([*lines, *(["", "failed:", *failures] if failures else []), "", verdict(results)])


def verdict(results: Sequence[Result]) -> str:
    """A sentence or two that say whether the device works with gpunet."""
    begin = next((r for r in results if r.stage == BEGIN), None)
    ends = [r for r in results if r.what == END]
    wrong = [r for r in results if r.ok is False and r.error != SOME_FAILED]
    emulated = begin is not None and begin.what == "emulated"
    where = "on the emulated device" if emulated else f"on {_device(results)}"
    no_gpu = "No GPU was checked. " if emulated else ""
    if wrong:
        things = "1 thing is" if len(wrong) == 1 else f"{len(wrong)} things are"
        return (
            f"{no_gpu}{things} wrong {where}: gpunet may compute wrong results or stop there. See what failed, above."
        )
    if {r.stage for r in results if r.stage != BEGIN} != {end.stage for end in ends if end.ok}:
        return f"{no_gpu}The check was not finished. What was looked at {where} is in order."
    return f"{no_gpu}All is well {where}: {len(ends)} of {len(ends)} stages passed."


def _device(results: Sequence[Result]) -> str:
    """The name of the device, or the name of the backend if the device was not asked."""
    named = [r.numbers.get("device") for r in results if (r.stage, r.what, r.ok) == ("environment", "device", True)]
    return str(named[0] if named else next((r.what for r in results if r.stage == BEGIN), "a device"))


def write(folder: Path, results: Sequence[Result]) -> Path:
    """Write the page -> its path."""
    path = folder / FILE
    path.write_text("\n".join(_page(results)) + "\n", encoding="utf-8")
    return path


def _page(results: Sequence[Result]) -> Iterator[str]:
    begin = next((r.numbers for r in results if r.stage == BEGIN), {})
    yield from (f"# gpunet check, {begin.get('when', 'at an unknown time')}", "", verdict(results), "")
    yield f"`{begin.get('command', 'gpunet check')}` on {_device(results)}."
    if why := begin.get("instead of a GPU"):
        yield f"No GPU could be checked: {why}."
    yield ""
    yield from _table([("stage", "passed", "failed", "skipped", "seconds", "how it ended"), *_stages(results)])
    if failures := _failures(results):
        yield from ("", "## Failed", "")
        yield from _table([("stage", "what", "error"), *failures])
    if skipped := [r for r in results if r.ok is None and r.stage != BEGIN]:
        yield from ("", "## Skipped", "")
        yield from _table([("stage", "what", "why"), *((r.stage, r.what, r.error) for r in skipped)])
    stages = dict.fromkeys(r.stage for r in results if r.stage not in (BEGIN, "agreement", "compile"))
    if any(r.stage == "compile" for r in results):
        stages["compile"] = None  # the longest table comes last
    for stage in stages:
        yield from ("", f"## {stage.capitalize()}", "")
        rows = [r for r in results if r.stage == stage and r.what != END and r.ok is not None]
        yield from _table([("what", "result", "numbers", "seconds"), *map(_row, rows)])
    if table := agreement(results):
        yield from ("", "## Agreement", "", AGREEMENT, "")
        yield from _table(table)


AGREEMENT = """\
Each kernel's results are compared with those of the emulated device, over all cases that launch the
kernel. (The emulated device's own results are compared with those of the reference backend in
float64.) A case may launch several kernels, and its difference counts for each of them. `ulp`: the
largest number of floats of the result's dtype that lie between two elements; it is large where a sum
has cancelled. `error`: ‖a - b‖ / ‖b‖. `of what is allowed`: the largest error divided by the tolerance
of its result's dtype."""


def agreement(results: Sequence[Result]) -> Table:
    """A row for each kernel and dtype, with those closest to their tolerance first; empty if
    nothing was compared."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for r in results:
        for name in dict.fromkeys(map(_family, r.numbers.get("kernels", ()))):
            found.setdefault(name, []).append(r.numbers)
    if not found:
        return []
    rows = []
    for name, runs in found.items():
        share = max(run["error"] / run["allowed"] if run["allowed"] else float(run["error"] > 0) for run in runs)
        bits = "yes" if all(run["same bits"] for run in runs) else "no"
        ulp, error = max(run["ulp"] for run in runs), max(run["error"] for run in runs)
        rows.append((share, (name, str(ulp), f"{error:.1e}", f"{share:.0%}", str(len(runs)), bits)))
    head = ("kernel", "ulp", "error", "of what is allowed", "cases", "two runs, same bits")
    return [head, *(row for _, row in sorted(rows, key=lambda item: (-item[0], item[1])))]


def _family(instance: str) -> str:
    """The kernel of an instance with the dtype that it stores: ``matmul_tiled<half>`` for
    ``matmul_tiled<half, 64, …>``."""
    name, _, arguments = instance.partition("<")
    return f"{name}<{arguments.partition(',')[0].rstrip('>')}>" if arguments else name


def _stages(results: Sequence[Result]) -> Table:
    """A row for each stage: its name, three counts of results, its seconds, and how it ended."""
    rows = []
    for stage in dict.fromkeys(r.stage for r in results if r.stage != BEGIN):
        own = [r for r in results if r.stage == stage and r.what != END]
        end = next((r for r in results if r.stage == stage and r.what == END), None)
        counts = (str(sum(r.ok is ok for r in own)) for ok in (True, False, None))
        how = "it has no end in the record" if end is None else end.error or "passed"
        rows.append((stage, *counts, "" if end is None else f"{end.seconds:.1f}", how))
    return rows


def _failures(results: Sequence[Result]) -> Table:
    """(stage, what, error) of each failure. Failures of one stage with the same error share a row,
    with their number."""
    rows: dict[tuple[str, str], list[str]] = {}
    for r in results:
        if r.ok is False and r.error != SOME_FAILED:
            rows.setdefault((r.stage, r.error), []).append(r.what)
    return [
        (stage, f"{first} and {len(others)} more" if others else first, error)
        for (stage, error), (first, *others) in rows.items()
    ]


def _row(r: Result) -> tuple[str, ...]:
    return r.what, "ok" if r.ok else "failed", numbers_text(r.numbers), f"{r.seconds:.1f}"


def _table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a Markdown table, whose head is the first row."""
    for i, row in enumerate(rows):
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
        if i == 0:
            yield "|" + "---|" * len(row)
