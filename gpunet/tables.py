"""Tables that print as text and show themselves in a notebook, from the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Row = Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of cells under a head, above totals.

    Attributes:
        head, rows, totals: cells, as many in each; `totals` is empty where there are none.
        right: which columns are aligned right.
        note: a line below the table.
    """

    head: Row
    rows: Sequence[Row]
    totals: Row
    right: Sequence[bool]
    note: str = ""

    def __str__(self) -> str:
        every = [self.head, *self.rows, *([self.totals] if self.totals else [])]
        widths = [max(map(len, column)) for column in zip(*every, strict=True)]
        lines = [
            "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, self.right, strict=True))
            for row in every
        ]
        rule = "-" * len(lines[0])
        head, *body = (line.rstrip() for line in lines)
        ending = [rule, body.pop()] if self.totals else []
        return "\n".join([head, rule, *body, *ending, *([self.note] if self.note else [])])

    def _repr_html_(self) -> str:
        """The table as a notebook shows it."""
        body = "".join(self._html_row("td", row) for row in self.rows)
        foot = f"<tfoot>{self._html_row('th', self.totals)}</tfoot>" if self.totals else ""
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        head = f"<thead>{self._html_row('th', self.head)}</thead>"
        return f'<div style="overflow-x: auto"><table>{head}<tbody>{body}</tbody>{foot}</table></div>{note}'

    def _html_row(self, tag: str, row: Row) -> str:
        sides = ("right" if right else "left" for right in self.right)
        cells = (
            f'<{tag} style="text-align: {side}; white-space: pre; padding: 2px 8px">{escape(cell)}</{tag}>'
            for cell, side in zip(row, sides, strict=True)
        )
        return f"<tr>{''.join(cells)}</tr>"
