"""``gpunet check``: its options, and what it does."""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path

from gpunet.backends import why_unavailable
from gpunet.check import conductor, reference, report
from gpunet.check.record import BEGIN, Record, Result
from gpunet.check.stage import Options
from gpunet.errors import BackendError

LEAST_MINUTES = 0.1
STAGES = """\
The stages, each in a process and with a time limit of its own:
  environment  what the device is, and the versions around it
  compile      every kernel is compiled and loaded, and needs no memory beside registers
  contract     what gpunet believes of arrays, launches, streams and graphs holds
  agreement    every kernel gives what it gives on the emulated device, up to rounding
  determinism  repeated runs give the same bits
  training     a small net learns, and captured steps, data on the device and repetition make no difference
  speed        on a GPU: copies, products and gpunet bench, beside PyTorch where it is installed

The exit status is 0 if nothing failed, 1 if something did, 2 if the check could not begin.
"""


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``gpunet check``."""
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.epilog = STAGES
    add = parser.add_argument
    add(
        "--backend",
        metavar="NAME",
        help="cuda, cuda:1 or emulated; the GPU, or the emulated device where there is none",
    )
    add("--output", type=Path, metavar="DIR", help="where record.jsonl and report.md go; default runs/check-DATE-TIME")
    add("--minutes", type=float, default=9.0, help="the time for all stages together; default 9")
    add("--stages", nargs="+", choices=conductor.SHARES, metavar="NAME", help="run only these")
    add("--reference", type=Path, metavar="FILE.npz", help="compare with the emulated device's results in this file")
    add("--write-reference", type=Path, metavar="FILE.npz", help="only write such a file, on the emulated device")


def run(options: Namespace) -> int:
    """Check -> exit status: 1 if anything failed."""
    if options.write_reference:
        said = reference.write(options.write_reference)
        print(f"written to {options.write_reference}: {said['cases']} cases, {said['MB']} MB")
        return 0
    if not (isfinite(options.minutes) and options.minutes >= LEAST_MINUTES):
        raise ValueError(f"--minutes is {options.minutes} but must be at least {LEAST_MINUTES}")
    if options.reference is not None:
        reference.check(options.reference)
    backend, instead = _backend(options.backend)
    stages = conductor.stages_for(backend, options.stages or ())
    if not stages:
        raise ValueError("--stages names speed alone, which is measured on a GPU only")
    given = str(options.reference.resolve()) if options.reference else ""
    with _folder(options.output) as record:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        command = shlex.join(["gpunet", *sys.argv[1:]])
        record.append(Result(BEGIN, backend, None, {"when": when, "command": command, "instead of a GPU": instead}))
        folder = record.path.parent
        try:
            good = conductor.run(stages, Options("", backend, str(folder), 0, given), options.minutes)
        finally:  # also when the user interrupts
            print(f"\n{report.summary(record.results())}\n")
            print(f"The results are in {record.path}, and a report is in {folder / report.FILE}.")
    return 0 if good else 1


def _backend(asked: str | None) -> tuple[str, str]:
    """(the device to check, why it is the emulated one if nobody asked for that).

    This process asks no more of a device than whether it is there: one that crashes must not take the conductor along.
    """
    if asked is not None:
        if re.fullmatch(r"cuda(:\d+)?|emulated", asked) is None:
            raise ValueError(f"--backend is {asked} but takes cuda, cuda:1 or emulated")
        if why := why_unavailable(asked):
            raise BackendError(why)
        return asked, ""
    why = why_unavailable("cuda")
    if not why:
        return "cuda", ""
    if why_here := why_unavailable("emulated"):
        raise BackendError(f"there is nothing to check. For a GPU: {why}. For the emulated device: {why_here}")
    print(
        f"No GPU can be checked: {why}.\nInstead, the emulated device is checked, which runs the same kernels on the CPU.\n"
    )
    return "emulated", why


@contextmanager
def _folder(asked: Path | None) -> Iterator[Record]:
    """The record of the output folder, which is this check's alone."""
    folder = asked or _new_folder()
    with ExitStack() as stack:
        try:
            record = Record(folder)
            stack.enter_context(record.claimed())
        except BlockingIOError:
            raise ValueError(f"--output {folder} is in use by another gpunet check") from None
        except OSError as error:
            raise ValueError(f"--output {folder} cannot be written to: {error.strerror}") from None
        yield record


def _new_folder() -> Path:
    """One that is not there yet: in runs/ of the working folder, or a temporary one where that cannot be written to."""
    name, runs = f"check-{datetime.now():%Y%m%d-%H%M%S}", Path("runs")
    if not os.access(runs if runs.exists() else Path(), os.W_OK):
        return Path(tempfile.mkdtemp(prefix=f"gpunet-{name}-"))
    first = runs / name
    number, folder = 1, first
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder
