"""What training measured, with one row for each epoch."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from math import nan
from numbers import Real
from typing import Any

import numpy as np

from gpunet.files import write_whole
from gpunet.interop.json_values import plain_number
from gpunet.tables import Table
from gpunet.train.curves import draw_curves

__all__ = ["History"]

UNITS = {"seconds": "s", "images_per_second": "images/s"}
"""Of the columns that are known by their unit."""
NOT_DRAWN = ("epoch", "lr", *UNITS)
"""Columns without a curve."""
SHOWN = 10
"""How many epochs a notebook's table has at most."""


class History:
    """The numbers of each finished epoch.

    ``history["loss"][-1]`` takes them by column, ``history.rows[-1]`` by epoch.

    Attributes:
        rows: a dict for each epoch, in order.
        interrupted: whether Ctrl-C ended the last fit; the epoch in which it did has no row.
    """

    def __init__(self, rows: Iterable[Mapping[str, float]] = ()) -> None:
        self.rows: list[dict[str, float]] = [dict(row) for row in rows]
        self.interrupted = False

    @property
    def columns(self) -> list[str]:
        """The names of all columns, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def __len__(self) -> int:
        """How many epochs are finished."""
        return len(self.rows)

    def __contains__(self, column: object) -> bool:
        return column in self.columns

    def __getitem__(self, column: str) -> list[float]:
        """The number of each epoch; NaN where an epoch has none."""
        if column not in self:
            raise KeyError(f"history: no column {column!r}; it has {', '.join(self.columns) or 'no rows yet'}")
        return [row.get(column, nan) for row in self.rows]

    def append(self, row: Mapping[str, float]) -> None:
        """Add an epoch; NumPy's numbers become Python's."""
        self.rows.append({name: plain_number(value) for name, value in row.items()})

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a header and a line for each epoch, with empty fields where an epoch has no number.

        The file is written under another name and then renamed, so it is always complete.
        """
        file = io.StringIO()
        writer = csv.DictWriter(file, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: plain_number(value) for name, value in row.items()} for row in self.rows)
        write_whole(path, file.getvalue().encode())

    def table(self, last: int | None = None) -> Table:
        """A row for each epoch, or for the `last` ones only."""
        names = [name for name in self.columns if name != "epoch"]
        first = 0 if last is None else max(len(self) - last, 0)
        rows = self.rows[first:]
        cells = [
            (f"{row.get('epoch', i):g}", *(_shown(name, row[name]) if name in row else "" for name in names))
            for i, row in enumerate(rows, first + 1)
        ]
        note = f"the last {len(rows)} of {len(self)} epochs" if len(rows) < len(self) else ""
        return Table(("epoch", *map(_label, names)), cells, (), [True] * (len(names) + 1), note)

    def _repr_html_(self) -> str:
        """What a notebook shows: curves of what was measured, and the last epochs."""
        measured = [name for name in self.columns if name not in NOT_DRAWN and not name.startswith("valid_")]
        groups = [[name for name in (first, f"valid_{first}") if name in self] for first in measured]
        curves = "".join(draw_curves({_label(name): self[name] for name in group}) for group in groups)
        return f"<div>{curves}</div>{self.table(SHOWN)._repr_html_()}"

    def __repr__(self) -> str:
        last = describe(self.rows[-1]) if self.rows else "empty"
        return f"History({len(self)} epochs{', interrupted' * self.interrupted}: {last})"


def numbers_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that can stand in a history: no arrays; NumPy's numbers become Python's."""
    plain = {name: plain_number(value) for name, value in values.items()}
    return {name: value for name, value in plain.items() if np.ndim(value) == 0}


def describe(row: Mapping[str, float]) -> str:
    """A row as a line of text: shares as percentages, time in seconds, losses with four digits."""
    return "  ".join(_formatted(name, value) for name, value in row.items() if name != "epoch")


def _formatted(name: str, value: Any) -> str:
    unit = UNITS.get(name)
    return f"{_label(name)} {_shown(name, value)}" if unit is None else f"{_shown(name, value)} {unit}"


def _label(name: str) -> str:
    return name.replace("_", " ")


def _shown(name: str, value: Any) -> str:
    """A number without its name and unit."""
    value = plain_number(value)
    if not isinstance(value, Real):
        return str(value)
    if name == "seconds":
        return f"{value:.1f}"
    if name == "images_per_second":
        return f"{value:,.0f}"
    if name.removeprefix("valid_").startswith(("accuracy", "top", "precision", "recall", "f1")):
        return f"{value:.2%}"
    return f"{value:.4g}"
