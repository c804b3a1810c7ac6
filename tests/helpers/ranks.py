"""Runs programs on several ranks, as users do: with mpirun."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[1] / "distributed" / "programs"
MPIRUN = shutil.which("mpirun", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
needs_mpi = pytest.mark.skipif(sys.platform == "win32", reason="MPICH is not for Windows")
"""A mark for tests that launch ranks; where mpirun is missing, they fail."""


def launched(ranks, program, *arguments, timeout=120, environment=None, **options):
    """Run a program of tests/distributed/programs on so many ranks, for at most `timeout` seconds -> what it printed."""
    command = [MPIRUN, "-n", str(ranks), sys.executable, str(PROGRAMS / program), *map(str, arguments)]
    # one thread a rank, since there are more ranks than cores where tests run side by side
    variables = {**os.environ, "GPUNET_NUM_THREADS": "1", **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=variables, **options)


def succeeded(ranks, program, *arguments, **options):
    """`launched`, which must end well -> its stdout."""
    done = launched(ranks, program, *arguments, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
