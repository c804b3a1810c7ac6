"""``gpunet check``: its options, and what it does."""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime
from pathlib import Path

from gpunet.backends import why_unavailable
from gpunet.check import conductor, reference, report
from gpunet.check.record import BEGIN, Record, Result
from gpunet.check.stage import Options
from gpunet.errors import BackendError


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``gpunet check``."""
    add = parser.add_argument
    add("--backend", help="cuda, cuda:1 or emulated (default: the GPU, or the emulated device where there is none)")
    add("--output", type=Path, metavar="DIR", help="for record.jsonl and report.md (default: runs/check-DATE-TIME)")
    add("--minutes", type=float, default=9.0, help="that all stages together may take (default: 9)")
    add("--stages", nargs="+", choices=conductor.SHARES, metavar="NAME", help=f"some of {', '.join(conductor.SHARES)}")
    add(
        "--reference", type=Path, metavar="FILE.npz", help="what the emulated device gave, written by --write-reference"
    )
    add("--write-reference", type=Path, metavar="FILE.npz", help="write it, and do nothing else")


def run(options: Namespace) -> int:
    """Check -> exit status: 1 if anything failed."""
    if options.write_reference:
        said = reference.write(options.write_reference)
        print(f"written to {options.write_reference}: {said['cases']} cases, {said['MB']} MB")
        return 0
    if not options.minutes > 0:
        raise ValueError(f"check: --minutes is {options.minutes} but must be more than 0")
    if options.reference is not None and not options.reference.is_file():
        raise FileNotFoundError(f"check: --reference {options.reference} is not a file")
    backend = _backend(options.backend)
    folder = options.output or Path("runs") / f"check-{datetime.now():%Y%m%d-%H%M%S}"
    record = Record(folder)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    record.append(Result(BEGIN, backend, None, {"when": when, "command": shlex.join(["gpunet", *sys.argv[1:]])}))
    given = str(options.reference.resolve()) if options.reference else ""
    stages = conductor.stages_for(backend, options.stages or ())
    if not stages:
        raise ValueError(f"check: --stages {' '.join(options.stages)} does not apply to {backend}")
    good = conductor.run(stages, Options("", backend, str(folder), 0, given), options.minutes)
    results = record.results()
    print(f"\n{report.summary(results)}\n\nwritten to {record.path} and {report.write(folder, results)}")
    return 0 if good else 1


def _backend(asked: str | None) -> str:
    """The name of the device to check; where there is no GPU, the emulated one, and why it is that.

    Nothing is asked of a device in this process: one that hangs or crashes must not take the conductor with it.
    """
    if asked is None:
        why = why_unavailable("cuda")
        if why:
            print(f"No GPU is checked: {why}\nThe emulated device, which runs the same kernels on the CPU, is.\n")
        asked = "emulated" if why else "cuda"
    if asked.partition(":")[0] not in ("cuda", "emulated"):
        raise ValueError(f"check: --backend is {asked} but takes cuda, cuda:1 or emulated")
    if why := why_unavailable(asked):
        raise BackendError(why)
    return asked
