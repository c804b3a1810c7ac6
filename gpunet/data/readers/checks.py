"""Fields of what annotation files hold, checked: numbers, text, ids, boxes, the names of files."""

from __future__ import annotations

import re
import reprlib
from numbers import Integral
from pathlib import PurePosixPath
from typing import Any

import numpy as np

LARGEST = 2.0**53
"""The largest coordinate, of either sign: up to it float64 holds every whole number, beyond it pixels run together."""

LONGEST_SIDE = 2**24
"""The largest height and width of an image in pixels: up to it float32, which boxes are kept in, holds every whole number."""

FLAGS = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}
"""What text stands for no and for yes, in lower case."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = 80


def shown(value: Any) -> str:
    """A value as error messages show it, cut short: a file may nest or repeat it without end."""
    return _SHORT.repr(value)


def numbers(values: Any) -> np.ndarray | None:
    """A sequence of plain numbers as float64 (n,); None if one of them is none, as a bool is, or lies beyond `LARGEST`."""
    if isinstance(values, np.ndarray):
        if values.ndim != 1 or values.dtype.kind not in "iuf":
            return None
    elif not isinstance(values, list | tuple) or not all(
        issubclass(kind, int | float | np.number) and not issubclass(kind, bool | np.complexfloating)
        for kind in set(map(type, values))
    ):
        return None
    try:
        array = np.asarray(values, np.float64)
    except OverflowError:  # a whole number that no float64 reaches
        return None
    return array if (np.abs(array) <= LARGEST).all() else None


def whole(value: Any) -> int | None:
    """A whole number, which JSON may have as 3 or as 3.0; None for anything else."""
    if isinstance(value, int):  # of any size, where floats end at `LARGEST`
        return None if isinstance(value, bool) else value
    made = numbers([value])
    return None if made is None or made[0] % 1 else int(made[0])


def flag(value: Any) -> bool | None:
    """A yes or no, as a bool, as 0 or 1, or as text; no where there is nothing (null), and None for anything else."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, str):
        return FLAGS.get(value.strip().lower())
    number = whole(value)
    return bool(number) if number in (0, 1) else None


def checked_size(operation: str, size: Any) -> tuple[int, int] | None:
    """(height, width) as Python integers, or None."""
    if size is None:
        return None
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(isinstance(n, Integral) for n in size):
        raise TypeError(f"{operation}: size must be (height, width) in pixels or None, got {size!r}")
    if min(size) < 1:
        raise ValueError(f"{operation}: size must be at least 1 pixel high and wide, got {size}")
    return int(size[0]), int(size[1])


def checked_sides(operation: str, size: Any) -> tuple[int, int]:
    """(height, width) as Python integers; ValueError unless they are whole, from 1 to `LONGEST_SIDE`."""
    sides = tuple(size) if isinstance(size, list | tuple | np.ndarray) else ()
    if len(sides) != 2 or not all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) and 1 <= n <= LONGEST_SIDE for n in sides
    ):
        raise ValueError(
            f"{operation}: size must be (height, width) in pixels, whole numbers from 1 to {LONGEST_SIDE}, got {shown(size)}"
        )
    return int(sides[0]), int(sides[1])


def written(value: Any) -> bool:
    """Whether it is text that is not blank and that UTF-8 can hold."""
    return isinstance(value, str) and bool(value.strip()) and not re.search("[\0\ud800-\udfff]", value)


def name_below(name: Any) -> str | None:
    """The name of a file below a folder, with "/" between its parts where Windows wrote "\\"; None if it is none.

    A name that begins at the root or at a drive, or that goes up by "..", may lead out of the folder, and so is none.
    """
    if not written(name) or re.match(r"[A-Za-z]:[\\/]", name):
        return None
    made = name.replace("\\", "/")
    parts = PurePosixPath(made).parts
    return made if parts and parts[0] not in ("/", "//") and ".." not in parts else None
