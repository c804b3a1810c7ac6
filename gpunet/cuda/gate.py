"""The compile-only gate: every kernel instance for every architecture, with no spill and no stack frame.

It finds on any machine what only a GPU would tell: what NVRTC refuses, what ptxas refuses for one architecture, and
registers that do not fit, which cost more than most mistakes and fail no test. What it found is kept by the hash of everything
that it follows from (source, instances, options, NVRTC, disassembler, this code), so only what has changed is compiled again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path

from gpunet.cuda import sass
from gpunet.cuda.instantiations import instantiations
from gpunet.nvrtc import cache as kept
from gpunet.nvrtc import compiler, source

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
    instructions: dict[str, int] = field(default_factory=dict)
    """How often each matrix and copy instruction stands in the machine code; empty without a disassembler."""
    error: str = ""

    @property
    def passes(self) -> bool:
        """Whether it compiles into registers alone."""
        return not (self.error or self.spills or self.stack)


def compile_all(architectures: Sequence[str] = ARCHITECTURES, *, files: Sequence[str] | None = None) -> Iterator[Row]:
    """Compile every listed instance that no earlier call has compiled, a file and architecture at a time, in one process a
    core.

    Args:
        files: only these `.cu` files; all if None.
    """
    jobs = list(product(files or instantiations(), architectures))
    left = [job for job in jobs if kept.find("gate", _name(*job)) is None]
    workers = max(min(len(left), os.cpu_count() or 1), 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        compiled = pool.map(_rows, left)
        for job in jobs:
            yield from next(compiled) if job in left else _rows(job)


def rows_of(file: str, architecture: str) -> list[Row]:
    """The rows of one file for one architecture, compiled in this process if no earlier call has."""
    return _rows((file, architecture))


def print_table(architectures: Sequence[str] = ARCHITECTURES) -> int:
    """Print a line an instance; the exit status is 1 if one does not compile, spills or has a stack frame."""
    failed = count = 0
    if why := sass.why_unavailable():
        print(f"Matrix and copy instructions are not listed: {why}")
    print(f"{'kernel':62} {'arch':7} {'registers':>9} {'shared B':>9} {'spills B':>9} {'stack B':>8}  instructions")
    for row in compile_all(architectures):
        count += 1
        failed += not row.passes
        mark = "" if row.passes else "  <- fails"
        if row.error:
            print(f"{row.kernel:62} {row.architecture:7}{mark}\n{row.error}")
        else:
            listed = "".join(f"  {name} x{times}" for name, times in row.instructions.items())
            print(
                f"{row.kernel:62} {row.architecture:7} {row.registers:9} {row.shared:9} "
                f"{row.spills:9} {row.stack:8}{mark}{listed}"
            )
    print(f"{count} instances, {failed} failed")
    return int(failed > 0)


def _rows(job: tuple[str, str]) -> list[Row]:
    """The rows of a file for an architecture: those that are kept, or new ones. Errors are not kept."""
    try:
        path = kept.keep("gate", _name(*job), lambda path: path.write_text(_compile(*job), encoding="utf-8"))
    except compiler.CompileError as error:
        file, architecture = job
        return [Row(file, file, architecture, error=str(error))]
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def _compile(file: str, architecture: str) -> str:
    compiled = compiler.compile(file, architecture, instantiations()[file])
    listed = {} if sass.why_unavailable() else sass.instructions(compiled.cubin)
    rows = [
        Row(
            file,
            e,
            architecture,
            used.registers,
            used.shared,
            used.spills,
            used.stack,
            listed.get(compiled.names[e], {}),
        )
        for e, used in compiled.resources.items()
    ]
    return json.dumps([asdict(row) for row in rows])


def _name(file: str, architecture: str) -> str:
    """Of the file of kept rows."""
    follows_from = (source.read(file), instantiations()[file], architecture, _tools())
    return f"{Path(file).stem}-{architecture}-{kept.digest(*follows_from)}.json"


@cache
def _tools() -> tuple[object, ...]:
    """What every row follows from besides its own source; the releases stand for the include folders."""
    code = [path.read_bytes() for path in map(Path, (compiler.__file__, sass.__file__))]
    columns = [column.name for column in fields(Row)]
    options = [option for option in compiler.options() if not option.startswith("-I")]
    return (code, columns, options, compiler.releases(), sass.why_unavailable() or sass.version())
