"""Runs the scripts of the folder examples/ as a user runs them, with warnings as errors."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from helpers.backends import GPU_WARNINGS

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name: str, *arguments: object) -> str:
    """What an example prints to stdout."""
    return execute(EXAMPLES / name, *arguments)


def execute(*arguments: object) -> str:
    """What a Python process with these arguments prints to stdout."""
    return subprocess.run(_command(arguments), capture_output=True, text=True, check=True, env=_environment()).stdout


def first_line(name: str, *arguments: object) -> str:
    """The first line that an example prints to stdout; it is ended there."""
    command = _command(["-u", EXAMPLES / name, *arguments])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment()) as process:
        assert process.stdout
        line = process.stdout.readline()
        process.kill()
    return line.rstrip("\n")


def _command(arguments: Iterable[object]) -> list[str]:
    filters = [part for warning in ("error", *GPU_WARNINGS) for part in ("-W", warning)]
    return [sys.executable, *filters, *map(str, arguments)]


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(EXAMPLES.parent), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
