"""Every listed kernel instance is compiled and loaded, and needs no memory beside registers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from itertools import islice
from multiprocessing import get_context
from time import monotonic

from gpunet.backends import get_backend
from gpunet.backends.cuda import CudaBackend
from gpunet.check.stage import FailedError, Numbers, Stage, say
from gpunet.cuda.gate import rows_of
from gpunet.cuda.instantiations import file_of, instantiations, is_narrow, module_of
from gpunet.cuda.nvrtc import Resources

ARCHITECTURE = "sm_80"
"""What the registers of an emulated device's kernels are counted for."""
MOST_PROCESSES = 8
"""Each has a context on the device."""

Compiled = tuple[dict[str, Resources], float]


def run(stage: Stage) -> None:
    """Compile modules, a process for each core, as far as that many are of use."""
    modules = list(dict.fromkeys(module_of(e) for expressions in instantiations().values() for e in expressions))
    modules.sort(key=len, reverse=True)
    workers = min(os.cpu_count() or 1, len(modules), MOST_PROCESSES)
    say(f"  {len(modules)} modules in {workers} processes: this takes minutes the first time, and seconds from then on")
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        left = {pool.submit(compile_module, stage.options.backend, module): _name(module) for module in modules}
        stage.note(_first(left.values(), workers))
        for future in as_completed(list(left)):
            took = 0.0 if future.exception() else future.result()[1]
            stage.check(left.pop(future), _summary, future, seconds=took)
            stage.note(_first(left.values(), workers))


def _first(names: Iterable[str], count: int) -> str:
    """Those that are being compiled: they are begun in their order."""
    return ", ".join(islice(names, count))


def compile_module(backend_name: str, module: tuple[str, ...]) -> Compiled:
    """(what each instance of a module takes, seconds): compiled, loaded and asked in this process."""
    start, backend = monotonic(), get_backend(backend_name)
    assert isinstance(backend, CudaBackend)
    if backend_name == "emulated":
        program = backend.launcher.program(module[0])  # type: ignore[attr-defined]
        for expression in module:
            program.compile(expression)
        listed = {row.kernel: row for row in rows_of(file_of(module[0]), ARCHITECTURE)}
        found = {e: Resources(*(getattr(listed[e], name) for name in Resources.__slots__)) for e in module}
    else:
        found = {e: backend.launcher.resources(e) for e in module}  # type: ignore[attr-defined]
    return found, monotonic() - start


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


def _name(module: tuple[str, ...]) -> str:
    """The file of a module, which may have one of 16 bits besides."""
    return f"{file_of(module[0])}{' in 16 bits' if is_narrow(module[0]) else ''}"
