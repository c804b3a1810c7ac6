"""``gpunet check`` on CuPy, as on a GPU, but with the stand-in for CUDA."""

import json
from concurrent.futures import Future
from itertools import islice

import pytest
from standin.install import why_impossible

from gpunet.bench import cli
from gpunet.check import reference
from gpunet.check.record import END
from gpunet.check.stage import FailedError
from gpunet.check.stages import speed
from gpunet.check.stages.compile import _summary
from gpunet.nvrtc.compiler import Resources

pytestmark = pytest.mark.skipif(bool(why_impossible()), reason=why_impossible())


def by_stage(results, stage):
    return [r for r in results if r.stage == stage and r.what != END]


def test_what_gpunet_relies_on_holds_for_cupy(checks):
    stages = ["environment", "compile", "contract", "determinism", "training"]
    few = "sampled:compile few:determinism"
    status, printed, results = checks.run("--stages", *stages, "--minutes", 20, backend="cuda", fault=few)
    assert status == 0, printed
    assert [r.stage for r in results if r.what == END] == stages
    environment = {r.what: r.numbers for r in by_stage(results, "environment")}
    assert environment["memory, MiB"]["total"] > environment["memory, MiB"]["used"]
    assert environment["compiler and headers"]["headers"]
    registers = [r.numbers["registers"] for r in by_stage(results, "compile")]
    assert sum(map(len, registers)) > 400
    assert len(by_stage(results, "determinism")) == 5
    contract = {r.what: r.numbers for r in by_stage(results, "contract")}
    assert contract["20 recorders made and dropped leave memory as it was"]["bytes more than before"] < 2**20


def test_rows_of_gpunet_bench_are_recorded_in_order_as_they_are_made(checks):
    status, printed, results = checks.run("--stages", "speed", "--minutes", 3, backend="cuda", fault="small:speed")
    assert status == 0, printed
    found = by_stage(results, "speed")
    assert [r.what.split(":")[0] for r in found[:2]] == ["ceiling", "ceiling"]
    assert found[0].numbers["GB/s read and written"] > 0
    rows = [r for r in found if "row" in r.numbers]
    assert [r.what for r in rows] == ["step: lenet 2", "ops: sgd 1000", "step: lenet 2"]
    assert all(r.numbers["gpunet, ms"] > 0 for r in rows)
    assert rows[1].numbers["copy, ms"] > 0
    record = json.loads((checks.folder / "bench-0-step.json").read_text())
    assert record["rows"] == [rows[0].numbers["row"]]


def test_a_bench_that_measures_nothing_is_a_failure_and_the_next_one_runs(checks):
    status, _, results = checks.run("--stages", "speed", "--minutes", 3, backend="cuda", fault="fails:speed")
    assert status == 1
    *_, failed, row = by_stage(results, "speed")
    assert failed.what == "step --nets nonsense"
    assert "nonsense" in failed.error
    assert row.what == "step: lenet 2"


def test_a_reference_file_is_what_a_gpu_is_compared_with(checks, tmp_path, monkeypatch):
    every, path = reference.all_cases, tmp_path / "reference.npz"
    monkeypatch.setattr(reference, "all_cases", lambda: islice(every(), 0, None, 6))
    assert reference.write(path)["MB"] < 48
    asked = "--stages", "agreement", "--minutes", 12, "--reference", path
    status, printed, results = checks.run(*asked, backend="cuda", fault="a_sixth:agreement")
    assert status == 0, printed
    agreed = [r for r in by_stage(results, "agreement") if "kernels" in r.numbers]
    assert len({kernel for r in agreed for kernel in r.numbers["kernels"]}) > 150
    assert all(r.numbers["ulp"] == 0 for r in agreed)  # the stand-in runs the very same machine


@pytest.mark.parametrize(("bench", "rivals"), speed.BENCHES, ids=str)
def test_the_speed_stage_runs_valid_commands(bench, rivals, monkeypatch):
    asked = []
    kinds = {name: (module, what) for name, (module, what) in cli.KINDS.items()}
    monkeypatch.setattr(kinds[bench[0]][0], "run", lambda options: asked.append(options) or 0)
    against = ["--against", *rivals] if rivals else []
    assert cli.main([*bench, "--backend", "cuda", "--rounds", speed.ROUNDS, "--output", "a.json", *against]) == 0
    assert asked[0].kind == bench[0]


def test_kernels_that_use_local_memory_are_named():
    future = Future()
    future.set_result(({"fill<float>": Resources(12, 0, 0, 0), "take<half>": Resources(40, 0, 8, 16)}, 1.0))
    with pytest.raises(FailedError, match=r"these use local memory: take<half>"):
        _summary(future)
