"""What training measured: a row an epoch."""

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


class History:
    """Rows of numbers, one a finished epoch: by column, ``history["loss"][-1]``, or by epoch, ``history.rows[-1]``.

    Attributes:
        rows: a dict an epoch, in order.
        interrupted: whether Ctrl-C ended the last fit; the epoch it ended in has no row.
    """

    def __init__(self, rows: Iterable[Mapping[str, float]] = ()) -> None:
        self.rows: list[dict[str, float]] = [dict(row) for row in rows]
        self.interrupted = False

    @property
    def columns(self) -> list[str]:
        """Names of all columns, in the order in which they came up."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def __len__(self) -> int:
        """Finished epochs."""
        return len(self.rows)

    def __contains__(self, column: object) -> bool:
        return column in self.columns

    def __getitem__(self, column: str) -> list[float]:
        """A number an epoch; NaN where the epoch has none."""
        if column not in self:
            raise KeyError(f"history: no column {column!r}; it has {', '.join(self.columns) or 'no rows yet'}")
        return [row.get(column, nan) for row in self.rows]

    def append(self, row: Mapping[str, float]) -> None:
        """Add an epoch, with NumPy's numbers as Python's."""
        self.rows.append({name: plain_number(value) for name, value in row.items()})

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a header and a line an epoch; what an epoch does not have stays empty. The file is always a whole one."""
        file = io.StringIO()
        writer = csv.DictWriter(file, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: plain_number(value) for name, value in row.items()} for row in self.rows)
        write_whole(path, file.getvalue().encode())

    def __repr__(self) -> str:
        last = describe(self.rows[-1]) if self.rows else "empty"
        return f"History({len(self)} epochs{', interrupted' * self.interrupted}: {last})"


def numbers_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """What can stand in a history: no arrays; NumPy's numbers as Python's."""
    plain = {name: plain_number(value) for name, value in values.items()}
    return {name: value for name, value in plain.items() if np.ndim(value) == 0}


def describe(row: Mapping[str, float]) -> str:
    """A row in one line: rates as percentages, time in seconds, losses with four digits."""
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
