"""The gate: every kernel instance must compile for every architecture, without spills.

It needs no GPU to find what otherwise only a GPU shows: sources that NVRTC refuses, instances that
ptxas refuses for one architecture, and registers that do not fit. Spilled registers cost more speed
than most mistakes, and no test fails because of them. The results are cached by the hash of
everything that they depend on (source, instances, options, NVRTC, disassembler, this code), so only
what has changed is compiled again.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from itertools import product
from multiprocessing import get_context
from pathlib import Path

from gpunet import cache
from gpunet.cuda import sass
from gpunet.cuda.instantiations import instantiations, is_mma, module_of
from gpunet.cuda.tile_lists import LEAST_ARCHITECTURE
from gpunet.nvrtc import compiler, source
from gpunet.progress import turn_off, write_line

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")


@dataclass(frozen=True, slots=True)
class GateRow:
    """The result for an instance and architecture, or the `error` of a file."""

    file: str
    kernel: str
    architecture: str
    registers: int = 0
    shared: int = 0
    """Static shared memory, in bytes."""
    spills: int = 0
    """Bytes spilled and reloaded."""
    stack: int = 0
    """The stack frame, in bytes."""
    instructions: dict[str, int] = field(default_factory=dict)
    """The count of each matrix and copy instruction; empty without a disassembler."""
    error: str = ""

    @property
    def passes(self) -> bool:
        """Whether the instance compiles, with all variables in registers."""
        return not (self.error or self.spills or self.stack)


def compile_all(
    architectures: Sequence[str] = ARCHITECTURES, *, files: Sequence[str] | None = None
) -> Iterator[GateRow]:
    """Compile every listed instance, and yield its row.

    Files that are not in the cache are compiled for each architecture in one process per core.

    Args:
        files: the `.cu` files; all if None.
    """
    jobs = list(product(files or instantiations(), architectures))
    left = [job for job in jobs if cache.find("gate", _name(*job)) is None]
    workers = max(min(len(left), os.cpu_count() or 1), 1)
    if left:
        write_line(f"compiling {len(left)} of {len(jobs)} files, {workers} at a time; the rest is in the cache")
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=turn_off) as pool:
        compiled = pool.map(rows_of, [file for file, _ in left], [architecture for _, architecture in left])
        for job in jobs:
            yield from next(compiled) if job in left else rows_of(*job)


def print_table(architectures: Sequence[str] = ARCHITECTURES) -> int:
    """Print a line per instance -> the exit status: 1 if one does not pass."""
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
            used = f"{row.registers:9} {row.shared:9} {row.spills:9} {row.stack:8}"
            print(f"{row.kernel:62} {row.architecture:7} {used}{mark}{listed}")
    print(f"{count} instances, {failed} failed")
    return int(failed > 0)


def rows_of(file: str, architecture: str) -> list[GateRow]:
    """Return the rows of a file for an architecture, cached or compiled in this process."""

    def make(path: Path) -> None:
        path.write_text(_compile(file, architecture), encoding="utf-8")

    try:
        path = cache.keep("gate", _name(file, architecture), make)
    except compiler.CompileError as error:  # errors are not cached
        return [GateRow(file, file, architecture, error=str(error))]
    return [GateRow(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def _compile(file: str, architecture: str) -> str:
    """Compile the instances of a file as the launcher does: what one takes depends on its neighbours."""
    rows: dict[str, GateRow] = {}
    for module in _modules(file, architecture):
        compiled = compiler.compile(file, architecture, module)
        listed = {} if sass.why_unavailable() else sass.instructions(compiled.cubin)
        for e, used in compiled.resources.items():
            instructions = listed.get(compiled.names[e], {})
            rows[e] = GateRow(file, e, architecture, **asdict(used), instructions=instructions)
    return json.dumps([asdict(rows[e]) for e in _instances(file, architecture)])


def _instances(file: str, architecture: str) -> tuple[str, ...]:
    """Return the instances of a file that an architecture runs."""
    has_all = int(architecture.removeprefix("sm_")) >= LEAST_ARCHITECTURE
    return tuple(e for e in instantiations()[file] if has_all or not is_mma(e))


def _modules(file: str, architecture: str) -> tuple[tuple[str, ...], ...]:
    """Return the instances of a file for an architecture, by what is compiled together."""
    return tuple(dict.fromkeys(map(module_of, _instances(file, architecture))))


def _name(file: str, architecture: str) -> str:
    """Return the name of the cached file with the rows of a file for an architecture."""
    depends_on = (source.read(file), _modules(file, architecture), architecture, _tools())
    return f"{Path(file).stem}-{architecture}-{cache.digest(*depends_on)}.json"


@functools.cache
def _tools() -> tuple[object, ...]:
    """Return what every row depends on besides its source; releases stand for headers."""
    code = [path.read_bytes() for path in map(Path, (__file__, compiler.__file__, sass.__file__))]
    columns = [column.name for column in fields(GateRow)]
    options = [option for option in compiler.options() if not option.startswith("-I")]
    return (code, columns, options, compiler.releases(), sass.why_unavailable() or sass.version())
