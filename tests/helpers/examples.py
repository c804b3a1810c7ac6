"""Runs the scripts of the folder examples/ as a user runs them, with warnings as errors."""

import os
import subprocess
import sys
from pathlib import Path

from helpers.backends import GPU_WARNINGS

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name: str, *arguments: object) -> str:
    """What an example prints to stdout."""
    return execute(EXAMPLES / name, *arguments)


def execute(*arguments: object) -> str:
    """What a Python process with these arguments prints to stdout."""
    filters = [part for warning in ("error", *GPU_WARNINGS) for part in ("-W", warning)]
    command = [sys.executable, *filters, *map(str, arguments)]
    path = os.pathsep.join(filter(None, [str(EXAMPLES.parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
