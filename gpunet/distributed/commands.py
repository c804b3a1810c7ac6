"""How the commands of a command line run where they are launched as several ranks."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import NoReturn

from gpunet.distributed.launch import follows, launched, world
from gpunet.distributed.ranks import SWITCH, Alone, Ranks, expect_alike
from gpunet.errors import BackendError

OWN = ("run", "quiet", "traceback", "threads", "data_root")
"""Options that may differ between ranks: they change no result, or depend on the machine."""


def parse_once(parser: ArgumentParser, arguments: Sequence[str] | None) -> Namespace:
    """Parse the arguments. Rank 0 alone prints help; an error in them on any rank ends all, and is printed once."""
    if launched().size == 1 or os.environ.get(SWITCH) == "0":
        return parser.parse_args(arguments)
    try:
        with redirect_stdout(StringIO()) as printed, redirect_stderr(StringIO()) as errors:
            return parser.parse_args(arguments)
    except SystemExit as end:
        if end.code:
            _end_all(errors.getvalue().rstrip(), int(end.code))
        if not follows():
            print(printed.getvalue(), end="")
        raise


def _end_all(reason: str, status: int) -> NoReturn:
    """End all ranks; where they cannot be joined, this one alone."""
    try:
        ranks: Ranks = world()
    except (ImportError, BackendError):  # which the user will meet when the arguments are right
        ranks = Alone()
    ranks.abort(reason, status)


def on_first_rank(run: Callable[[Namespace], int]) -> Callable[[Namespace], int]:
    """A command that ranks do not share: rank 0 runs it, alone, and the others end at once, with status 0."""

    def run_once(options: Namespace) -> int:
        if follows():
            if launched().rank == 1:
                print(f"gpunet: rank 0 alone runs this command; with {SWITCH}=0 each rank does", file=sys.stderr)
            return 0
        if launched().size > 1:
            os.environ[SWITCH] = "0"  # so that it, and what it starts, does not wait for the others
        return run(options)

    return run_once


def expect_same_options(options: Namespace) -> None:
    """Join the other ranks, and compare the options with theirs.

    Raises:
        ValueError: on all ranks, if an option has another value on one of them.
    """
    ranks = world()
    for name, value in vars(options).items():
        if name in OWN:
            continue
        if name == "backend" and value is not None:
            value = value.partition(":")[0]  # the number of a GPU may differ
        try:
            expect_alike(
                ranks, f"the option {name.replace('_', '-')}", value, "all ranks must be given the same options"
            )
        except RuntimeError as error:
            raise ValueError(error) from error
