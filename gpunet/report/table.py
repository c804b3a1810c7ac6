"""Tables of text, and numbers in them."""

from __future__ import annotations

from collections.abc import Sequence


def draw_table(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """Columns side by side, with rules below the first row, the head, and above the last, the totals.

    Args:
        right: whether a column is set to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True))
        for row in rows
    ]
    rule = "-" * len(lines[0])
    head, *body, totals = (line.rstrip() for line in lines)
    return "\n".join([head, rule, *body, rule, totals])


def in_bytes(count: int) -> str:
    """A number of bytes in the largest unit of which there is one."""
    if count < 1024:
        return f"{count} B"
    size, units = count / 1024, iter(("KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while size >= 1024:
        size, unit = size / 1024, next(units)
    return f"{size:.1f} {unit}"
