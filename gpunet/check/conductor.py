"""Runs the stages, each in a process of its own and with its own time limit, and goes on if one of
them fails or hangs."""

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
from gpunet.check.stage import Options, print_line, result_line, running_file

SHARES = {
    "environment": 5, "compile": 120, "contract": 10, "agreement": 15, "determinism": 15, "training": 15, "speed": 30,
}  # fmt: skip
"""The stages in their order, and their shares of the time. Time that a stage does not need is
shared by the later ones."""
GPU_ONLY = ("speed",)
"""Stages that are left out for the emulated device."""
PATIENCE = 10.0
"""Seconds in which a process must end after it is killed."""


def stages_for(backend: str, chosen: Sequence[str] = ()) -> list[str]:
    """The stages that apply to a backend, in their order; only those in `chosen`, if any."""
    return [
        name for name in SHARES if (not chosen or name in chosen) and not (backend == "emulated" and name in GPU_ONLY)
    ]


def run(stages: Sequence[str], options: Options, minutes: float) -> bool:
    """Run stages one after another -> whether nothing failed.

    Args:
        options: the options of all stages, to which `stage` and `seconds` are added here.
        minutes: the time limit of all stages together.
    """
    record, end, good = Record(Path(options.output)), monotonic() + 60 * minutes, True
    for i, name in enumerate(stages):
        share = SHARES[name] / sum(SHARES[later] for later in stages[i:])
        seconds = max(end - monotonic(), 0) * share
        print_line(f"{name} (at most {seconds:.0f} s)")
        try:
            result = run_stage(replace(options, stage=name, seconds=seconds))
        except KeyboardInterrupt:
            _end(record, Result(name, END, None, error="it was interrupted"))
            raise
        _end(record, result)
        good = good and result.ok is True
        if result.error not in ("", SOME_FAILED):
            print_line(result_line(result))
    return good


def _end(record: Record, result: Result) -> None:
    """Record how a stage ended, and write the report of all results so far."""
    record.mend()
    record.append(result)
    report.write(record.path.parent, record.results())


def run_stage(options: Options) -> Result:
    """Run the process of one stage to its end, or to its time limit -> how it ended."""
    start, folder = monotonic(), Path(options.output)
    process = subprocess.Popen(command(options), stdin=subprocess.PIPE, start_new_session=True)
    try:
        error = _why_failed(process.wait(timeout=options.seconds))
    except subprocess.TimeoutExpired:
        error = f"it did not end within {options.seconds:.0f} s"
    finally:  # also after Ctrl-C
        ended = _kill(process)
        running = _read_and_delete(running_file(folder, options.stage))
    if running and error not in ("", SOME_FAILED):
        error += f", while it looked at: {running}"
    if not ended:
        error += "; its process could not be ended, and may hold the device"
    return Result(options.stage, END, not error, {}, round(monotonic() - start, 3), error)


def _read_and_delete(file: Path) -> str:
    """The text of a file, which is deleted; empty if there is no such file."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    file.unlink(missing_ok=True)
    return text


def _why_failed(status: int) -> str:
    """Why a stage has failed, by the exit status of its process; empty if it has not."""
    if status in (0, FAILED):
        return SOME_FAILED if status else ""
    if status > 0:
        return f"its process ended with status {status}"
    try:
        return f"its process was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"its process was ended by signal {-status}"


def _kill(process: subprocess.Popen[bytes]) -> bool:
    """Kill a process and all that it has started -> whether it has ended: one that waits for a
    driver may not."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # all of them have ended
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
