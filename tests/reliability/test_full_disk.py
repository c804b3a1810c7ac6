"""Writes that fail or are killed leave the old files whole: the campaign of `full_disk.py`, shortened."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("full_disk.py")


def test_a_write_that_fails_or_is_killed_leaves_the_old_files_whole():
    """The script forks, which a process with threads should not."""
    done = subprocess.run([sys.executable, SCRIPT, "--writes", "10"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in ("size limit", "full disk", "read-only disk"):
        assert f"| {kind} | 10 | 10 | 0 | 0 |" in done.stdout or f"| {kind} | not run: " in done.stdout
    assert "| size limit | not run" not in done.stdout
    assert "| killed | 10 | the file loaded after each |" in done.stdout
