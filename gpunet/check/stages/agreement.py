"""Runs every kernel instance on the device and on the emulated device, with the same inputs, and
compares the results.

If the emulated device itself is checked, its results are compared with those of the reference
backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from gpunet.backends import get_backend, why_unavailable
from gpunet.backends.cuda.backend import CudaBackend, recording_backend
from gpunet.check import reference
from gpunet.check.cases import Case, all_cases, variant
from gpunet.check.compare import difference, same_bits
from gpunet.check.stage import FailedError, NotApplicableError, Numbers, Stage
from gpunet.check.stages.compile import build_emulated, worker_count
from gpunet.cuda.instantiations import instantiations

Expect = Callable[[str], list[np.ndarray]]
"""Takes the name of a variant -> the results that it should give."""


def run(stage: Stage) -> None:
    """Run every case in each of its variants, twice."""
    launched: set[str] = set()
    count = 0
    for case, expect in _expected(stage):
        for name in case.variants:
            count += 1
            stage.check(f"{case.key}, {name}", _compared, stage.backend, case, name, expect, launched, show=False)
    stage.check("every listed instance agrees", _covered, launched, count)


def _expected(stage: Stage) -> Iterator[tuple[Case, Expect]]:
    """Each case with its expected results: from the file, from the emulated device, or else from
    the reference backend."""
    if stage.options.reference:
        for case, found in reference.cases_of(Path(stage.options.reference)):
            yield case, found.__getitem__
        return
    why = "" if stage.emulated else why_unavailable("emulated")
    if why:
        stage.check("comparison with the emulated device", _no_emulator, why)
    elif not stage.emulated:
        stage.check("the emulated device's kernels", _build_emulated)
    for case in all_cases():
        yield case, partial(_by_reference if stage.emulated or why else _by_emulator, case)


def _build_emulated() -> Numbers:
    """Build the emulated kernels on all cores. If each were built when a case first needs it, the
    stage would take too long."""
    files = list(instantiations())
    with ProcessPoolExecutor(worker_count(files), mp_context=get_context("spawn")) as pool:
        list(pool.map(build_emulated, files))
    return {"files": len(files)}


def _no_emulator(why: str) -> Numbers:
    raise NotApplicableError(
        f"{why}. So results are compared with those of the reference backend. To compare them with the emulated device's, "
        "pass --reference FILE.npz, which gpunet check --write-reference FILE.npz makes on another machine"
    )


def _by_reference(case: Case, _: str) -> list[np.ndarray]:
    return case.expected(get_backend("reference"))


def _by_emulator(case: Case, name: str) -> list[np.ndarray]:
    emulated = get_backend("emulated")
    assert isinstance(emulated, CudaBackend)
    return case.results(variant(emulated, name))


def _compared(backend: CudaBackend, case: Case, name: str, expect: Expect, launched: set[str]) -> Numbers:
    recorded, recording = recording_backend(variant(backend, name))
    first, second = case.results(recorded), case.results(recorded)
    kernels = sorted({launch.kernel for launch in recording.launches})
    launched.update(kernels)
    found = difference(first, expect(name))
    numbers = {
        "ulp": found.ulp, "error": found.error, "allowed": found.allowed, "same bits": same_bits(first, second),
        "kernels": kernels,
    }  # fmt: skip
    if not numbers["same bits"]:
        raise FailedError("two runs differ in their bits", numbers)
    if not found.passes:
        raise FailedError("the results differ by more than rounding", numbers)
    return numbers


def _covered(launched: set[str], count: int) -> Numbers:
    listed = {e for expressions in instantiations().values() for e in expressions}
    numbers = {"runs": count, "instances": len(listed & launched)}
    if missing := sorted(listed - launched):
        raise FailedError(f"no case launches {', '.join(missing)}", numbers)
    return numbers
