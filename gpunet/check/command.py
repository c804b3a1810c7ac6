"""The command ``gpunet check``: its options, and how a check is run."""

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
The stages, each of which has a process and a time limit of its own:
  environment  describe the device, the packages and the drivers
  compile      compile and load every kernel; none may need memory in addition to registers
  contract     try what gpunet relies on: arrays, launches, streams and graphs
  agreement    compare every kernel with the emulated device, up to rounding
  determinism  repeat kernels and training steps, and compare the bits of the results
  training     train a small net; captured steps and data on the device must make no difference
  speed        on a GPU: time copies, products and gpunet bench, beside PyTorch where it is installed

The exit status is 0 if nothing failed, 1 if something failed, 2 if the check could not begin.
"""


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``gpunet check``."""
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.epilog = STAGES
    add = parser.add_argument
    add(
        "--backend",
        metavar="NAME",
        help="cuda, cuda:1 or emulated; default: the GPU, or the emulated device where there is no GPU",
    )
    add(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="write record.jsonl and report.md here; default: runs/check-DATE-TIME",
    )
    add("--minutes", type=float, default=9.0, help="the time limit of all stages together; default: 9")
    add("--stages", nargs="+", choices=conductor.SHARES, metavar="NAME", help="run only these stages")
    add(
        "--reference",
        type=Path,
        metavar="FILE.npz",
        help="compare with the emulated device's results in this file, where this machine has no emulated device",
    )
    add(
        "--write-reference",
        type=Path,
        metavar="FILE.npz",
        help="check nothing, and write the emulated device's results to this file",
    )


def run(options: Namespace) -> int:
    """Check a device -> the exit status: 1 if anything failed."""
    if options.write_reference:
        written = reference.write(options.write_reference)
        print(f"written to {options.write_reference}: {written['cases']} cases, {written['MB']} MB")
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
        finally:  # also after Ctrl-C
            print(f"\n{report.summary(record.results())}\n")
            print(f"The results are in {record.path}, and a report is in {folder / report.FILE}.")
    return 0 if good else 1


def _backend(asked: str | None) -> tuple[str, str]:
    """(the device to check, why it is the emulated one if that was not asked for).

    This process only asks whether there is a device. A device that crashes must not end the
    conductor.
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
    """The record in the output folder, to which no other check writes at the same time."""
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
    """A folder that does not exist yet: in runs/ of the working folder, or a temporary one if runs/
    cannot be written to."""
    name, runs = f"check-{datetime.now():%Y%m%d-%H%M%S}", Path("runs")
    if not os.access(runs if runs.exists() else Path(), os.W_OK):
        return Path(tempfile.mkdtemp(prefix=f"gpunet-{name}-"))
    first = runs / name
    number, folder = 1, first
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder
