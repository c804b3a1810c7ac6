"""Checks that run as users run them, in processes: of the emulated device, or of CuPy on the stand-in."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import standin

import gpunet
from gpunet.check.record import read

SEEDED = Path(__file__).parent / "seeded"
PACKAGE = Path(gpunet.__file__).resolve().parents[1]


def heed_interrupts():
    """Undo what a shell does to its background jobs: they and their children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Checks:
    """Starts checks that write to one folder.

    Args:
        folder: that.
    """

    def __init__(self, folder):
        self.folder = folder

    def start(self, *arguments, fault="", backend="emulated"):
        """Start ``gpunet check``, with a fault of seeded/sitecustomize.py -> its process."""
        environment = {**os.environ, "PYTHONPATH": f"{SEEDED}{os.pathsep}{PACKAGE}", "GPUNET_SEEDED_FAULT": fault}
        environment[standin.VARIABLE] = "1" if backend == "cuda" else "0"
        command = [sys.executable, "-m", "gpunet", "check", "--backend", backend, "--output", str(self.folder)]
        return subprocess.Popen(
            [*command, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            preexec_fn=heed_interrupts,
        )

    def run(self, *arguments, **options):
        """(exit status, what was printed, what was recorded)."""
        process = self.start(*arguments, **options)
        printed, _ = process.communicate()
        return process.returncode, printed, read(self.folder / "record.jsonl")
