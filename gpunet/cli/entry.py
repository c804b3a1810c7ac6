"""The entry point: it parses the arguments, runs the command, and reports errors in one line."""

from __future__ import annotations

import os
import sys
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from gpunet.check.command import add_arguments as add_check_arguments
from gpunet.check.command import run as run_check
from gpunet.cli.arguments import Command
from gpunet.cli.checkpoints import EVAL, PREDICT
from gpunet.cli.export import EXPORT
from gpunet.cli.kernels import KERNELS
from gpunet.cli.reports import INFO, SUMMARY
from gpunet.cli.shards import SHARDS
from gpunet.cli.train import TRAIN
from gpunet.distributed.commands import on_first_rank, parse_once
from gpunet.distributed.launch import end_world
from gpunet.errors import BackendError
from gpunet.version import __version__

REPORTED = (ValueError, TypeError, BackendError, OSError, ImportError, FloatingPointError, MemoryError)
"""Errors that are reported in one line. Any other is a bug and shows its traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command -> exit status: 0, 1 if a check failed, 2 for an error, 130 after Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # What follows "bench" is parsed by gpunet.bench.cli, which only that command imports.
    own, passed_on = (argv[:1], argv[1:]) if argv[:1] == ["bench"] else (argv, [])
    options = parse_once(make_parser(), own)
    options.passed_on = passed_on
    show = warnings.formatwarning
    if not options.traceback:
        warnings.formatwarning = _one_line
    try:
        status = options.run(options) or 0
        print(end="", flush=True)  # here, where a closed pipe is caught, and not when Python ends
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except REPORTED as error:
        if options.traceback:
            raise
        said = " ".join(str(error).split()).replace(" size= ", " --image-size ")  # the argument's name in Python
        return end_world(f"gpunet {options.command}: {said}", 2)
    finally:
        warnings.formatwarning = show


def _one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    """How a warning is printed: without the line of the program, which the user did not write."""
    return f"gpunet: warning: {' '.join(str(message).split())}\n"


def make_parser() -> ArgumentParser:
    """The parser of every command."""
    parser = ArgumentParser(
        prog="gpunet",
        description="Convolutional networks on NumPy or CuPy.",
        epilog="gpunet COMMAND --help describes the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"gpunet {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        own = commands.add_parser(command.name, help=command.help, description=command.help)
        own.add_argument("--traceback", action="store_true", help="show where an error comes from")
        own.set_defaults(run=command.run if command.shared else on_first_rank(command.run))
        command.add_arguments(own)
    return parser


def _run_bench(options: Namespace) -> int:
    from gpunet.bench.cli import main as run_bench

    return run_bench(options.passed_on)


def _add_no_arguments(parser: ArgumentParser) -> None:
    """``gpunet bench`` has a parser of its own."""


COMMANDS = (
    TRAIN,
    EVAL,
    PREDICT,
    EXPORT,
    SHARDS,
    SUMMARY,
    INFO,
    KERNELS,
    Command(
        "check",
        "Check whether this machine's GPU computes what gpunet promises, in a few minutes; keep a record, and write "
        "a report.",
        add_check_arguments,
        run_check,
    ),
    Command("bench", "Measure speed; gpunet bench --help says what.", _add_no_arguments, _run_bench, shared=True),
)
"""The commands, in the order in which ``gpunet --help`` lists them."""
