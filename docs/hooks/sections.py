"""Lets griffe, which reads the docstrings for the reference, find sections without an empty line above."""

import re
from typing import Any

import griffe

HEADING = re.compile(r"(?<!\n)\n(?=(?:Args|Attributes|Returns|Yields|Raises):\n)")


class Sections(griffe.Extension):
    """Puts an empty line above each section of a docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object that was just read."""
        if obj.docstring is not None:
            obj.docstring.value = HEADING.sub("\n\n", obj.docstring.value)
