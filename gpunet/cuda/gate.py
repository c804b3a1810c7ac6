"""The compile-only gate: every kernel instance for every architecture, with no spill and no stack frame.

It finds on any machine what only a GPU would tell: what NVRTC refuses, what ptxas refuses for one architecture, and
registers that do not fit, which cost more than most mistakes and fail no test.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context

from gpunet.cuda import nvrtc
from gpunet.cuda.instantiations import instantiations

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")


@dataclass(frozen=True, slots=True)
class Row:
    """One instance on one architecture; with an `error`, a whole file and no figures."""

    file: str
    kernel: str
    architecture: str
    registers: int = 0
    shared: int = 0
    """Bytes of static shared memory."""
    spills: int = 0
    """Bytes spilled and reloaded."""
    stack: int = 0
    """Bytes of stack frame."""
    error: str = ""

    @property
    def passes(self) -> bool:
        """Whether it compiles into registers alone."""
        return not (self.error or self.spills or self.stack)


def compile_all(architectures: Sequence[str] = ARCHITECTURES, *, files: Sequence[str] | None = None) -> Iterator[Row]:
    """Compile every listed instance, a file and architecture at a time, in one process a core.

    Args:
        files: only these `.cu` files; all if None.
    """
    listed = instantiations()
    jobs = list(product(files or listed, architectures))
    workers = min(len(jobs), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for rows in pool.map(_compile, jobs):
            yield from rows


def print_table(architectures: Sequence[str] = ARCHITECTURES) -> int:
    """Print a line an instance; the exit status is 1 if one does not compile, spills or has a stack frame."""
    failed = count = 0
    print(f"{'kernel':62} {'arch':7} {'registers':>9} {'shared B':>9} {'spills B':>9} {'stack B':>8}")
    for row in compile_all(architectures):
        count += 1
        failed += not row.passes
        mark = "" if row.passes else "  <- fails"
        if row.error:
            print(f"{row.kernel:62} {row.architecture:7}{mark}\n{row.error}")
        else:
            print(
                f"{row.kernel:62} {row.architecture:7} {row.registers:9} {row.shared:9} "
                f"{row.spills:9} {row.stack:8}{mark}"
            )
    print(f"{count} instances, {failed} failed")
    return int(failed > 0)


def _compile(job: tuple[str, str]) -> list[Row]:
    file, architecture = job
    expressions = instantiations()[file]
    try:
        compiled = nvrtc.compile(file, architecture, expressions)
    except nvrtc.CompileError as error:
        return [Row(file, file, architecture, error=str(error))]
    return [
        Row(file, e, architecture, used.registers, used.shared, used.spills, used.stack)
        for e, used in compiled.resources.items()
    ]
