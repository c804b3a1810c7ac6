"""Tables drawn as text, and numbers of bytes as they stand in them."""

from __future__ import annotations

from collections.abc import Sequence


def draw_table(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """A head, rows and totals as text, with rules between; `right` columns are aligned right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True))
        for row in rows
    ]
    rule = "-" * len(lines[0])
    head, *body, totals = (line.rstrip() for line in lines)
    return "\n".join([head, rule, *body, rule, totals])


def in_bytes(count: int) -> str:
    """A number of bytes, in the largest unit that goes into it at least once: 1536 is "1.5 KiB"."""
    if count < 1024:
        return f"{count} B"
    size, units = count / 1024, iter(("KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while size >= 1024:
        size, unit = size / 1024, next(units)
    return f"{size:.1f} {unit}"
