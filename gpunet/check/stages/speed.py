"""Measures speed: first what the device can do at most, then ``gpunet bench``, until the time of
the stage is up."""

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
"""The options of each ``gpunet bench``, and the rivals to compare with. The most important ones
come first; those that compile for a long time come late."""
ROUNDS = "4"
"""The value of ``--rounds``."""
RESERVE = 3.0
"""A running ``gpunet bench`` is ended this many seconds before the end of the stage."""
COPIED, SIDE, TIMES = 2**30, 4096, 20
"""The bytes of a copy, the rows and columns of a matrix product, and how often each is repeated."""
WARM_UP = 0.5
"""Seconds of work before a measurement, since the clock rate of an idle GPU is low."""
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
    """Measure until the time is up."""
    stage.check("ceiling: a copy from device to device", _copy, stage.backend)
    stage.check(f"ceiling: gpunet's product of {SIDE}x{SIDE} floats", _product, stage.backend)
    stage.check(
        f"ceiling: PyTorch's product of {SIDE}x{SIDE} floats", _torch_product, stage.options.backend, stage.left
    )
    free_unused(stage.backend.arrays)  # gpunet bench needs the memory in other processes
    for number, (bench, rivals) in enumerate(BENCHES):
        if stage.left < RESERVE:
            break
        _bench(stage, bench, rivals, Path(stage.options.output) / f"bench-{number}-{bench[0]}.json")


def _seconds(backend: CudaBackend, work: Callable[[], object]) -> float:
    """The mean seconds of a run, over `TIMES` runs, after `WARM_UP` seconds of work."""
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
    """PyTorch's product in float32 without TF32, which is its default, in a process of its own."""
    if find_spec("torch") is None:
        raise NotApplicableError("PyTorch is not installed")
    environment = {name: value for name, value in os.environ.items() if name != "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"}
    command = [sys.executable, "-c", PRODUCT, str(SIDE), backend_name, str(TIMES), str(WARM_UP)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=max(seconds, 1), check=True, env=environment
        )
    except subprocess.SubprocessError as error:  # gpunet has not failed if a rival has
        message = " ".join((getattr(error, "stderr", None) or str(error)).split())
        raise NotApplicableError(f"PyTorch fails: {message[-300:]}") from None
    numbers: Numbers = json.loads(done.stdout)
    if "why" in numbers:
        raise NotApplicableError(numbers["why"])
    return numbers


def _bench(stage: Stage, bench: tuple[str, ...], rivals: tuple[str, ...], output: Path) -> None:
    """Run one ``gpunet bench`` while there is time, and report each row when it is written.

    Its exit status is not looked at, since it is 1 also if only a rival has failed.
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
            ended = process.poll() is not None  # asked before the rows are read: none is missed
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
        printed_text = " ".join(log.read_text(encoding="utf-8").split())[-300:]
        error = f"{' '.join(command[2:])} ended with {process.returncode}: {printed_text}"
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
