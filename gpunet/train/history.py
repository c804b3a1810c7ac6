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

__all__ = ["History"]


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
    value = plain_number(value)
    if not isinstance(value, Real):
        return f"{name.replace('_', ' ')} {value}"
    if name == "seconds":
        return f"{value:.1f} s"
    if name == "images_per_second":
        return f"{value:,.0f} images/s"
    label = name.replace("_", " ")
    if name.removeprefix("valid_").startswith(("accuracy", "top", "precision", "recall", "f1")):
        return f"{label} {value:.2%}"
    return f"{label} {value:.4g}"
