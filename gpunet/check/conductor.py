"""Runs the stages, each in a process of its own with a time limit of its own, and goes on whatever becomes of one."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic

from gpunet.check import report
from gpunet.check.process import FAILED, command
from gpunet.check.record import END, SOME_FAILED, Record, Result
from gpunet.check.stage import Options, line, running_file, say

SHARES = {
    "environment": 5, "compile": 60, "contract": 10, "agreement": 15, "determinism": 15, "training": 15, "speed": 30,
}  # fmt: skip
"""The stages in their order, and their shares of the time. What one leaves is shared by those after it."""
GPU_ONLY = ("speed",)
PATIENCE = 10.0
"""Seconds that a process may take to end when it is killed."""


def stages_for(backend: str, chosen: Sequence[str] = ()) -> list[str]:
    """Names of the stages that apply to a backend, or of those among the chosen ones, in their order."""
    return [
        name for name in SHARES if (not chosen or name in chosen) and not (backend == "emulated" and name in GPU_ONLY)
    ]


def run(stages: Sequence[str], options: Options, minutes: float) -> bool:
    """Run stages one after another -> whether nothing failed.

    Args:
        options: of all stages; `stage` and `seconds` are filled in.
        minutes: for all of them together.
    """
    record, end, good = Record(Path(options.output)), monotonic() + 60 * minutes, True
    for i, name in enumerate(stages):
        share = SHARES[name] / sum(SHARES[later] for later in stages[i:])
        seconds = max(end - monotonic(), 0) * share
        say(f"{name} (at most {seconds:.0f} s)")
        try:
            result = run_stage(replace(options, stage=name, seconds=seconds))
        except KeyboardInterrupt:
            _end(record, Result(name, END, None, error="it was interrupted"))
            raise
        _end(record, result)
        good = good and result.ok is True
        if result.error not in ("", SOME_FAILED):
            say(line(result))
    return good


def _end(record: Record, result: Result) -> None:
    """Record how a stage ended, behind what it could finish, and write the report as it stands."""
    record.mend()
    record.append(result)
    report.write(record.path.parent, record.results())


def run_stage(options: Options) -> Result:
    """Run one stage's process to its end, or to the end of its time -> how it ended."""
    start, folder = monotonic(), Path(options.output)
    process = subprocess.Popen(command(options), stdin=subprocess.PIPE, start_new_session=True)
    try:
        error = _why(process.wait(timeout=options.seconds))
    except subprocess.TimeoutExpired:
        error = f"it did not end within {options.seconds:.0f} s"
    finally:  # also when the user interrupts
        ended = _kill(process)
        running = _taken(running_file(folder, options.stage))
    if running and error not in ("", SOME_FAILED):
        error += f", while it looked at: {running}"
    if not ended:
        error += "; its process could not be ended, and may hold the device"
    return Result(options.stage, END, not error, {}, round(monotonic() - start, 3), error)


def _taken(note: Path) -> str:
    """What a note says, which is then thrown away; empty if there is none."""
    text = note.read_text(encoding="utf-8") if note.exists() else ""
    note.unlink(missing_ok=True)
    return text


def _why(status: int) -> str:
    """Why a stage has failed, by its process's status; empty if it has not."""
    if status in (0, FAILED):
        return SOME_FAILED if status else ""
    if status > 0:
        return f"its process ended with status {status}"
    try:
        return f"its process was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"its process was ended by signal {-status}"


def _kill(process: subprocess.Popen[bytes]) -> bool:
    """End a process and all that it has started -> whether it has gone: one that waits for a driver may not."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # nobody is left
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return False
    return True
