"""How fast: what the device can do at most, then rows of ``gpunet bench``, the most important ones first, until time is up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any

import numpy as np

from gpunet.backends.cuda.backend import CudaBackend
from gpunet.check.record import Result
from gpunet.check.stage import NotApplicableError, Numbers, Stage
from gpunet.cuda.capture import free_unused

EAGER = ("torch-eager", "torch-benchmark", "torch-channels-last")
CAPTURED = (*EAGER, "torch-channels-last-graph")
COMPILED = ("torch-compile", "torch-graph")
BENCHES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("step", "--nets", "lenet", "cnn"), CAPTURED),
    (("conv", "--nets", "cnn", "56x56", "--batch", "128"), EAGER),
    (("ops",), ()),
    (("layers", "--batch", "64"), EAGER),
    (("step", "--nets", "resnet9"), CAPTURED),
    (("conv", "--nets", "lenet"), EAGER),
    (("step", "--nets", "lenet", "cnn", "resnet9", "--precision", "bfloat16"), CAPTURED),
    (("step", "--nets", "lenet", "cnn", "resnet9"), COMPILED),
    (("step", "--nets", "vgg11", "speedrun"), CAPTURED),
)
"""Kinds with their options, and PyTorch's ways to compare with: the most important ones first, last what compiles for long."""
ROUNDS = "4"
RESERVE = 3.0
"""Seconds before the end of the stage at which a running bench is ended."""
COPIED, SIDE, TIMES = 2**30, 4096, 20
"""Bytes of a copy, rows and columns of a product, and how often each is repeated."""
WARM_UP = 0.5
"""Seconds of work before a measurement: an idle GPU's clocks are low."""
PRODUCT = """
import json, sys, time, torch
if not torch.cuda.is_available():
    sys.exit(print(json.dumps({"why": f"PyTorch {torch.__version__} finds no GPU"})))
side, device, times, warm_up = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
a = torch.randn(side, side, device=device)
start = time.perf_counter()
while time.perf_counter() - start < warm_up:
    a @ a
    torch.cuda.synchronize(device)
start = time.perf_counter()
for _ in range(times):
    a @ a
torch.cuda.synchronize(device)
print(json.dumps({"TFLOP/s": 2e-12 * times * side**3 / (time.perf_counter() - start), "torch": torch.__version__}))
"""


def run(stage: Stage) -> None:
    """Measure until time is up."""
    stage.check("ceiling: a copy from device to device", _copy, stage.backend)
    stage.check(f"ceiling: gpunet's product of {SIDE}x{SIDE} floats", _product, stage.backend)
    stage.check(
        f"ceiling: PyTorch's product of {SIDE}x{SIDE} floats", _torch_product, stage.options.backend, stage.left
    )
    free_unused(stage.backend.arrays)  # the benches are other processes
    for number, (bench, rivals) in enumerate(BENCHES):
        if stage.left < RESERVE:
            break
        _bench(stage, bench, rivals, Path(stage.options.output) / f"bench-{number}-{bench[0]}.json")


def _seconds(backend: CudaBackend, work: Callable[[], object]) -> float:
    """Seconds of one run, averaged over `TIMES` runs, after as many seconds of work as the clocks take to rise."""
    start = perf_counter()
    while perf_counter() - start < WARM_UP:
        work()
        backend.synchronize()
    start = perf_counter()
    for _ in range(TIMES):
        work()
    backend.synchronize()
    return (perf_counter() - start) / TIMES


def _copy(backend: CudaBackend) -> Numbers:
    free, _ = backend.arrays.cupy.cuda.runtime.memGetInfo()  # type: ignore[attr-defined]
    size = min(COPIED, free // 8)
    source, target = (backend.full((size // 4,), value, np.float32) for value in (1.0, 2.0))
    seconds = _seconds(backend, lambda: target.data.copy_from_device_async(source.data, source.nbytes))
    own = _seconds(backend, lambda: backend.copy(source, out=target))
    moved = 2e-9 * source.nbytes
    return {"GB/s read and written": moved / seconds, "gpunet's copy kernel, GB/s": moved / own}


def _product(backend: CudaBackend) -> Numbers:
    rng = np.random.default_rng(0)
    a, b = (backend.asarray(rng.normal(size=(SIDE, SIDE)).astype(np.float32)) for _ in range(2))
    return {"TFLOP/s": 2e-12 * SIDE**3 / _seconds(backend, lambda: backend.matmul(a, b))}


def _torch_product(backend_name: str, seconds: float) -> Numbers:
    """In float32 without TF32, which PyTorch's products are if nothing asks for more, and in a process of its own."""
    if find_spec("torch") is None:
        raise NotApplicableError("PyTorch is not installed")
    environment = {name: value for name, value in os.environ.items() if name != "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"}
    command = [sys.executable, "-c", PRODUCT, str(SIDE), backend_name, str(TIMES), str(WARM_UP)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=max(seconds, 1), check=True, env=environment
        )
    except subprocess.SubprocessError as error:  # a rival's failure is not gpunet's
        said = " ".join((getattr(error, "stderr", None) or str(error)).split())
        raise NotApplicableError(f"PyTorch fails: {said[-300:]}") from None
    numbers: Numbers = json.loads(done.stdout)
    if "why" in numbers:
        raise NotApplicableError(numbers["why"])
    return numbers


def _bench(stage: Stage, bench: tuple[str, ...], rivals: tuple[str, ...], output: Path) -> None:
    """Run a bench, reporting each row as it is written, and end it when time is up.

    It ends with 1 also where just a rival has failed, which is not gpunet's fault.
    """
    kind, *options = bench
    command = [sys.executable, "-m", "gpunet", "bench", kind, *options, "--backend", stage.options.backend]
    command += ["--rounds", ROUNDS, "--output", str(output)]
    if rivals and find_spec("torch") is not None:
        command += ["--against", *rivals]
    output.unlink(missing_ok=True)
    log = output.with_suffix(".log")
    with log.open("w", encoding="utf-8") as printed:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT)
        reported, since = 0, monotonic()
        while True:
            ended = process.poll() is not None  # before the look at its rows, so that none is missed
            record = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {"rows": []}
            rows = record["rows"]
            for row in rows[reported:]:
                _report(stage, kind, row, monotonic() - since)
                since = monotonic()
            reported = len(rows)
            if ended or stage.left < RESERVE:
                break
            sleep(0.2)
        process.kill()
        process.wait()
    if ended and not record.get("finished"):
        said = " ".join(log.read_text(encoding="utf-8").split())[-300:]
        error = f"{' '.join(command[2:])} ended with {process.returncode}: {said}"
        stage.report(Result(stage.options.stage, " ".join(bench), False, error=error))


def _report(stage: Stage, kind: str, row: dict[str, Any], seconds: float) -> None:
    numbers: dict[str, Any] = {}
    for name, times in row["times"].items():
        numbers[f"{name}, ms"] = times.get("median_ms", "failed" if "error" in times else "not measured")
    own = row["times"]["gpunet"]
    error = own.get("error", own.get("not_measured", ""))
    ok = None if "not_measured" in own else not error
    what = f"{kind}: {' '.join(map(str, row['case'].values()))}"
    stage.report(Result(stage.options.stage, what, ok, {**numbers, "row": row}, round(seconds, 1), error))
