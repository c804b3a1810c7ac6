"""Compiles and loads every listed kernel instance, none of which may need memory in addition to
registers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sized
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from itertools import islice
from multiprocessing import get_context
from time import monotonic

from gpunet.backends import get_backend
from gpunet.backends.cuda.backend import CudaBackend
from gpunet.check.stage import FailedError, Numbers, Stage, print_line
from gpunet.cuda.gate import rows_of
from gpunet.cuda.instantiations import instantiations
from gpunet.nvrtc.compiler import CompileError, Resources

ARCHITECTURE = "sm_90"
"""The architecture for which the registers of an emulated device's kernels are counted."""
MOST_PROCESSES = 8
"""The most processes that compile at once, since each of them has a context on the device."""

Compiled = tuple[dict[str, Resources], float]
"""The resources of each instance of a file, and the seconds that the file took."""


def run(stage: Stage) -> None:
    """Compile the files, those with the most instances first."""
    files = sorted(instantiations(), key=lambda file: -len(instantiations()[file]))
    workers = worker_count(files)
    print_line(
        f"  {len(files)} files in {workers} processes: this takes minutes the first time, and seconds from then on"
    )
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        left = {pool.submit(compile_file, stage.options.backend, file): file for file in files}
        stage.note_running(_first_names(left.values(), workers))
        for future in as_completed(list(left)):
            took = 0.0 if future.exception() else future.result()[1]
            stage.check(left.pop(future), _summary, future, seconds=took)
            stage.note_running(_first_names(left.values(), workers))


def worker_count(jobs: Sized) -> int:
    """The number of processes: one for each core, but no more than there are jobs."""
    return max(min(os.cpu_count() or 1, len(jobs), MOST_PROCESSES), 1)


def _first_names(names: Iterable[str], count: int) -> str:
    """The names of the files that are being compiled: the first ones, since files are started in
    their order."""
    return ", ".join(islice(names, count))


def compile_file(backend_name: str, file: str) -> Compiled:
    """Compile and load the instances of a file in this process -> their resources, and the seconds
    that it took."""
    start = monotonic()
    if backend_name == "emulated":
        build_emulated(file)
        rows = {row.kernel: row for row in rows_of(file, ARCHITECTURE)}
        if any(row.error for row in rows.values()):
            raise CompileError("; ".join(row.error for row in rows.values()))
        found = {e: Resources(row.registers, row.shared, row.spills, row.stack) for e, row in rows.items()}
    else:
        backend = get_backend(backend_name)
        assert isinstance(backend, CudaBackend)
        found = {e: backend.launcher.resources(e) for e in instantiations()[file]}  # type: ignore[attr-defined]
    return found, monotonic() - start


def build_emulated(file: str) -> None:
    """Build the instances of a file for the emulated device, unless its cache holds them."""
    backend = get_backend("emulated")
    assert isinstance(backend, CudaBackend)
    for expression in instantiations()[file]:
        backend.launcher.program(expression).compile(expression)  # type: ignore[attr-defined]


def _summary(future: Future[Compiled]) -> Numbers:
    found, _ = future.result()
    local = {e: used.spills + used.stack for e, used in found.items() if used.spills + used.stack}
    numbers = {
        "instances": len(found), "most registers": max(used.registers for used in found.values()),
        "local bytes": sum(local.values()),
        "registers": {e: used.registers for e, used in found.items()},
    }  # fmt: skip
    if local:
        raise FailedError(f"these use local memory: {', '.join(local)}", numbers)
    return numbers
