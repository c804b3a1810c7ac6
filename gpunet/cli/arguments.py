"""What a command is, and the arguments that several commands take."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gpunet.data.readers.images import checked_background


class Command(NamedTuple):
    """One command of the command line."""

    name: str
    help: str
    """One or two sentences that say what the command does."""
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]
    """Runs the command with the parsed arguments and returns the exit status."""
    shared: bool = False
    """Whether the command is one for all ranks, where several are launched; rank 0 alone runs any other."""


PRECISION_HELP = (
    "tf32 and 3xtf32 (float32's accuracy) multiply float32 on a GPU's matrix units; bfloat16 and float16 store 16 bits; "
    "sums are float32 in all of them"
)
"""What ``--precision`` means."""


def add_backend(parser: ArgumentParser, default: str | None = "auto") -> None:
    """Add ``--backend``."""
    parser.add_argument("--backend", default=default, help="numpy, cuda, cuda:1, emulated, reference or auto")


def add_data_root(parser: ArgumentParser) -> None:
    """Add ``--data-root``."""
    parser.add_argument("--data-root", type=Path, metavar="FOLDER", help="the folder that holds public data sets")


def add_strict(parser: ArgumentParser) -> None:
    """Add ``--strict``."""
    parser.add_argument(
        "--strict", action="store_true", help="stop if an image cannot be read, instead of leaving it out"
    )


def when_unreadable(options: Namespace) -> str:
    """The argument `unreadable` of `data.ImageFolder` that ``--strict`` stands for."""
    return "raise" if options.strict else "warn"


def background(text: str) -> tuple[int, int, int]:
    """The colour that an argument such as "255" or "255,0,0" stands for."""
    levels = [int(part) for part in text.split(",")]
    return checked_background("--background", levels[0] if len(levels) == 1 else levels)


def image_shape(text: str) -> tuple[int, ...]:
    """(H, W, C) from an argument such as "28x28x1"."""
    return _extents(text, 3)


def image_size(text: str) -> tuple[int, ...]:
    """(H, W) from an argument such as "28x32", or "28" for a square."""
    return _extents(text if "x" in text.lower() else f"{text}x{text}", 2)


def _extents(text: str, count: int) -> tuple[int, ...]:
    values = tuple(int(part) for part in text.lower().split("x"))
    if len(values) != count or min(values) < 1:
        raise ValueError
    return values
