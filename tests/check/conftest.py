"""Checks that run as users run them, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpunet
from gpunet.check.record import read

SEEDED = Path(__file__).parent / "seeded"
PACKAGE = Path(gpunet.__file__).resolve().parents[1]


class Checks:
    """Starts checks of the emulated device whose output is one folder.

    Args:
        folder: that.
    """

    def __init__(self, folder):
        self.folder = folder

    def start(self, *arguments, fault=""):
        """The process of ``gpunet check``; with a fault of seeded/sitecustomize.py."""
        paths = [*([SEEDED] if fault else []), PACKAGE]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "GPUNET_SEEDED_FAULT": fault}
        command = [sys.executable, "-m", "gpunet", "check", "--backend", "emulated", "--output", str(self.folder)]
        return subprocess.Popen(
            [*command, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )

    def run(self, *arguments, fault=""):
        """(exit status, what was printed, what was recorded)."""
        process = self.start(*arguments, fault=fault)
        printed, _ = process.communicate()
        return process.returncode, printed, read(self.folder / "record.jsonl")


@pytest.fixture
def checks(tmp_path):
    """A folder, and what runs checks in it."""
    return Checks(tmp_path / "check")
