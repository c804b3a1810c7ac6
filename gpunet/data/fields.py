"""Fields of what annotation files hold, checked: numbers, text, ids, boxes, the names of files."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
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


class Entry:
    """An object of a JSON file: its fields, checked when they are asked for.

    Args:
        content: what the file holds there.
        where: it stands, such as "set.json: images[3]".
        required: keys that it must have.
    Raises:
        ValueError: it is no object, or lacks a key; from the methods, a field that is not as it must be.
    """

    def __init__(self, content: Any, where: str, required: tuple[str, ...]) -> None:
        if not isinstance(content, Mapping):
            raise ValueError(f"{where} must be an object, got {shown(content)}")
        if missing := [key for key in required if key not in content]:
            raise ValueError(f"{where} has no {', '.join(missing)}")
        self.content, self.where = content, where
        if content.get("id") is not None:
            self.where += f" (id {shown(content['id'])})"

    def identity(self, key: str) -> int | str:
        """A whole number or text."""
        value = self.content[key]
        number = None if isinstance(value, str) else whole(value)
        if number is None and not written(value):
            raise self.wrong(key, "a whole number or text")
        return value if number is None else number

    def text(self, key: str) -> str:
        """Text that is not blank."""
        if not written(self.content[key]):
            raise self.wrong(key, "text that is not blank")
        return str(self.content[key])

    def file_name(self, key: str) -> str:
        """As `name_below` gives it."""
        if (name := name_below(self.content[key])) is None:
            raise self.wrong(key, "the name of a file below the folder of the images")
        return name

    def side(self, key: str) -> int:
        """Pixels of an image's height or width."""
        number = whole(self.content[key])
        if number is None or not 1 <= number <= LONGEST_SIDE:
            raise self.wrong(key, f"a whole number of pixels from 1 to {LONGEST_SIDE}")
        return number

    def flag(self, key: str) -> bool:
        """As `flag` has it; no where there is no such key."""
        if (value := flag(self.content.get(key))) is None:
            raise self.wrong(key, "0 or 1")
        return value

    def box(self, key: str) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1) of COCO's [x, y, width, height]."""
        given = self.content[key]
        made = numbers(given)
        if made is None or made.shape != (4,):
            raise self.wrong(key, f"[x, y, width, height], numbers up to {LARGEST:.0f}")
        x, y, width, height = made.tolist()
        if width < 0 or height < 0:
            raise self.wrong(key, "[x, y, width, height] with a width and a height of at least 0")
        return x, y, x + width, y + height

    def wrong(self, key: str, expected: str) -> ValueError:
        """The error of a field that is not as expected."""
        return ValueError(f"{self.where} must have {key} {expected}, got {shown(self.content.get(key))}")
