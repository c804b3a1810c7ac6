"""Checks of values that annotation files and users give: numbers, text, sizes, names of files."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from numbers import Integral
from pathlib import PurePosixPath
from typing import Any

import numpy as np

LARGEST = 2.0**53
"""The largest absolute value of a coordinate.

Beyond it, float64 cannot tell neighbouring pixels apart.
"""

LONGEST_SIDE = 2**24
"""The largest height or width of an image in pixels.

Up to it, float32, which boxes are kept in, holds every whole number.
"""

FLAGS = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}
"""The text, in lower case, that stands for no and for yes."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = 80


def shown(value: Any) -> str:
    """A value as error messages show it, cut short: a file may nest or repeat it without end."""
    return _SHORT.repr(value)


def listed(names: Iterable[str], limit: int = 3) -> str:
    """The first `limit` names as one text, with the number of the others."""
    every = list(names)
    return ", ".join(every[:limit]) + (f" and {len(every) - limit} more" if len(every) > limit else "")


def numbers(values: Any) -> np.ndarray | None:
    """A sequence of numbers as float64 (n,); None if an element is not a number, or too large.

    Booleans and complex numbers do not count as numbers; `LARGEST` is the limit.
    """
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
    except OverflowError:  # a whole number beyond float64
        return None
    return array if (np.abs(array) <= LARGEST).all() else None


def whole(value: Any) -> int | None:
    """A whole number, which JSON may write as 3 or as 3.0; None for anything else."""
    if isinstance(value, int):  # may exceed `LARGEST`, which limits floats
        return None if isinstance(value, bool) else value
    made = numbers([value])
    return None if made is None or made[0] % 1 else int(made[0])


def flag(value: Any) -> bool | None:
    """A yes or no, given as a bool, as 0 or 1, or as text; None for any other value.

    None itself (JSON's null) is no.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, str):
        return FLAGS.get(value.strip().lower())
    number = whole(value)
    return bool(number) if number in (0, 1) else None


def checked_size(operation: str, size: Any) -> tuple[int, int]:
    """(height, width) as Python integers.

    Raises:
        TypeError: anything but two integers.
        ValueError: a height or width below 1 or above `LONGEST_SIDE`.
    """
    sides = tuple(size) if isinstance(size, list | tuple | np.ndarray) else ()
    if len(sides) != 2 or not all(isinstance(n, Integral) and not isinstance(n, bool) for n in sides):
        raise TypeError(f"{operation}: size must be (height, width) in pixels, got {shown(size)}")
    if not all(1 <= n <= LONGEST_SIDE for n in sides):
        raise ValueError(
            f"{operation}: size must be (height, width) from 1 to {LONGEST_SIDE} pixels, got {shown(size)}"
        )
    return int(sides[0]), int(sides[1])


def written(value: Any) -> bool:
    """Whether a value is text that is not blank and that UTF-8 can hold."""
    return isinstance(value, str) and bool(value.strip()) and not re.search("[\0\ud800-\udfff]", value)


def name_below(name: Any) -> str | None:
    """The name of a file below a folder, with "/" between its parts; None if it is not one.

    Windows' "\\" becomes "/". A name that begins at the root or at a drive, or that goes up by
    "..", could lead out of the folder, so it gives None.
    """
    if not written(name) or re.match(r"[A-Za-z]:[\\/]", name):
        return None
    made = name.replace("\\", "/")
    parts = PurePosixPath(made).parts
    return made if parts and parts[0] not in ("/", "//") and ".." not in parts else None
