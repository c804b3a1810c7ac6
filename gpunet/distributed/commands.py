"""How the commands of a command line run where they are launched as several ranks."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout

from gpunet.distributed.launch import follows, launched, world
from gpunet.distributed.ranks import SWITCH, expect_alike

OWN = ("run", "quiet", "traceback", "threads", "data_root")
"""Options that may differ between ranks: they change no result, or depend on the machine."""


def parse_once(parser: ArgumentParser, arguments: Sequence[str] | None) -> Namespace:
    """Parse the arguments; rank 0 alone prints what the parser prints, which is help or an error."""
    if not follows():
        return parser.parse_args(arguments)
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        return parser.parse_args(arguments)


def on_first_rank(run: Callable[[Namespace], int]) -> Callable[[Namespace], int]:
    """A command that ranks do not share: rank 0 runs it, alone, and the others end at once, with status 0."""

    def run_once(options: Namespace) -> int:
        if follows():
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
