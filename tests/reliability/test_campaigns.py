"""Small campaigns; the scripts beside this file run large ones, whose results stand in benchmarks/reliability.md."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import needs_emulator

HERE = Path(__file__).parent


def campaign(script, *arguments):
    """The columns of the row that a campaign prints; an assertion fails with what it says if it fails."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return [cell.strip() for cell in done.stdout.splitlines()[-1].strip("|").split("|")]


@pytest.mark.parametrize(("name", "runs"), [("KILL", 14), ("TERM", 3), ("INT", 3)])
def test_killed_runs_go_on_and_end_with_the_bits_of_one_without_a_break(name, runs):
    row = campaign("kills.py", "--signal", name, "--runs", runs, "--jobs", 1)
    assert row[:3] == [f"SIG{name}", "numpy", f"{runs} of {runs}"]
    assert int(row[3]) >= runs


def test_a_killed_run_goes_on_in_a_new_interpreter():
    assert campaign("kills.py", "--runs", 1, "--jobs", 1, "--fresh")[2] == "1 of 1"


@pytest.mark.slow
@needs_emulator
def test_killed_runs_of_captured_steps_go_on_and_end_with_the_same_bits():
    assert campaign("kills.py", "--runs", 2, "--jobs", 1, "--backend", "emulated")[2] == "2 of 2"
